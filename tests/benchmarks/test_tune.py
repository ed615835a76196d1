"""benchmark.py tune: the whole command on a small network, and the table that it completes."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
import yaml

import benchmark
from models.folding.forms import Site
from models.runtimes.machine import instruction_set
from models.tuning import findings
from models.tuning import tune as tuning
from models.tuning.findings import table
from tests.models.tuning.network import CFG
from utils.errors import UserError

TIMING = ["--imgsz", "64", "--threads", "1", "--runtimes", "onnx"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A table and a cache of our own, and little patience."""
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.setattr(tuning, "SECONDS", 0.01)
    monkeypatch.setattr(tuning, "ROUNDS", (2, 3))
    monkeypatch.setattr(tuning, "WHOLE_ROUNDS", (2, 3))
    monkeypatch.setattr(tuning, "WIDE", 1e9)
    path = tmp_path / "forms.yaml"
    for module in (findings, importlib.import_module("benchmarks.tune")):
        monkeypatch.setattr(module, "TABLE", path)
    table.cache_clear()
    yield path
    table.cache_clear()


def test_the_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    cfg = tmp_path / "small.yaml"
    cfg.write_text(json.dumps(CFG), encoding="utf-8")
    older = "groups 999>999 k3x3/1 n4 @8x8"
    entries = [
        {"runtime": "onnx", "instructions": instruction_set(), "machine": "old", "forms": {older: "2"}},
        {"runtime": "onnx", "instructions": "abacus", "machine": "another", "forms": {}},
    ]
    place.write_text(yaml.safe_dump(entries), encoding="utf-8")
    benchmark.main(["tune", "--cfg", str(cfg), *TIMING, "--table"])
    printed = capsys.readouterr().out
    assert "site" in printed and "groups 16>16 k3x3/1 n4 @16x16" in printed
    other, own = table()
    assert other == entries[1]
    assert own["machine"].startswith("onnx ") and "1 thread" in own["machine"]
    assert own["forms"][older] == "2"
    assert {Site.parse(text).kind for text in own["forms"]} >= {"groups", "sum", "slices", "upsample"}
    assert place.read_text(encoding="utf-8").startswith("# Which of equal forms")

    benchmark.main(["tune", "--cfg", str(cfg), *TIMING, "--seconds", "1"])  # known, so that nothing is timed
    assert "others not" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cfg", "yolov5n", "yolov5n", *TIMING], "there twice"),
        (["--cfg", "yolov5n", "--imgsz", "100"], "multiples of its stride 32"),
        (["--cfg", "yolov5x-nothing"], "yolov5x-nothing"),
    ],
)
def test_mistakes(flags: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        benchmark.main(["tune", *flags])


@pytest.mark.parametrize(
    "flags", [["--cfg", "yolov5n", "--runtimes", "ncnn"], ["--cfg", "yolov5n", "--seconds", "0"]]
)
def test_flags_out_of_range(flags: list[str]) -> None:
    with pytest.raises((SystemExit, UserError)):
        benchmark.main(["tune", *flags])
