"""Stopping and resuming lose nothing; what cannot be resumed is refused with one line."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
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
    ENVIRONMENT,
    PAIR,
    ROOT,
    TWO,
    assert_same_run,
    rows,
    run,
    start,
    torchrun,
    wait_until,
)
from training import engine
from training.config import TrainConfig
from training.resume import resumed
from utils.data.batch import BatchKey
from utils.data.dataset import DetectionDataset
from utils.distributed import OWN_STORE, Process
from utils.errors import UserError
from utils.evaluation.evaluate import evaluate
from utils.flags import parse_flags

Arguments = tuple[str, ...]
SMALL = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--noplots")


@pytest.fixture
def arguments(tiny_data: Path, tmp_path: Path) -> Arguments:
    return ("--data", str(tiny_data), "--project", str(tmp_path), *SMALL)


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch. Do not write to it."""
    project = tmp_path_factory.mktemp("finished")
    train.main(["--data", str(tiny_data), "--project", str(project), *SMALL, "--epochs", "1"])
    return project / "exp"


def hyp_with(iou: str, folder: Path) -> Path:
    path = folder / "hyp.yaml"
    path.write_text(f"iou: {iou}\n", encoding="utf-8")
    return path


def assert_same_running_mean(a: Path, b: Path) -> None:
    """Both ended with the same running mean of the box loss, which has moved."""
    means = [
        torch.load(run / "weights" / "last.pt", weights_only=True)["resume"]["iou_loss"] for run in (a, b)
    ]
    assert means[0] == means[1] < 1


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
        (stop_in_a_batch, 3, signal.SIGINT, "CIoU"),
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


@pytest.mark.slow
@pytest.mark.parametrize(("to_all", "iou"), [(True, "WIoU"), (False, "CIoU")])
def test_two_processes_stopped_in_the_middle_of_an_epoch_resume_exactly(
    arguments: Arguments, tmp_path: Path, to_all: bool, iou: str
) -> None:
    # 6 batches an epoch
    flags = (*arguments, "--batch-size", "2", "--epochs", "6", "--hyp", str(hyp_with(iou, tmp_path)))
    whole = torchrun(*flags, "--name", "whole")
    assert whole.returncode == 0, whole.stderr
    process = start(*flags, "--name", "stopped", command=PAIR)
    last = tmp_path / "stopped" / "weights" / "last.pt"
    wait_until(last.is_file, process)
    if to_all:  # torchrun passes it on
        process.terminate()
    else:
        children = (
            Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
        )
        os.kill(int(children[-1]), signal.SIGTERM)
    assert process.wait() != 0
    state = torch.load(last, weights_only=True)["resume"]
    assert state["epoch"] < 6
    assert state["batch"] > 0
    resumed = torchrun("--resume", str(last))
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    if iou == "WIoU":
        # a resume hands the main process's mean to both: had they differed, the runs would have, too
        assert_same_running_mean(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_death_of_a_process_ends_the_other(arguments: Arguments, tmp_path: Path, rank: int) -> None:
    flags = (*PAIR, *arguments, "--batch-size", "2", "--epochs", "500")
    process = subprocess.Popen(flags, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not (tmp_path / "exp" / "weights" / "last.pt").is_file():
        assert process.poll() is None
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    os.kill(int(children[rank - 2]), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: another process of this run has ended" in said


def children(process: subprocess.Popen[bytes]) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in path.read_text(encoding="utf-8").split()]


@pytest.fixture
def own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ENVIRONMENT, OWN_STORE, "1")


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_torchrun_starts_a_run_again_that_lost_a_process(arguments: Arguments, tmp_path: Path) -> None:
    flags = (*arguments, "--batch-size", "2", "--epochs", "6")
    assert torchrun(*flags, "--name", "whole").returncode == 0
    elastic = (*PAIR[:-1], "--max-restarts", "1", PAIR[-1])
    process = start(*flags, "--name", "killed", command=elastic)
    results = tmp_path / "killed" / "results.csv"
    wait_until(lambda: results.is_file() and len(rows(results)) >= 2, process)
    os.kill(children(process)[-1], signal.SIGKILL)
    assert process.wait() == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"whole", "killed"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.slow
@pytest.mark.usefixtures("own_store")
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_two_nodes_of_which_one_is_lost_and_comes_back(arguments: Arguments, tmp_path: Path) -> None:
    """Two agents of torchrun that meet at an address, a process each; the second dies with its process."""
    flags = (*arguments, "--batch-size", "2", "--epochs", "6")
    assert torchrun(*flags, "--name", "whole").returncode == 0
    meeting = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "job")
    node = (*TWO[:3], "--nnodes", "2", "--nproc_per_node", "1", "--max-restarts", "3", *meeting, "train.py")
    first = start(*flags, "--name", "nodes", command=node)
    time.sleep(2)  # whoever comes first keeps the address
    second = start(*flags, "--name", "nodes", command=node)
    try:
        results = tmp_path / "nodes" / "results.csv"
        wait_until(lambda: results.is_file() and len(rows(results)) >= 2, first)
        lost = children(second)
        second.kill()
        for process in lost:
            os.kill(process, signal.SIGKILL)
        second.wait()
        second = start(*flags, "--name", "nodes", command=node)
        assert (first.wait(240), second.wait(240)) == (0, 0)
    finally:
        for agent in (first, second):
            agent.terminate()
    assert_same_run(tmp_path / "whole", tmp_path / "nodes")
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"whole", "nodes"}


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


@pytest.mark.parametrize(
    ("flag", "value", "name"),
    [
        ("--epochs", "50", "epochs"),
        ("--epochs", "100", "epochs"),  # the default, but it was typed
        ("--optimizer", "Adam", "optimizer"),
        ("--batch-size", "2", "batch_size"),
    ],
)
def test_a_setting_that_contradicts_the_run_is_refused(
    finished: Path, flag: str, value: str, name: str
) -> None:
    with pytest.raises(UserError, match=f"where {name} is .*leave {flag} out"):
        train.main(["--resume", str(finished / "weights" / "last.pt"), flag, value])


def test_a_flag_that_was_typed_counts_also_when_it_is_the_default(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "exp")
    last = tmp_path / "exp" / "weights" / "last.pt"
    content = torch.load(last, weights_only=True)
    content["train_args"]["workers"] = 3
    torch.save(content, last)
    for flags, workers in (((), 3), (("--workers", "8"), 8)):
        config = parse_flags(TrainConfig, ["--resume", str(last), *flags])
        assert resumed(config, Process())[0].workers == workers


def test_a_finished_run_says_so(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(finished, tmp_path / "exp")
    train.main(["--resume", str(tmp_path / "exp" / "weights" / "last.pt")])
    said = capsys.readouterr().out
    assert "nothing is left to train" in said and "training 1 epochs" not in said


def test_a_run_does_not_go_on_with_other_classes(finished: Path, tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "exp")
    last = tmp_path / "exp" / "weights" / "last.pt"
    data = tmp_path / "more.yaml"
    text = tiny_data.read_text(encoding="utf-8").replace("[blue, green]", "[blue, green, red]")
    data.write_text(text, encoding="utf-8")
    content = torch.load(last, weights_only=True)
    content["train_args"]["data"] = str(data)
    torch.save(content, last)
    with pytest.raises(UserError, match=r"has 3 classes, .*'red'.*started with 2 classes, .*start a new run"):
        train.main(["--resume", str(last)])


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: {"train_args": c["train_args"] | {"lr": 1}}, "settings are damaged .*'lr'"),
        (lambda c: {"train_args": None}, "holds weights only"),
        (lambda c: {"train_args": c["train_args"] | {"epochs": "many"}}, "settings are damaged"),
        (lambda c: {"train_args": c["train_args"] | {"imgsz": None}}, "settings are damaged"),
        (lambda c: {"train_args": c["train_args"] | {"data": 5}}, "'data' cannot be 5"),
        (lambda c: {"train_args": c["train_args"] | {"freeze": 3}}, "'freeze' cannot be 3"),
        (lambda c: {"hyp": None}, "has no hyper-parameters"),
        (lambda c: {"hyp": c["hyp"] | {"lr7": 1.0}}, "unknown hyper-parameter 'lr7'"),
        (lambda c: {"hyp": c["hyp"] | {"warmup_epochs": "x"}}, "'warmup_epochs' must be a number"),
        (lambda c: {"hyp": c["hyp"] | {"iou": "siou"}}, "the checkpoint: .*'iou': .* did you mean 'SIoU'"),
        (lambda c: {"resume": c["resume"] | {"iou_loss": 0.0}}, "training state .* is damaged: 'iou_loss'"),
        (lambda c: {"resume": without(c["resume"], "epoch")}, "training state .* is damaged"),
        (lambda c: {"resume": c["resume"] | {"rng": [1]}}, "training state .* is damaged"),
        (lambda c: {"resume": None}, "holds weights only"),
        (lambda c: {"resume": c["resume"] | {"processes": 2}}, "trained by 2 processes .* there are 1"),
        (lambda c: {"optimizer": {}}, "training state .* is damaged"),
        (lambda c: {"yaml": {}}, "model description"),
    ],
)
def test_a_damaged_checkpoint_is_a_users_error(
    finished: Path, tmp_path: Path, change: Any, complaint: str
) -> None:
    path = tmp_path / "run" / "weights" / "last.pt"
    path.parent.mkdir(parents=True)
    content = torch.load(finished / "weights" / "last.pt", weights_only=True)
    torch.save(content | change(content), path)
    with pytest.raises(UserError, match=complaint):
        train.main(["--resume", str(path)])
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_a_file_from_before_the_choice_of_box_losses_resumes(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run" / "weights" / "last.pt"
    path.parent.mkdir(parents=True)
    content = torch.load(finished / "weights" / "last.pt", weights_only=True)
    older = {"hyp": without(content["hyp"], "iou"), "resume": without(content["resume"], "iou_loss")}
    older["resume"] |= {"finished": False, "epoch": 0}
    older["resume"]["results"] = []
    torch.save(content | older, path)
    train.main(["--resume", str(path)])
    state = torch.load(path, weights_only=True)
    assert (state["resume"]["epoch"], state["hyp"]["iou"]) == (1, "CIoU")


def test_what_is_no_last_checkpoint_of_a_run_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"best\.pt holds weights only"):
        train.main(["--resume", str(finished / "weights" / "best.pt")])
    moved = tmp_path / "last.pt"
    moved.write_bytes((finished / "weights" / "last.pt").read_bytes())
    with pytest.raises(UserError, match="not in the weights folder of a run"):
        train.main(["--resume", str(moved)])
    with pytest.raises(UserError, match=r"no last\.pt below"):
        train.main(["--resume", "--project", str(tmp_path / "empty")])
