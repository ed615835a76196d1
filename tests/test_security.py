"""What docs/security.md says, and a little of the fuzzing that it describes."""

from __future__ import annotations

import dataclasses
import re
import time
import warnings
from pathlib import Path

import pytest

from tests.fuzz import case_of, fuzz, run_case
from tests.fuzz_targets import PYTHON, TARGETS
from utils.files import ROOT

SECONDS = 12 / len(PYTHON)  # of each reader that is Python
NATIVE_SECONDS = 1.5
FEWEST = 2


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", page))
    there = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert len(named) > 30 and named - there == set()


def test_every_reader_has_a_row() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = page.split("## What opens what")[1].split("## ")[0].splitlines()
    for suffix in (".pt", ".safetensors", ".onnx", ".torchscript", ".pte", "_ncnn_model",
                   "_openvino_model", "yaml", ".streams", "label", "picture", "video", ".npz", ".csv",
                   ".json", "tar shard"):  # fmt: skip
        assert any(suffix in row for row in rows), suffix


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "page" else name for name in PYTHON]
)
def test_short_fuzzing(name: str, tmp_path: Path) -> None:
    """Other cases at each run would be a test that fails by chance: these are the first of the long run."""
    warnings.simplefilter("ignore")
    seeds = TARGETS[name].seeds(tmp_path)
    end, number = time.monotonic() + SECONDS, 0
    while time.monotonic() < end or number < FEWEST:
        assert run_case(name, number, tmp_path, seeds) == "", f"python -m tests.fuzz {name} --case {number}"
        number += 1


@pytest.mark.parametrize("name", ["onnx", "torchscript", "openvino", "images"])
def test_short_fuzzing_of_native_parsers(name: str) -> None:
    if name in ("onnx", "openvino"):
        pytest.importorskip("onnx")
        pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
    outcome = fuzz(name, NATIVE_SECONDS)
    assert outcome.cases > 0 and outcome.findings == {}


def test_what_is_found_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader with a defect, and cases that can be repeated."""

    def defect(path: Path) -> None:
        raise KeyError("x")

    monkeypatch.setitem(TARGETS, "labels", dataclasses.replace(TARGETS["labels"], read=defect))
    assert run_case("labels", 0, tmp_path, [b"0 0 0 1 1"]).startswith("KeyError: 'x' (test_security.py:")
    assert case_of("labels", 7, [b"0 0 0 1 1"]) == case_of("labels", 7, [b"0 0 0 1 1"])
