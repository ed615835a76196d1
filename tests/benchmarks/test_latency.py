"""benchmark.py latency: verdicts by hand, and the whole command on small images."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import benchmark
from benchmarks.latency import page as page_of
from benchmarks.networks import title_of
from benchmarks.timings import Timing, read_latency
from models.tuning.calls import measure
from utils.errors import UserError
from utils.files import ROOT

TIMING = Timing(
    runtime="onnx", variant="a", form="deployed", is_baseline=False, parameters=1, flops_ratio=0.8,
    memory_ratio=0.9, milliseconds=(7.0, 8.0, 9.0), ratio=(0.80, 0.85, 0.90), rounds=[7.0, 8.0, 9.0],
)  # fmt: skip


@pytest.mark.parametrize(
    ("flops", "ratio", "verdict"),
    [
        (0.8, (0.80, 0.85, 0.90), "faster"),  # 0.85 is below 1.15 x 0.8 = 0.92
        (0.7, (0.80, 0.85, 0.90), "faster, by less than its FLOPs promise"),  # 1.15 x 0.7 = 0.805
        (0.8, (0.95, 0.99, 1.01), "lighter and no faster"),  # the quartiles do not agree
        (0.8, (1.01, 1.05, 1.09), "SLOWER ALTHOUGH LIGHTER"),
        (1.0, (1.01, 1.05, 1.09), "slower"),
        (1.0, (0.98, 1.00, 1.02), "no difference"),
        (1.0, (0.90, 0.91, 0.92), "faster at no fewer FLOPs"),
    ],
)
def test_verdicts(flops: float, ratio: tuple[float, float, float], verdict: str) -> None:
    assert replace(TIMING, flops_ratio=flops, ratio=ratio).verdict == verdict


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("yolov5n-csppc.yaml", "yolov5n-csppc"),
        ("some/best.pt", "best.pt"),
        ("runs/benchmark/d/yolov5n-csppc-seed12/weights/best.pt", "yolov5n-csppc"),
        ("runs/train/exp3/weights/last.pt", "exp3"),
        ("weights/best.pt", "best.pt"),
    ],
)
def test_names(source: str, name: str) -> None:
    assert title_of(Path(source)) == name


def test_every_round_calls_each_once_in_an_order_of_its_own() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    times = measure(calls, rounds=20, warmup=1)
    rounds = ["".join(order[start : start + 3]) for start in range(3, len(order), 3)]  # after the warm-up
    assert len(rounds) == 20 and {"".join(sorted(names)) for names in rounds} == {"abc"}
    followers = {names[names.index("a") + 1] for names in rounds if not names.endswith("a")}
    assert followers == {"b", "c"}  # nobody has always the same neighbour
    assert {name: len(rows) for name, rows in times.items()} == {"a": 20, "b": 20, "c": 20}


@pytest.mark.parametrize("name", ["latency", "latency-bccd"])
def test_the_pages_of_the_project_follow_from_their_records(name: str) -> None:
    record, page = (ROOT / "docs" / f"{name}.{ending}" for ending in ("json", "md"))
    assert page_of(read_latency(record)) == page.read_text(encoding="utf-8")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    record, page = tmp_path / "latency.json", tmp_path / "latency.md"
    flags = ["--imgsz", "64", "--runs", "4", "--warmup", "1", "--threads", "1", "--public"]
    models = ["--cfg", "yolov5n", "yolov5n-csppc", "--runtimes", "onnx"]
    benchmark.main(["latency", *models, *flags, "--json", str(record), "--output", str(page)])
    rows = json.loads(record.read_text(encoding="utf-8"))["timings"]
    names = [(row["variant"], row["form"], row["is_baseline"]) for row in rows]
    assert names == [
        ("yolov5n", "deployed", True),
        ("yolov5n", "public", False),
        ("yolov5n-csppc", "deployed", False),
        ("yolov5n-csppc", "public", False),
    ]
    assert rows[0]["ratio"] == [1.0, 1.0, 1.0]
    assert all(len(row["rounds"]) == 4 and min(row["rounds"]) > 0 for row in rows)
    assert rows[2]["flops_ratio"] == pytest.approx(0.777, abs=0.01)  # 3.49 of 4.49 GFLOPs
    printed = capsys.readouterr().out
    assert printed.count("yolov5n-csppc") == page.read_text(encoding="utf-8").count("| yolov5n-csppc |") == 2


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cfg", "yolov5n", "--imgsz", "100"], "multiples of its stride 32"),
        (["--cfg", "yolov5n", "--baseline", "other"], "'other' is not measured"),
        (["--cfg", "yolov5n", "yolov5n.yaml"], "there twice"),
        (["--cfg", "{folder}/yolov5n (public).yaml", "yolov5n", "--public"], "there twice"),
        (["--cfg", "yolov5n", "--json", str(ROOT / "README.md")], "was not written by this command"),
        (["--cfg", "yolov5n", "--output", str(ROOT / "README.md")], "was not written by this command"),
    ],
)
def test_mistakes(flags: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "yolov5n (public).yaml").write_text(
        (ROOT / "models" / "yolov5n-csppc.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    flags = [flag.format(folder=tmp_path) for flag in flags]
    with pytest.raises(UserError, match=words):
        benchmark.main(["latency", "--imgsz", "64", "--runtimes", "torch", *flags])


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_int8(runtime: str, tiny_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    record, page = tmp_path / "latency.json", tmp_path / "latency.md"
    flags = ["--cfg", "yolov5n", "--runtimes", runtime, "--int8", str(tiny_data), "--imgsz", "64"]
    timing = ["--runs", "3", "--warmup", "1", "--threads", "1"]
    benchmark.main(["latency", *flags, *timing, "--json", str(record), "--output", str(page)])
    rows = json.loads(record.read_text(encoding="utf-8"))["timings"]
    assert [(row["form"], row["memory_ratio"]) for row in rows] == [("deployed", 1.0), ("int8", None)]
    assert rows[1]["rounds"] != rows[0]["rounds"] and rows[1]["parameters"] == rows[0]["parameters"]
    assert page.read_text(encoding="utf-8").count("not counted") == 1
    with pytest.raises(UserError, match="nobody counts its memory access"):
        benchmark.main(["latency", *flags, *timing, "--baseline", "yolov5n (INT8)"])
    # the page has the row, without the accuracy that was measured in fp32
    scores, report = tmp_path / "scores.csv", tmp_path / "report.html"
    scores.write_text("variant,seed,mAP50,mAP50-95\nyolov5n,0,0.7,0.4\n", encoding="utf-8")
    benchmark.main(["report", "--latency", str(record), "--accuracy", str(scores), "--output", str(report)])
    (row,) = (
        row
        for row in re.findall(r"<tr>.*?</tr>", report.read_text(encoding="utf-8"), re.DOTALL)
        if ">int8<" in row
    )
    assert "not counted" in row and "0.400" not in row


@pytest.mark.parametrize(
    "flags",
    [
        ["--runtimes", "java"],
        ["--int8", "x.yaml"],
        ["--runs", "0"],
        ["--warmup", "-1"],
        ["--threads", "5000"],
        ["--cfg"],
    ],
)
def test_wrong_flags(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["latency", *(["--cfg", "yolov5n"] if flags != ["--cfg"] else []), *flags])
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err
