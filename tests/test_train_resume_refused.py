"""What `--resume` takes up and what it refuses with one line: flags, checkpoints, other classes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from tests.training_runs import (
    SMALL,
)
from training.config import TrainConfig
from training.resume import resumed
from utils.distributed import Process
from utils.errors import UserError
from utils.flags import parse_flags


@pytest.fixture(scope="module")
def finished(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch. Do not write to it."""
    project = tmp_path_factory.mktemp("finished")
    train.main(["--data", str(tiny_data), "--project", str(project), *SMALL, "--epochs", "1"])
    return project / "exp"


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
