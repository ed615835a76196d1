"""One run of a comparison: its folder, and a process that fails or is stopped."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import runs
from benchmarks.runs import Run, carry_out, runs_in
from training.config import TrainConfig
from utils.errors import UserError
from utils.interrupt import StopRequest


def test_folders_are_runs_when_they_are_called_so(tmp_path: Path) -> None:
    for name in ("b-seed10", "b-seed9", "a-seed-seed0", "notes", "c-seedx"):
        (tmp_path / name).mkdir()
    (tmp_path / "d-seed1").touch()
    assert [str(run) for run in runs_in(tmp_path)] == ["a-seed seed 0", "b seed 9", "b seed 10"]
    assert runs_in(tmp_path / "nowhere") == []


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Run:
    """A run whose `train.py` is what the test writes to `tmp_path`; messages are in `caplog`."""
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    caplog.set_level(logging.INFO, "lean5")
    return Run("yolov5n", 0, tmp_path / "yolov5n-seed0")


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("import sys; print('error: no images', file=sys.stderr); sys.exit(2)", r"0: no images \(status 2; "),
        ("raise KeyError('bn')", r"0: KeyError: 'bn' \(status 1; "),
        ("import os; os.kill(os.getpid(), 9)", r"0: it ended without a word \(status -9; "),
    ],
)
def test_a_failure_is_reported_in_its_own_words(
    trial: Run, tmp_path: Path, script: str, complaint: str
) -> None:
    (tmp_path / "train.py").write_text("print('error: of an earlier attempt')", encoding="utf-8")
    with StopRequest() as stop:
        carry_out(trial, TrainConfig(), stop)  # which ended well
        (tmp_path / "train.py").write_text(script, encoding="utf-8")
        with pytest.raises(UserError, match=f"yolov5n seed {complaint}everything is in .*log.txt"):
            carry_out(trial, TrainConfig(imgsz=64), stop)
    log = trial.log.read_text(encoding="utf-8")
    assert log.startswith("$ python train.py \nerror: of an earlier attempt\n$ python train.py --imgsz 64\n")


def test_epochs_appear_on_the_console(trial: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.py").write_text(
        "print('scanning\\nepoch 0/1  1.0 s\\nepoch 1/1  2.0 s')", encoding="utf-8"
    )
    with StopRequest() as stop:
        carry_out(trial, TrainConfig(), stop)
    assert caplog.messages == ["    epoch 0/1  1.0 s", "    epoch 1/1  2.0 s"]


def test_started_runs_are_resumed_where_they_compute_now(trial: Run, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import sys; print(sys.argv[1:])", encoding="utf-8")
    trial.files.last.parent.mkdir(parents=True)
    trial.files.last.touch()
    with StopRequest() as stop:
        carry_out(trial, TrainConfig(cfg="yolov5n", epochs=3, workers=1, noplots=True), stop)
    assert trial.log.read_text(encoding="utf-8").splitlines()[1] == str(
        ["--resume", str(trial.files.last), "--noplots", "--workers", "1"]
    )


# ends with 143 after the first SIGTERM, as train.py does after a batch; a SIGINT before it is a request, too
PATIENT = """
import os, pathlib, signal, sys, time
stop = []
signal.signal(signal.SIGINT, lambda *_: stop.append(2))
signal.signal(signal.SIGTERM, lambda *_: stop.append(15))
pathlib.Path(sys.argv[0]).with_name("pid").write_text(str(os.getpid()))
pathlib.Path(sys.argv[0]).with_name("ready").touch()
while 15 not in stop:
    time.sleep(0.01)
print("saved")
sys.exit(143)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_the_training_process(
    trial: Run, tmp_path: Path, number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "train.py").write_text(PATIENT, encoding="utf-8")
    with StopRequest() as stop:
        once_ready(tmp_path, lambda: os.kill(os.getpid(), number))
        with pytest.raises(SystemExit) as ended:
            carry_out(trial, TrainConfig(), stop)
    assert ended.value.code == 128 + number
    assert trial.log.read_text(encoding="utf-8").endswith("saved\n")
    assert caplog.messages == ["yolov5n seed 0: stopped; the same command continues it"]


def test_a_second_interrupt_ends_both_at_once(
    trial: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "PATIENCE", 0.2)
    (tmp_path / "train.py").write_text(
        PATIENT.replace("while 15 not in stop", "while True"), encoding="utf-8"
    )

    def interrupt_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    with StopRequest() as stop:
        once_ready(tmp_path, interrupt_twice)
        with pytest.raises(KeyboardInterrupt):
            carry_out(trial, TrainConfig(), stop)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text(encoding="utf-8")), 0)


def once_ready(folder: Path, act: Callable[[], None]) -> None:
    """Do something, in a thread, once the training process has its signal handlers."""

    def wait() -> None:
        while not (folder / "ready").exists():
            time.sleep(0.01)
        act()

    threading.Thread(target=wait, daemon=True).start()
