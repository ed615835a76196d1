"""Running export.py in tests, and looking at what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

import export
from utils.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime")


def call(weights: Path, *flags: str) -> None:
    export.main(["--weights", str(weights), *flags])


def refusal(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    """The one line that export.py ends with, which the parser writes or `run_command`."""
    with pytest.raises((UserError, SystemExit)) as caught:
        export.main(flags)
    if isinstance(caught.value, UserError):
        assert "\n" not in str(caught.value)
        return str(caught.value)
    error = capsys.readouterr().err
    assert caught.value.code == 2 and error.count("\n") == 1
    return error


def left(weights: Path) -> set[str]:
    """Names of everything beside the weights, hidden files too."""
    return {file.name for file in weights.parent.iterdir()} - {weights.name}


def session(weights: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(weights.with_suffix(".onnx")))
