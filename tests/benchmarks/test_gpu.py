"""benchmark.py gpu end to end, on the CPU, so that a minute on a GPU is not spent on its faults."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import benchmark
from benchmarks.gpu import command, measuring
from benchmarks.gpu.checks import CHECKS, Row
from benchmarks.gpu.measuring import LeftOut, Setting, differences
from tests.detectors import detector
from tests.models.exporting.weights import write_weights
from utils.errors import Incomplete, UserError

SMALL = ("--device", "cpu", "--batches", "2", "1", "--imgsz", "64", "--train-imgsz", "64", "--epochs", "1")
ON_CPU = set(CHECKS) - {"largest", "compile"}


@pytest.fixture(autouse=True)
def no_longer_than_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "WARMUP", 1)
    monkeypatch.setattr(measuring, "STEPS", 1)


@pytest.mark.slow
def test_all_of_it(tiny_data: Path, tmp_path: Path) -> None:
    flags = ("--train-data", str(tiny_data), "--data", str(tiny_data), "--workers", "0", "--seconds", "600")
    files = ("--json", str(tmp_path / "gpu.json"), "--output", str(tmp_path / "gpu.md"))
    benchmark.main(["gpu", *SMALL, *flags, *files])
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    found = {check["name"]: check for check in record["checks"]}
    assert set(found) == set(CHECKS) and not record["is_gpu"]
    assert not any(check["failed"] for check in found.values())
    assert {name for name, check in found.items() if check["rows"]} == ON_CPU | {"compile"}
    assert "for CUDA" in found["largest"]["state"]
    assert [row["precision"] for row in found["train"]["rows"]] == ["fp32", "bf16"]
    assert found["torchrun"]["rows"][0]["mAP50-95"] == found["train"]["rows"][0]["mAP50-95"]
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert "rehearsal on a CPU" in page and all(f"## {name}" in page for name in found)


def test_what_needs_no_training(tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = write_weights(tmp_path / "a.pt", detector("dark", "bright"))
    given = ("--weights", str(weights), "--data", str(tiny_data), "--json", str(tmp_path / "gpu.json"))
    names = ("steps", "largest", "forward", "val", "detect", "onnx")
    benchmark.main(["gpu", *SMALL, *given, "--checks", *names])
    found = {one["name"]: one for one in json.loads((tmp_path / "gpu.json").read_text("utf-8"))["checks"]}
    assert [name for name in found if found[name]["state"]] == ["largest"]
    assert [row["batch"] for row in found["steps"]["rows"]] == ["1", "2", "1", "2"]
    assert float(found["onnx"]["rows"][0]["largest difference"]) < 0.01
    apart = [float(row["farthest from the CPU's"].removesuffix(" px")) for row in found["detect"]["rows"]]
    assert len(apart) == 2 and max(apart) < 0.01
    assert "largest difference" in capsys.readouterr().out


def failing(at: Setting) -> Iterator[Row]:
    """It fails after a row."""
    yield {"figure": "1"}
    raise ValueError("the driver\nis too old")


def impossible(at: Setting) -> Iterator[Row]:
    """It cannot be had."""
    raise LeftOut("no such card")
    yield {}


def sound(at: Setting) -> Iterator[Row]:
    """It works."""
    yield {"figure": "2"}


def test_one_that_fails_stops_no_other(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = {"steps": failing, "forward": impossible, "val": sound}
    monkeypatch.setattr(command, "CHECKS", checks)
    page = tmp_path / "gpu.md"
    words = ["gpu", *SMALL, "--data", str(tiny_data), "--output", str(page)]
    with pytest.raises(Incomplete, match=r"1 of 3 checks failed: steps \(ValueError: the driver\)"):
        benchmark.main(words)
    text = page.read_text(encoding="utf-8")
    assert "**Failed:** ValueError: the driver." in text and "\nleft out: no such card." in text
    assert text.index("| 1 |") < text.index("| 2 |")
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="was not written by this command"):
        benchmark.main(words)


def test_no_check_begins_late(
    tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(at: Setting) -> Iterator[Row]:
        """It takes all the time there is."""
        at.deadline = 0.0
        yield {"figure": "3"}

    monkeypatch.setattr(command, "CHECKS", {"steps": slow, "val": sound})
    benchmark.main(["gpu", *SMALL, "--data", str(tiny_data)])
    assert "val: It works. 0.0 s; left out: no time was left" in capsys.readouterr().out


def test_boxes_are_compared_both_ways() -> None:
    box = torch.tensor([[10.0, 10, 20, 20, 0.9, 0]])
    moved = box + torch.tensor([2.0, 0, 0, 1, 0, 0])
    weak = torch.tensor([[100.0, 10, 120, 20, 0.26, 0]])  # near the threshold of 0.25
    assert differences([box], [moved]) == (0, 2.0)
    assert differences([box], [torch.cat((box, weak))]) == (1, 0.0)
    assert differences([torch.cat((box, weak))], [box]) == (-1, 0.0)
    assert differences([box], [box[:0]]) == (-1, math.inf)
    assert differences([box[:0]], [box]) == (1, math.inf)
