"""train.py as a user runs it: what it leaves behind, alone or with others, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import train
from tests.training_runs import assert_same_run, rows, run, tensors, torchrun
from training.config import TrainConfig
from training.engine import NonFiniteLoss, Training
from training.run_folder import RESULT_COLUMNS
from utils.errors import Incomplete, UserError
from utils.hyperparameters import Hyperparameters

SMALL = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu")

Arguments = tuple[str, ...]


@pytest.fixture
def arguments(tiny_data: Path, tmp_path: Path) -> Arguments:
    return ("--data", str(tiny_data), "--project", str(tmp_path), *SMALL)


def test_a_run_leaves_what_the_readme_promises(arguments: Arguments, tmp_path: Path) -> None:
    train.main([*arguments, "--epochs", "2", "--workers", "0"])
    run_folder = tmp_path / "exp"
    present = {str(p.relative_to(run_folder)) for p in run_folder.rglob("*") if p.is_file()}
    assert present >= {
        "weights/last.pt", "weights/best.pt", "opt.yaml", "hyp.yaml", "results.csv", "results.png",
        "labels.jpg",
        "train_batch0.jpg", "val_batch0_labels.jpg", "val_batch0_pred.jpg", "P_curve.png", "R_curve.png",
        "F1_curve.png", "PR_curve.png", "confusion_matrix.png", "metrics.json",
    }  # fmt: skip
    table = rows(run_folder / "results.csv")
    assert tuple(table[0]) == RESULT_COLUMNS
    assert [row["epoch"] for row in table] == ["0", "1"]
    assert yaml.safe_load((run_folder / "opt.yaml").read_text(encoding="utf-8"))["imgsz"] == 64
    best = torch.load(run_folder / "weights" / "best.pt", weights_only=True)
    assert best["names"] == {0: "blue", 1: "green"}
    assert best["train_args"]["epochs"] == 2
    assert "optimizer" not in best


def test_frozen_layers_keep_their_weights(arguments: Arguments, tmp_path: Path) -> None:
    train.main([*arguments, "--epochs", "1", "--workers", "0", "--name", "a", "--noplots"])
    weights = tmp_path / "a" / "weights" / "last.pt"
    flags = ("--weights", str(weights), "--freeze", "2", "--name", "b", "--noplots")
    train.main([*arguments, "--epochs", "1", "--workers", "0", *flags])
    before, after = tensors(weights), tensors(tmp_path / "b" / "weights" / "last.pt")
    # --weights takes over the average
    assert torch.equal(before[".ema.model.1.conv.weight"], after[".model.model.1.conv.weight"])
    assert not torch.equal(before[".ema.model.2.cv1.conv.weight"], after[".model.model.2.cv1.conv.weight"])
    # nor do the statistics of BatchNorm move
    frozen, trained = "model.1.bn.running_mean", "model.2.cv1.bn.running_mean"
    assert torch.equal(before[f".ema.{frozen}"], after[f".model.{frozen}"])
    assert not torch.equal(before[f".ema.{trained}"], after[f".model.{trained}"])


def test_one_small_image_at_a_time_and_in_many_sizes(arguments: Arguments, tmp_path: Path) -> None:
    """The deepest map never is a single value, of which BatchNorm could make nothing."""
    train.main([*arguments, "--batch-size", "1", "--multi-scale", "--epochs", "1", "--noval", "--noplots"])
    assert len(rows(tmp_path / "exp" / "results.csv")) == 1


def test_workers_do_not_change_the_result(arguments: Arguments, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        train.main([*arguments, "--epochs", "2", "--workers", workers, "--name", workers, "--noplots"])
    assert_same_run(tmp_path / "0", tmp_path / "2")


def test_two_processes_train_together(dense_data: Path, tmp_path: Path) -> None:
    # many labels a process, since the box loss is a mean over those of each level
    flags = ("--data", str(dense_data), "--project", str(tmp_path), "--imgsz", "128", "--batch-size", "16")
    flags = (*flags, "--device", "cpu", "--epochs", "2", "--workers", "0", "--noplots", "--name", "pair")
    result = torchrun(*flags)
    assert result.returncode == 0, result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["pair"]  # one run folder
    assert result.stdout.count("epoch 1/1") == 1  # one validation, one line
    train.main([*flags[:-1], "single"])
    pair, single = (rows(tmp_path / name / "results.csv")[0] for name in ("pair", "single"))
    for column in ("train/box_loss", "train/obj_loss", "train/cls_loss"):
        assert float(pair[column]) == pytest.approx(float(single[column]), rel=0.05), column


def test_a_diverging_run_stops_and_keeps_the_last_finite_checkpoint(
    arguments: Arguments, tmp_path: Path
) -> None:
    train.main([*arguments, "--epochs", "1", "--workers", "0", "--name", "a", "--noplots"])
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("lr0: 1.0e+30\nwarmup_epochs: 0\nnominal_batch: 4\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"became (nan|inf|non-finite).*no epoch was finished before.*lower lr0"
    ):
        train.main(
            [*arguments, "--epochs", "3", "--workers", "0", "--name", "b", "--hyp", str(hyp), "--noplots"]
        )
    assert not (tmp_path / "b" / "weights" / "last.pt").exists()


def test_evolution_keeps_the_fittest(arguments: Arguments, tmp_path: Path) -> None:
    train.main([*arguments, "--epochs", "2", "--workers", "0", "--evolve", "2"])
    folder = tmp_path / "exp"
    assert len(rows(folder / "evolve.csv")) == 2
    for generation in range(2):
        assert len(rows(folder / f"generation{generation}" / "results.csv")) == 2
    assert yaml.safe_load((folder / "hyp_evolve.yaml").read_text(encoding="utf-8"))["lr0"] > 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--data", "nowhere.yaml"), "nowhere.yaml"),
        (("--weights", "nowhere.pt"), "nowhere.pt"),
        (("--cfg", "yolov5n-gsconf.yaml"), "gsconv"),
        (("--hyp", "hyp.scratch-lo.yaml"), "did you mean hyp.scratch-low.yaml"),
        (("--freeze", "99"), "the model has layers 0 to 24"),
        (("--freeze", "25"), "--freeze 25 leaves nothing to train"),
        (("--freeze", *map(str, range(25))), "leaves nothing to train"),
        (("--resume", "nowhere.pt"), "nowhere.pt"),
        (("--device", "7"), "CUDA devices"),
        (("--amp", "fp16"), "--amp fp16 needs a CUDA device"),
    ],
)
def test_bad_input_is_a_users_error(arguments: Arguments, flags: Arguments, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        train.main([*arguments, "--epochs", "1", "--workers", "0", *flags])
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--data", "nowhere.yaml"), "nowhere.yaml"),
        (("--evolve_population", "nowhere"), "nowhere"),
        (("--study", "{folder}/notes.txt"), "no journal of Optuna"),
    ],
)
def test_an_evolution_that_is_refused_leaves_nothing(
    arguments: Arguments, tmp_path: Path, flags: tuple[str, str], complaint: str
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine\n", encoding="utf-8")
    mine = [flag.format(folder=tmp_path) for flag in flags]
    with pytest.raises(UserError, match=complaint):
        train.main([*arguments, "--epochs", "1", "--evolve", "1", "--workers", "0", *mine])
    assert list(tmp_path.iterdir()) == [notes]


def test_evolution_goes_on_after_a_generation_that_diverged(
    arguments: Arguments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    once = train.train

    def diverging(config: TrainConfig, hyp: Hyperparameters, *more: Any) -> Training:
        if more[-1].root.name == "generation0":
            raise NonFiniteLoss("the loss became nan in epoch 0, batch 0")
        return once(config, hyp, *more)

    monkeypatch.setattr(train, "train", diverging)
    train.main([*arguments, "--epochs", "1", "--evolve", "2", "--workers", "0", "--name", "evolved"])
    table = rows(tmp_path / "evolved" / "evolve.csv")
    assert float(table[0]["metrics/mAP_0.5:0.95"]) == 0.0
    assert [row["val/box_loss"] == "nan" for row in table] == [True, False]
    assert "2 generations of 1 epochs, 1 of which diverged, on" in capsys.readouterr().out
    with pytest.raises(Incomplete, match="every generation diverged"):
        train.main([*arguments, "--epochs", "1", "--evolve", "1", "--workers", "0", "--name", "generation0"])


def test_the_end_says_what_was_used(
    arguments: Arguments, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A picture that the scan finds unreadable costs a row of the report; the others are trained on."""
    data = copied(tiny_data, tmp_path)
    (tmp_path / "data" / "images" / "train" / "3.png").write_bytes(b"no image")
    cut_inside(tmp_path / "data" / "images" / "val" / "1.png")
    train.main([*arguments, "--data", str(data), "--epochs", "1", "--workers", "0", "--noplots"])
    printed = capsys.readouterr()
    assert f"1 of 1 epochs on 11 of 12 images of {data} at 64 px on cpu, 3 of 4 images of val" in printed.out
    assert "warning: val: 1 of 4 images could not be used: 1.png" in printed.err


def test_a_training_image_that_turns_out_damaged(
    arguments: Arguments, tiny_data: Path, tmp_path: Path
) -> None:
    data = copied(tiny_data, tmp_path)
    cut_inside(tmp_path / "data" / "images" / "train" / "3.png")
    flags = [*arguments, "--data", str(data), "--workers", "0", "--noplots"]
    with pytest.raises(UserError, match=r"3\.png: .* image .*; repair or remove it, then start again"):
        train.main([*flags, "--epochs", "1"])


def copied(tiny_data: Path, folder: Path) -> Path:
    """The data yaml of a copy of the data set."""
    shutil.copytree(tiny_data.parent, folder / "data")
    data = folder / "data.yaml"
    text = tiny_data.read_text(encoding="utf-8").replace(str(tiny_data.parent), str(folder / "data"))
    data.write_text(text, encoding="utf-8")
    return data


def cut_inside(picture: Path) -> None:
    """Damage a PNG where a scan of heads and tails does not look."""
    content = bytearray(picture.read_bytes())
    content[200:-60] = bytes(len(content) - 260)
    picture.write_bytes(content)


@pytest.mark.parametrize("flags", [(), ("--evolve", "1")])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_labels_is_refused_before_the_first_epoch(
    tiny_data: Path, tmp_path: Path, split: str, flags: Arguments
) -> None:
    shutil.copytree(tiny_data.parent, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "labels" / split)
    text = tiny_data.read_text(encoding="utf-8").replace(str(tiny_data.parent), str(tmp_path / "data"))
    data = tmp_path / "data.yaml"
    data.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"no labels to use in {split}: the folder .* does not exist"):
        train.main(["--data", str(data), "--imgsz", "64", "--project", str(tmp_path / "runs"), *flags])
    assert not list((tmp_path / "runs").rglob("*.pt"))


def test_errors_are_one_line_and_status_2(arguments: Arguments, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = run(*arguments, "--project", str(tmp_path / "file" / "runs"), "--epochs", "1")
    assert result.returncode == 2
    assert result.stderr.startswith("error: cannot create run folder")
    assert result.stderr.count("\n") == 1


def test_the_line_of_an_epoch_without_a_confident_detection() -> None:
    row = [2, 0.5, 0.25, 0.125, 0.005, 1.0, 0.01, 0.004, *[0.0] * 6]
    config = TrainConfig(epochs=9)
    assert train.epoch_line(config, row, 1.0).endswith("  P 0.005 R 1.000 mAP50 0.010 mAP50-95 0.004  1.0 s")
    unsure = train.epoch_line(config, row, 1.0, confident=False)
    assert unsure.endswith("  no confident detection yet, mAP50 0.010 mAP50-95 0.004  1.0 s")
    row[4:8] = [0.0] * 4
    assert "mAP" not in train.epoch_line(config, row, 1.0, confident=False)  # not validated, or nothing found
