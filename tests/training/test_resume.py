"""Which run `--resume` continues, and with which settings."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from training.config import TrainConfig
from training.resume import restarted, resumed
from training.run_folder import JOB, RunFolder
from utils.checkpoints.files import write_checkpoint
from utils.distributed import Process
from utils.errors import UserError
from utils.flags import parse_flags
from utils.hyperparameters import Hyperparameters

# what the run was started with, as a file keeps it: tuples have become lists
SAVED = dataclasses.asdict(TrainConfig(epochs=7, freeze=(1, 2), workers=3)) | {"freeze": [1, 2]}


def run_of(project: Path, name: str = "exp", **changes: Any) -> Path:
    """A run's last.pt that holds what resuming looks at before the weights."""
    path = project / name / "weights" / "last.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "model": {"weight": torch.zeros(1)},
        "yaml": {},
        "names": {0: "a"},
        "nc": 1,
        "train_args": SAVED,
        "hyp": dataclasses.asdict(Hyperparameters(lr0=0.5)),
        "resume": {"processes": 1},
    }
    write_checkpoint(path, content | changes)
    return path


def typed(*words: str) -> TrainConfig:
    """The settings that a command line asks for."""
    return parse_flags(TrainConfig, words, "train.py")


def test_settings_and_hyperparameters_are_those_of_the_run(tmp_path: Path) -> None:
    path = run_of(tmp_path)
    config, hyp, folder, content = resumed(typed("--resume", str(path)), Process())
    assert (config.epochs, config.freeze, config.workers) == (7, (1, 2), 3)
    assert hyp == Hyperparameters(lr0=0.5)
    assert folder.root == path.resolve().parents[1] and folder.last == path.resolve()
    assert content["resume"] == {"processes": 1}


def test_a_job_that_torchrun_started_again_goes_on_with_its_run(tmp_path: Path) -> None:
    project = ("--project", str(tmp_path), "--workers", "0")
    config = typed(*project)
    for moment, (name, job) in enumerate((("old", "a"), ("exp", "a"), ("exp2", "b"))):
        run = RunFolder.create(str(tmp_path), name, exist_ok=False, job=job)
        os.utime(run.root / JOB, (moment, moment))
    again = Process(job="a", restarts=1)
    assert restarted(config, again) is config  # nothing has been saved
    last = run_of(tmp_path, "exp")
    run_of(tmp_path, "exp2")
    found = restarted(config, again)
    assert found.resume == str(last)
    assert "workers" in found.typed
    for process in (Process(job="a"), Process(job="c", restarts=1), Process()):
        assert restarted(config, process) is config
    chosen = typed("--resume", str(last), *project)
    assert restarted(chosen, again) is chosen


def test_the_newest_run_is_resumed_when_none_is_named(tmp_path: Path) -> None:
    paths = [run_of(tmp_path, "a"), run_of(tmp_path, "b")]
    for moment, path in zip((2000, 1000), paths):
        os.utime(path, (moment, moment))
    folder = resumed(typed("--resume", "--project", str(tmp_path)), Process())[2]
    assert folder.root.name == "a"


def test_what_only_says_how_to_compute_may_change(tmp_path: Path) -> None:
    flags = ("--workers", "5", "--device", "cpu", "--cache", "disk", "--noplots", "--verbose")
    config = resumed(typed("--resume", str(run_of(tmp_path)), *flags), Process())[0]
    assert (config.workers, config.device, config.cache) == (5, "cpu", "disk")
    assert config.noplots and config.verbose


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--epochs", "8"), "epochs is 7; leave --epochs out"),
        (("--epochs", "100"), "epochs is 7; leave --epochs out"),  # the default, but somebody typed it
        (("--batch-size", "4"), "batch_size is 16; leave --batch-size out"),
        (("--freeze", "1"), r"freeze is \(1, 2\); leave --freeze out"),
    ],
)
def test_a_flag_that_contradicts_the_run_is_refused(
    tmp_path: Path, flags: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        resumed(typed("--resume", str(run_of(tmp_path)), *flags), Process())


def test_a_flag_that_agrees_with_the_run_is_no_contradiction(tmp_path: Path) -> None:
    flags = ("--epochs", "7", "--freeze", "1", "2")
    assert resumed(typed("--resume", str(run_of(tmp_path)), *flags), Process())[0].epochs == 7


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"resume": None}, "holds weights only"),
        ({"train_args": [1]}, "holds weights only"),
        ({"resume": {"processes": 2}}, "was trained by 2 processes and continues with as many; there are 1"),
        ({"train_args": SAVED | {"epochs": "7"}}, "settings are damaged .* 'epochs' cannot be '7'"),
        ({"hyp": None}, "has no hyper-parameters"),
        ({"hyp": {"lr0": "fast"}}, "the checkpoint: hyper-parameter 'lr0' must be a number, found 'fast'"),
    ],
)
def test_what_cannot_be_resumed(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    path = run_of(tmp_path, **changes)
    with pytest.raises(UserError, match=complaint):
        resumed(typed("--resume", str(path)), Process())


def test_as_many_processes_go_on_as_before(tmp_path: Path) -> None:
    path = run_of(tmp_path, resume={"processes": 2})
    assert resumed(typed("--resume", str(path)), Process(1, 2))[3]["resume"] == {"processes": 2}


def test_a_checkpoint_outside_a_run_has_nowhere_to_go_on(tmp_path: Path) -> None:
    moved = run_of(tmp_path).rename(tmp_path / "last.pt")
    with pytest.raises(UserError, match="is not in the weights folder of a run"):
        resumed(typed("--resume", str(moved)), Process())
