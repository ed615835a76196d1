"""benchmark.py profile: kinds of kernels by hand, and the whole command on small images."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import benchmark
from benchmarks.profiling import kernels_of, onnx_kind, table
from utils.errors import UserError


@pytest.mark.parametrize(
    ("operator", "shapes", "kind"),
    [
        ("Conv", [(1, 16, 8, 8), (32, 16, 3, 3), (32,)], "Conv 3x3"),
        ("Conv", [(1, 16, 8, 8), (32, 8, 3, 3)], "Conv 3x3 in groups"),
        ("Conv", [(1, 16, 8, 8), (16, 1, 5, 5)], "Conv 5x5 depthwise"),
        ("Conv", [(1, 3, 8, 8), (16, 3, 6, 6)], "Conv 6x6"),
        ("Concat", [(1, 3, 8, 8), (1, 3, 8, 8)], "Concat"),
    ],
)
def test_kinds(operator: str, shapes: list[tuple[int, ...]], kind: str) -> None:
    args: dict[str, Any] = {
        "op_name": operator,
        "input_type_shape": [{"float": list(shape)} for shape in shapes],
    }
    assert onnx_kind(args) == kind


def test_medians_by_kernel_after_the_warm_up() -> None:
    told = iter([9.0, 1.0, 3.0, 2.0])  # the first is warm-up
    calls = {"a": lambda: {"Conv": [next(told), 4.0], "Add": [0.01]}}
    kernels = kernels_of(calls, runs=3, warmup=1)
    assert kernels == {"a": {"Conv": [2.0, 4.0], "Add": [0.01]}}
    # what is below 0.05 ms in every network is one row
    assert table(kernels | {"b": {"Conv": [7.0]}}) == [
        ("kernel", "a", "b"),
        ("Conv", "6.00 (2)", "7.00 (1)"),
        ("others", "0.01 (1)", "–"),
        ("all", "6.01 (3)", "7.00 (1)"),
    ]


@pytest.mark.parametrize("runtime", ["openvino", pytest.param("onnx", marks=pytest.mark.slow)])
def test_the_command(runtime: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime" if runtime == "onnx" else runtime)
    page = tmp_path / "profile.md"
    flags = ["--imgsz", "64", "--runs", "3", "--warmup", "1", "--threads", "1", "--output", str(page)]
    benchmark.main(["profile", "--cfg", "yolov5n", "yolov5n-csphet", "--runtimes", runtime, *flags])
    lines = page.read_text(encoding="utf-8").splitlines()
    assert "| kernel | yolov5n | yolov5n-csphet |" in lines
    assert any(line.startswith(f"## {runtime}") for line in lines)
    # HetConv has groups and YOLOv5 has none; which kernels a runtime takes for them depends on the CPU
    grouped = [line.split(" | ") for line in lines if re.search("in groups|GroupConvolution", line)]
    assert grouped
    assert {(plain, lighter != "– |") for _, plain, lighter in grouped} == {("–", True)}
    assert f"{runtime}: milliseconds an image" in capsys.readouterr().out
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="was not written by this command"):
        benchmark.main(["profile", "--cfg", "yolov5n", "--runtimes", runtime, *flags])
    assert page.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--runtimes", "torch"], "--runtimes must be some of onnx, openvino, found 'torch'"),
        (["--runs", "0"], "--runs must be at least 1, found 0"),
    ],
)
def test_flags_that_cannot_be(flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(["profile", "--cfg", "yolov5n", *flags])
    assert ended.value.code == 2 and complaint in capsys.readouterr().err
