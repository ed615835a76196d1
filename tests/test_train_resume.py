"""Stopping and resuming lose nothing."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from tests.training_runs import (
    ROOT,
    SMALL,
    assert_same_run,
    assert_same_running_mean,
    hyp_with,
    rows,
    run,
    start,
    wait_until,
)
from training import engine
from utils.data.batch import BatchKey
from utils.data.dataset import DetectionDataset
from utils.evaluation.evaluate import evaluate

Arguments = tuple[str, ...]


@pytest.fixture
def arguments(tiny_data: Path, tmp_path: Path) -> Arguments:
    return ("--data", str(tiny_data), "--project", str(tmp_path), *SMALL)


@pytest.mark.slow  # studies pause in the default run
def test_paused_and_resumed_equals_uninterrupted(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (*arguments, "--epochs", "3")
    train.main([*flags, "--name", "whole"])
    train.main([*flags, "--name", "paused", "--pause", "1"])
    last = tmp_path / "paused" / "weights" / "last.pt"
    said = capsys.readouterr().out
    assert f"paused after 1 of 3 epochs; continue with: python train.py --resume {last}" in said
    assert len(rows(tmp_path / "paused" / "results.csv")) == 1
    before = last.read_bytes()
    train.main(["--resume", str(last), "--pause", "1"])  # as often as one likes
    assert last.read_bytes() == before
    train.main(["--resume", str(last)])  # which keeps every flag but this one
    assert_same_run(tmp_path / "whole", tmp_path / "paused")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--pause", "-1"), "--pause must be at least 0"),
        (("--pause", "1", "--nosave"), "--pause needs the last.pt of its last epoch"),
        (("--pause", "1", "--evolve", "2"), "--pause and --evolve exclude each other"),
        (("--study", "zoo.journal"), "--study is of use with --evolve; benchmark.py train --study"),
        (
            ("--study", "zoo.journal", "--evolve", "2", "--resume_evolve", "a.csv"),
            "leave --resume_evolve out",
        ),
        (("--study", "redis://host", "--evolve", "2"), "--study must be a file that all machines see"),
    ],
)
def test_pauses_and_studies_that_make_no_sense(
    flags: Arguments, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        train.main(flags)
    assert ended.value.code == 2 and complaint in capsys.readouterr().err


def test_killed_and_resumed_equals_uninterrupted(arguments: Arguments, tmp_path: Path) -> None:
    flags = (*arguments, "--epochs", "4")
    assert run(*flags, "--name", "whole").returncode == 0
    process = start(*flags, "--name", "killed")
    results = tmp_path / "killed" / "results.csv"
    wait_until(lambda: results.is_file() and len(rows(results)) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(rows(results)) < 4
    resumed = run("--resume", str(tmp_path / "killed" / "weights" / "last.pt"))
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


# batches of 1, so that a signal comes in the middle of an epoch and of an accumulated step
ONES = ("--batch-size", "1", "--epochs", "2")


@pytest.fixture(scope="module")
def whole(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of an uninterrupted run with a box loss. Do not write to it."""

    @functools.cache
    def made(iou: str) -> Path:
        folder = tmp_path_factory.mktemp(iou)
        place = ("--project", str(folder), "--hyp", str(hyp_with(iou, folder)))
        train.main(["--data", str(tiny_data), *SMALL, *ONES, *place])
        return folder / "exp"

    return made


def stop_in_a_batch(patch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    def signalled(self: object, step: int, batch: object) -> None:
        if step == 14:  # of 12 an epoch
            os.kill(os.getpid(), number)

    patch.setattr(train.RunPictures, "training_batch", signalled)


def stop_while_waiting(patch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """The fourth batch of the second epoch does not come: a disk does not answer."""

    def signalled(self: DetectionDataset, key: BatchKey, **more: Any) -> Any:
        if self.augment and (key.epoch, key.number) == (1, 3):
            os.kill(os.getpid(), number)
            time.sleep(60)
        return batch(self, key, **more)

    batch = DetectionDataset.batch
    patch.setattr(DetectionDataset, "batch", signalled)


def stop_while_validating(patch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    def signalled(*args: Any, **more: Any) -> Any:
        if more["criterion"] is not None and len(called) == 1:  # of the second epoch
            os.kill(os.getpid(), number)
            time.sleep(60)
        called.append(True)
        return evaluate(*args, **more)

    called: list[bool] = []
    patch.setattr(engine, "evaluate", signalled)


def test_a_signal_while_the_last_pictures_are_drawn(arguments: Arguments, tmp_path: Path) -> None:
    def signalled(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        drawn(*args)

    drawn = train.RunPictures.__exit__
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(train.RunPictures, "__exit__", signalled)
        train.main([*arguments, "--epochs", "1"])
    assert ended.value.code == 128 + signal.SIGTERM
    done = run("--resume", str(tmp_path / "exp" / "weights" / "last.pt"))
    assert done.returncode == 0 and "the run is finished" in done.stderr + done.stdout


# WIoU keeps a running mean, which is one more thing to restore
@pytest.mark.parametrize(
    ("stop", "done", "number", "iou"),
    [
        pytest.param(stop_in_a_batch, 3, signal.SIGINT, "CIoU", marks=pytest.mark.slow),
        (stop_in_a_batch, 3, signal.SIGTERM, "WIoU"),
        (stop_while_waiting, 3, signal.SIGTERM, "CIoU"),
        (stop_while_validating, 12, signal.SIGINT, "WIoU"),
    ],
)
def test_stopped_in_the_middle_of_an_epoch_resumes_exactly(
    arguments: Arguments,
    tmp_path: Path,
    stop: Callable[[pytest.MonkeyPatch, signal.Signals], None],
    done: int,
    number: signal.Signals,
    iou: str,
    whole: Callable[[str], Path],
) -> None:
    flags = [*arguments, *ONES, "--hyp", str(hyp_with(iou, tmp_path))]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        stop(patch, number)
        train.main([*flags, "--name", "stopped"])
    assert ended.value.code == 128 + number
    last = tmp_path / "stopped" / "weights" / "last.pt"
    resume = torch.load(last, weights_only=True)["resume"]
    assert (resume["epoch"], resume["batch"]) == (1, done)
    train.main(["--resume", str(last)])
    assert_same_run(whole(iou), tmp_path / "stopped")
    if iou == "WIoU":
        assert_same_running_mean(whole(iou), tmp_path / "stopped")


LONG_BATCH = """
import ctypes, os, signal, sys, torch
import train, utils.interrupt
from utils.errors import run_command
utils.interrupt.PATIENCE, utils.interrupt.CLEANING = 0.5, 30  # a disk may be busy
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
backward, calls = torch.Tensor.backward, []
def long(self, *args, **more):
    backward(self, *args, **more)
    calls.append(True)
    if len(calls) == 15:  # of 12 an epoch
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(2):
            libc.pthread_mutex_lock(mutex)  # in native code, without an end
torch.Tensor.backward = long
run_command(train.main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="locks a mutex of glibc")
def test_a_batch_that_takes_longer_than_a_signal_has_patience_is_taken_back(
    arguments: Arguments, tmp_path: Path, whole: Callable[[str], Path]
) -> None:
    """After forward and backward, with gradients of earlier batches that wait for a step."""
    flags = [*arguments, *ONES, "--hyp", str(hyp_with("WIoU", tmp_path))]
    ended = subprocess.run(
        [sys.executable, "-c", LONG_BATCH, *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert (ended.returncode, "stopped in a batch" in ended.stdout) == (143, True), ended.stderr
    last = tmp_path / "exp" / "weights" / "last.pt"
    state = torch.load(last, weights_only=True)["resume"]
    assert (state["epoch"], state["batch"]) == (1, 2)
    assert state["since_step"] and state["gradients"]
    train.main(["--resume", str(last)])
    assert_same_run(whole("WIoU"), tmp_path / "exp")
    assert_same_running_mean(whole("WIoU"), tmp_path / "exp")


def test_patience_ends_a_run_for_good(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.3, 0.5, 0.4, 0.3])
    monkeypatch.setattr(train, "fitness", lambda *_: next(scores))
    train.main([*arguments, "--epochs", "50", "--patience", "2"])
    folder = tmp_path / "exp"
    assert len(rows(folder / "results.csv")) == 4  # the best is epoch 1, two later ones were worse
    kept = ("results.csv", "weights/last.pt", "weights/best.pt")
    before = [(folder / name).read_bytes() for name in kept]
    report = (folder / "metrics.json").read_text(encoding="utf-8")
    (folder / "metrics.json").unlink()
    train.main(["--resume", str(folder / "weights" / "last.pt")])
    assert [(folder / name).read_bytes() for name in kept] == before
    assert len((folder / "metrics.json").read_text(encoding="utf-8")) == pytest.approx(len(report), rel=0.05)


def test_equal_epochs_restart_the_waiting(
    arguments: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "fitness", lambda *_: 0.0)
    train.main([*arguments, "--epochs", "4", "--patience", "1"])
    assert len(rows(tmp_path / "exp" / "results.csv")) == 4
