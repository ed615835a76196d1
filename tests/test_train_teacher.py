"""train.py --teacher as a user runs it."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

import train
from models.weights import load_model
from tests.detectors import content_of, detector
from tests.training_runs import assert_same_run, rows, tensors, torchrun
from training.run_folder import RESULT_COLUMNS, TEACHER_COLUMN
from utils.checkpoints.files import read_checkpoint, write_checkpoint
from utils.errors import UserError

SMALL = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--noplots")
LIGHTER = ("--cfg", "yolov5n-csppc-neck.yaml")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It is sure of something everywhere. Do not write to it."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.pt"
    write_checkpoint(path, content_of(detector("blue", "green")))
    return path


@pytest.fixture
def arguments(tiny_data: Path, teacher: Path, tmp_path: Path) -> tuple[str, ...]:
    return ("--data", str(tiny_data), "--project", str(tmp_path), *SMALL, "--teacher", str(teacher))


def test_a_run_with_a_teacher(
    arguments: tuple[str, ...], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main([*arguments, *LIGHTER, "--epochs", "2"])
    said = capsys.readouterr().out
    assert f"{teacher}: " in said and "tensors taken over" in said  # --weights is the teacher's
    assert f"{teacher} teaches objectness, boxes, 2 of 2 classes, maps at 9 ends of stages" in said
    assert "mAP50-95 on val: teacher" in said
    table = rows(tmp_path / "exp" / "results.csv")
    assert tuple(table[0]) == (*RESULT_COLUMNS, TEACHER_COLUMN)
    errors = [float(row[TEACHER_COLUMN]) for row in table]
    assert min(errors) > 0
    assert f"teacher {errors[1]:.4f}  " in said
    kept = load_model(tmp_path / "exp" / "weights" / "teacher.pt").state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in load_model(teacher).state_dict().items())
    settings = read_checkpoint(tmp_path / "exp" / "weights" / "best.pt")["train_args"]
    assert settings["teacher"] == str(teacher)


def test_stopped_in_an_accumulated_step_resumes_exactly_without_the_file(
    arguments: tuple[str, ...], teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved.pt"
    shutil.copy(teacher, moved)
    flags = [*arguments, *LIGHTER, "--teacher", str(moved), "--batch-size", "2", "--epochs", "2"]
    train.main([*flags, "--name", "whole"])

    def signalled(self: object, step: int, batch: object) -> None:
        if step == 8:  # of 6 an epoch
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(train.RunPictures, "training_batch", signalled)
        train.main([*flags, "--name", "stopped"])
    moved.unlink()
    last = tmp_path / "stopped" / "weights" / "last.pt"
    assert read_checkpoint(last)["resume"]["loss_sum"].shape == (4,)
    train.main(["--resume", str(last)])
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_resuming_goes_on_with_the_same_teacher(arguments: tuple[str, ...], tmp_path: Path) -> None:
    train.main([*arguments, "--epochs", "1"])
    last = tmp_path / "exp" / "weights" / "last.pt"
    with pytest.raises(UserError, match=r"where teacher is '.*teacher\.pt'; leave --teacher out"):
        train.main(["--resume", str(last), "--teacher", str(last)])
    with pytest.raises(UserError, match=r"where teacher_weight is 1\.0; leave --teacher-weight out"):
        train.main(["--resume", str(last), "--teacher-weight", "2"])
    last.with_name("teacher.pt").unlink()
    with pytest.raises(UserError, match=r"teacher\.pt is missing, the teacher of this run; put it back"):
        train.main(["--resume", str(last)])


def test_weights_that_are_named_come_before_those_of_the_teacher(
    arguments: tuple[str, ...], teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_model(teacher)
    with torch.no_grad():
        model.model[0].conv.weight.fill_(0.25)
    write_checkpoint(tmp_path / "own.pt", {**read_checkpoint(teacher), "model": model.state_dict()})
    train.main([*arguments, "--weights", str(tmp_path / "own.pt"), "--freeze", "1", "--epochs", "1"])
    assert f"{tmp_path / 'own.pt'}: 349 of 349" in capsys.readouterr().out
    weight = tensors(tmp_path / "exp" / "weights" / "last.pt")[".model.model.0.conv.weight"]
    assert (weight == 0.25).all()


def test_it_goes_with_every_way_to_train(arguments: tuple[str, ...], tmp_path: Path) -> None:
    flags = (
        "--quad",
        "--multi-scale",
        "--amp",
        "bf16",
        "--freeze",
        "4",
        "--single-cls",
        "--optimizer",
        "AdamW",
    )
    train.main([*arguments, *LIGHTER, *flags, "--epochs", "1", "--teacher-weight", "2"])
    (row,) = rows(tmp_path / "exp" / "results.csv")
    assert float(row[TEACHER_COLUMN]) > 0 and float(row["train/cls_loss"]) == 0


def test_evolution_with_a_teacher(arguments: tuple[str, ...], tmp_path: Path) -> None:
    train.main([*arguments, *LIGHTER, "--epochs", "1", "--evolve", "1"])
    assert len(rows(tmp_path / "exp" / "evolve.csv")) == 1
    assert float(rows(tmp_path / "exp" / "generation0" / "results.csv")[0][TEACHER_COLUMN]) > 0


def test_a_refused_run_leaves_no_folder(arguments: tuple[str, ...], tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pt"):
        train.main([*arguments, "--teacher", "nowhere.pt"])
    others = tmp_path / "others.yaml"
    root = f"path: {tiny_data.parent}\ntrain: images/train\nval: images/val\n"
    others.write_text(f"{root}names: [cat, dog]\n", encoding="utf-8")
    with pytest.raises(UserError, match="has nothing to teach: it knows none of the classes"):
        train.main([*arguments, "--data", str(others), "--cfg", "yolov5s.yaml"])
    assert not (tmp_path / "exp").exists()


@pytest.mark.slow
def test_two_processes_learn_as_one(dense_data: Path, teacher: Path, tmp_path: Path) -> None:
    flags = (
        "--data",
        str(dense_data),
        "--project",
        str(tmp_path),
        *SMALL,
        "--teacher",
        str(teacher),
        *LIGHTER,
    )
    flags = (*flags, "--batch-size", "16", "--epochs", "2", "--name", "pair")
    result = torchrun(*flags)
    assert result.returncode == 0, result.stderr
    train.main([*flags[:-1], "single"])
    pair, single = (rows(tmp_path / name / "results.csv")[0] for name in ("pair", "single"))
    for column in ("train/box_loss", "train/obj_loss", TEACHER_COLUMN):
        assert float(pair[column]) == pytest.approx(float(single[column]), rel=0.05), column
