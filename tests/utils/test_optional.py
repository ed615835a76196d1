"""Packages that are imported where they are used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.files import ROOT
from utils.optional import check_all_installed, require


def test_an_absent_package_gives_its_command() -> None:
    with pytest.raises(UserError, match=r"^this needs the package nowhere: pip install some-name$"):
        require("nowhere.part", "some-name")


# what a native module makes of Ctrl-C in its initialisation
INTERRUPTED = """
try:
    raise KeyboardInterrupt
except KeyboardInterrupt as error:
    raise ImportError("initialization failed") from error
"""


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise ImportError('libfoo.so: cannot open')", UserError),
        (INTERRUPTED, KeyboardInterrupt),
    ],
)
def test_a_package_that_fails(
    source: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing_package.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(error):
        require("failing_package", "failing")


def test_runtimes_do_not_tell_their_makers(tmp_path: Path) -> None:
    """ONNX Runtime leaves the identifier of a session in the temporary folder when it means to report."""
    pytest.importorskip("onnxruntime")
    script = "from utils.optional import require; require('onnxruntime', 'onnxruntime').SessionOptions()"
    environment = {"PATH": "", "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_all_that_are_missing_are_named_at_once() -> None:
    wanted = {"nowhere.deep": "some-name", "json": "json", "elsewhere": "other"}
    with pytest.raises(
        UserError, match=r"^this needs the packages nowhere, elsewhere: pip install some-name other$"
    ):
        check_all_installed(wanted)
    check_all_installed({"json": "json"})
