"""Running train.py as a user does, and comparing what runs leave."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
ALONE = (sys.executable, "train.py")
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
PAIR = (*TWO, "train.py")
SMALL = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0", "--noplots")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", **os.environ}


def run(*argv: str, command: tuple[str, ...] = ALONE) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *argv], cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)


def torchrun(*argv: str) -> subprocess.CompletedProcess[str]:
    """Two processes that train together."""
    return run(*argv, command=PAIR)


def start(*argv: str, command: tuple[str, ...] = ALONE) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*command, *argv], cwd=ROOT, stdout=subprocess.DEVNULL, env=ENVIRONMENT)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Poll a condition while the process lives."""
    while not condition():
        assert process.poll() is None, "training ended before the test could interrupt it"
        time.sleep(0.01)


def rows(results: Path) -> list[dict[str, str]]:
    with results.open(encoding="utf-8") as file:
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
    assert (a / "results.csv").read_text(encoding="utf-8") == (b / "results.csv").read_text(encoding="utf-8")
    left, right = tensors(a / "weights" / "last.pt"), tensors(b / "weights" / "last.pt")
    assert left.keys() == right.keys()
    assert len(left) > 500  # model, average and momentum of every parameter
    for name in left:
        assert torch.equal(left[name], right[name]), name


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
