"""Completion in a real bash: what TAB offers, alone and behind `python`, without a Python process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training_runs import ROOT
from training.config import TrainConfig
from utils.errors import UserError
from utils.flags import parse_flags, run_subcommand

# what readline does on TAB: the function that is registered for the first word fills COMPREPLY
TAB = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
how=$(complete -p -- "$1")
[[ $how == *"-o default"* ]] || echo "no files: $how"
PATH=/nowhere  # no program may be started
[[ $how =~ -F\\ ([^ ]+) ]] && "${BASH_REMATCH[1]}" "$1" "${@: -1}" "${@: -2:1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `train.py` and `dataset.py` print for bash, one after the other as in a .bashrc."""
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    path = tmp_path_factory.mktemp("completion") / "lean5.bash"
    texts = []
    for command in ("train.py", "dataset.py"):
        words = [sys.executable, command, "--print-completion", "bash"]
        ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        texts.append(ended.stdout)
    path.write_text("".join(texts), encoding="utf-8")
    return path


def offered(script: Path, *words: str) -> list[str]:
    bash = str(shutil.which("bash"))
    ended = subprocess.run(
        [bash, "--norc", "-c", TAB, "bash", str(script), *words], capture_output=True, text=True, cwd="/"
    )
    assert ended.returncode == 0 and not ended.stderr, ended.stderr
    return sorted(ended.stdout.split())


@pytest.mark.parametrize("before", [("train.py",), ("python", "train.py"), ("python3", "-u", "./train.py")])
def test_flags_and_their_values(before: tuple[str, ...], script: Path) -> None:
    assert offered(script, *before, "--we") == ["--weights"]
    assert offered(script, *before, "--teacher") == ["--teacher", "--teacher-weight"]
    assert offered(script, *before, "--optimizer", "A") == ["Adam", "AdamW"]
    assert offered(script, *before, "--epochs", "3", "--loggers", "mlflow", "te") == ["tensorboard"]
    assert offered(script, *before, "--weights", "b") == []  # then bash offers files


def test_subcommands_have_flags_of_their_own(script: Path) -> None:
    assert offered(script, "python", "dataset.py", "spl") == ["split"]
    assert "--ratios" in offered(script, "python", "dataset.py", "split", "--r")
    assert "--ratios" not in offered(script, "python", "dataset.py", "check", "--")


def test_other_scripts_are_left_to_bash(script: Path) -> None:
    assert offered(script, "python", "other.py", "--we") == []
    assert offered(script, "python", "tr") == []


def test_a_shell_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_flags(TrainConfig, ["--print-completion", "fish"])
    assert ended.value.code == 2 and "invalid choice: 'fish'" in capsys.readouterr().err


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(UserError, match=r"^this needs the package shtab: pip install shtab$"):
        parse_flags(TrainConfig, ["--print-completion", "bash"])
    with pytest.raises(UserError, match="pip install shtab"):
        run_subcommand("dataset.py", "", {"stats": "curation.stats"}, ["--print-completion", "zsh"])


def test_zsh(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as ended:
        parse_flags(TrainConfig, ["--print-completion", "zsh"], command="train.py")
    told = capsys.readouterr().out
    assert (
        not ended.value.code and "compdef _shtab_train_py" in told and "compdef _lean5_runner python" in told
    )
    if (zsh := shutil.which("zsh")) is not None:
        (tmp_path / "script").write_text(told, encoding="utf-8")
        assert subprocess.run([zsh, "-n", str(tmp_path / "script")]).returncode == 0
