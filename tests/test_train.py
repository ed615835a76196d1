"""train.py as a user runs it: what it leaves behind, and that stopping and resuming lose nothing."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

import train
from utils.errors import UserError
from utils.logger import RESULT_COLUMNS

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu")

Arguments = tuple[str, ...]


@pytest.fixture
def arguments(tiny_data: Path, tmp_path: Path) -> Arguments:
    return ("--data", str(tiny_data), "--project", str(tmp_path), *SMALL)


def run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "train.py", *argv], cwd=ROOT, capture_output=True, text=True)


def start(*argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "train.py", *argv], cwd=ROOT, stdout=subprocess.DEVNULL)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll a condition while the process lives."""
    while not condition():
        assert process.poll() is None, "training ended before the test could interrupt it"
        time.sleep(0.01)


def rows(results: Path) -> list[dict[str, str]]:
    with results.open() as file:
        return list(csv.DictReader(file))


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by its path in the file."""
    found: dict[str, torch.Tensor] = {}

    def walk(value: object, name: str) -> None:
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}")
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                walk(inner, f"{name}[{index}]")

    walk(torch.load(checkpoint, weights_only=True), "")
    return found


def assert_same_run(a: Path, b: Path) -> None:
    assert (a / "results.csv").read_text() == (b / "results.csv").read_text()
    left, right = tensors(a / "weights" / "last.pt"), tensors(b / "weights" / "last.pt")
    assert left.keys() == right.keys()
    assert len(left) > 500  # model, average and momentum of every parameter
    for name in left:
        assert torch.equal(left[name], right[name]), name


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
    assert yaml.safe_load((run_folder / "opt.yaml").read_text())["imgsz"] == 64
    best = torch.load(run_folder / "weights" / "best.pt", weights_only=True)
    assert best["names"] == {0: "blue", 1: "green"}
    assert best["train_args"]["epochs"] == 2
    assert "optimizer" not in best


@pytest.mark.parametrize(
    "flags",
    [
        ("--rect", "--cos-lr", "--optimizer", "Adam"),
        ("--quad", "--optimizer", "AdamW", "--label-smoothing", "0.1"),
        ("--multi-scale", "--image-weights", "--cache", "ram"),
        ("--single-cls", "--freeze", "3", "--noval", "--nosave"),
        ("--amp", "bf16", "--save-period", "1", "--cfg", "yolov5n-gsconv.yaml"),
        ("--hyp", "hyp.scratch-high.yaml", "--noautoanchor", "--cfg", "yolov5n-slimneck"),
    ],
)
def test_flags_train(arguments: Arguments, tmp_path: Path, flags: Arguments) -> None:
    train.main([*arguments, "--epochs", "2", "--workers", "0", "--noplots", *flags])
    table = rows(tmp_path / "exp" / "results.csv")
    assert len(table) == 2
    assert all(float(row["train/obj_loss"]) > 0 for row in table)
    assert (tmp_path / "exp" / "weights" / "best.pt").is_file()
    if "--save-period" in flags:
        assert (tmp_path / "exp" / "weights" / "epoch1.pt").is_file()
    if "--noval" in flags:
        assert float(table[0]["val/obj_loss"]) == 0 < float(table[1]["val/obj_loss"])


def test_frozen_layers_keep_their_weights(arguments: Arguments, tmp_path: Path) -> None:
    train.main([*arguments, "--epochs", "1", "--workers", "0", "--name", "a", "--noplots"])
    weights = tmp_path / "a" / "weights" / "last.pt"
    flags = ("--weights", str(weights), "--freeze", "2", "--name", "b", "--noplots")
    train.main([*arguments, "--epochs", "1", "--workers", "0", *flags])
    before, after = tensors(weights), tensors(tmp_path / "b" / "weights" / "last.pt")
    # --weights takes over the average
    assert torch.equal(before[".ema.model.1.conv.weight"], after[".model.model.1.conv.weight"])
    assert not torch.equal(before[".ema.model.2.cv1.conv.weight"], after[".model.model.2.cv1.conv.weight"])


def test_workers_do_not_change_the_result(arguments: Arguments, tmp_path: Path) -> None:
    for workers in ("0", "2"):
        train.main([*arguments, "--epochs", "2", "--workers", workers, "--name", workers, "--noplots"])
    assert_same_run(tmp_path / "0", tmp_path / "2")


def test_killed_and_resumed_equals_uninterrupted(arguments: Arguments, tmp_path: Path) -> None:
    flags = (*arguments, "--epochs", "4", "--workers", "0", "--noplots")
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_of_an_epoch_resumes_exactly(
    arguments: Arguments, tmp_path: Path, number: signal.Signals
) -> None:
    # batches of 1, so that a signal comes in the middle of an epoch and of an accumulated step
    flags = (*arguments, "--batch-size", "1", "--epochs", "3", "--workers", "0", "--noplots")
    assert run(*flags, "--name", "whole").returncode == 0
    process = start(*flags, "--name", "stopped")
    last = tmp_path / "stopped" / "weights" / "last.pt"
    wait_until(last.is_file, process)
    process.send_signal(number)
    assert process.wait() == 128 + number
    resume = torch.load(last, weights_only=True)["resume"]
    assert resume["epoch"] < 3
    assert resume["batch"] > 0
    assert run("--resume", str(last)).returncode == 0
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_two_processes_train_together(dense_data: Path, tmp_path: Path) -> None:
    # many labels a process, since the box loss is a mean over those of each level
    flags = ("--data", str(dense_data), "--project", str(tmp_path), "--imgsz", "128", "--batch-size", "16")
    flags = (*flags, "--device", "cpu", "--epochs", "2", "--workers", "0", "--noplots", "--name", "pair")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "train.py",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True, env=environment)
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
    hyp.write_text("lr0: 1.0e+30\nwarmup_epochs: 0\nnominal_batch: 4\n")
    with pytest.raises(
        UserError, match=r"became (nan|inf|non-finite).*no epoch was finished before.*lower lr0"
    ):
        train.main(
            [*arguments, "--epochs", "3", "--workers", "0", "--name", "b", "--hyp", str(hyp), "--noplots"]
        )
    assert not (tmp_path / "b" / "weights" / "last.pt").exists()


def test_patience_stops_and_the_run_counts_as_finished(arguments: Arguments, tmp_path: Path) -> None:
    hyp = tmp_path / "hyp.yaml"
    hyp.write_text("lr0: 0\nwarmup_epochs: 0\n")  # nothing is learnt, so no epoch is better than the first
    flags = ("--epochs", "50", "--workers", "0", "--patience", "2", "--noplots", "--hyp", str(hyp))
    train.main([*arguments, *flags])
    assert len(rows(tmp_path / "exp" / "results.csv")) == 3
    with pytest.raises(UserError, match="nothing to resume, this run is finished"):
        train.main(["--resume", str(tmp_path / "exp" / "weights" / "last.pt")])


def test_evolution_keeps_the_fittest(arguments: Arguments, tmp_path: Path) -> None:
    train.main([*arguments, "--epochs", "1", "--workers", "0", "--evolve", "2"])
    folder = tmp_path / "exp"
    assert len(rows(folder / "evolve.csv")) == 2
    assert yaml.safe_load((folder / "hyp_evolve.yaml").read_text())["lr0"] > 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (("--data", "nowhere.yaml"), "nowhere.yaml"),
        (("--weights", "nowhere.pt"), "nowhere.pt"),
        (("--cfg", "yolov5n-gsconf.yaml"), "gsconv"),
        (("--hyp", "hyp.scratch-lo.yaml"), "did you mean hyp.scratch-low.yaml"),
        (("--freeze", "99"), "the model has layers 0 to 24"),
        (("--resume", "nowhere.pt"), "nowhere.pt"),
        (("--device", "7"), "CUDA devices"),
        (("--amp", "fp16"), "--amp fp16 needs a CUDA device"),
    ],
)
def test_bad_input_is_a_users_error(arguments: Arguments, flags: Arguments, complaint: str) -> None:
    with pytest.raises(UserError) as error:
        train.main([*arguments, "--epochs", "1", "--workers", "0", *flags])
    assert complaint in str(error.value)


def test_errors_are_one_line_and_status_2(arguments: Arguments, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = run(*arguments, "--project", str(tmp_path / "file" / "runs"), "--epochs", "1")
    assert result.returncode == 2
    assert result.stderr.startswith("error: cannot create run folder")
    assert result.stderr.count("\n") == 1
