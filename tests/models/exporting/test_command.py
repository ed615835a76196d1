"""export.py as a user runs it: formats and flags."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

import detect
from models.exporting.job import example
from models.runtimes.machine import instruction_set
from models.runtimes.opening import load_backend
from models.runtimes.openvino import shared_core
from models.tuning.findings import is_measured
from models.weights import load_model
from models.yolo import DetectionModel
from tests.layouts import DISTINCT, small
from tests.models.exporting.command import call, left, session
from tests.models.exporting.weights import NAMES, lively, write_weights

onnx = pytest.importorskip("onnx")


def test_every_format_from_one_call(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    call(weights, "--include", "torchscript", "onnx", "openvino", "engine", "--imgsz", "64", "96")
    assert left(weights) == {"best.torchscript", "best.onnx", "best_openvino_model"}
    assert {file.name for file in (weights.parent / "best_openvino_model").iterdir()} == {
        "best.xml", "best.bin", "metadata.yaml",
    }  # fmt: skip
    x = example((64, 96), 1)
    with torch.inference_mode():
        expected = load_model(weights)(x)[0]
        for name in ("best.torchscript", "best.onnx", "best_openvino_model"):
            backend = load_backend(weights.parent / name)
            assert (backend.names, backend.stride, backend.shape) == (NAMES, 32, (64, 96))
            assert torch.allclose(backend(x), expected, rtol=1e-4, atol=1e-3)
    printed = capsys.readouterr().out
    assert "MB" in printed and "largest difference to PyTorch" in printed
    assert "detect.py --weights" in printed
    assert "trtexec --onnx=" in printed and "untested" in printed


def test_metadata_of_every_form(weights: Path) -> None:
    pytest.importorskip("openvino")
    call(weights, "--include", "torchscript", "onnx", "openvino", "--imgsz", "64", "--batch-size", "2")
    extra = {"config.txt": ""}
    with pytest.warns(FutureWarning):
        torch.jit.load(str(weights.with_suffix(".torchscript")), _extra_files=extra)
    config = json.loads(extra["config.txt"])
    of_onnx = dict(session(weights).get_modelmeta().custom_metadata_map)
    of_openvino = yaml.safe_load(
        (weights.parent / "best_openvino_model" / "metadata.yaml").read_text(encoding="utf-8")
    )
    assert {of_onnx.pop("forms"), of_openvino.pop("forms")} == {
        f"as measured in {runtime} on {instruction_set()}"
        if is_measured(runtime, instruction_set())
        else f"by rule, as nothing was measured in {runtime} on {instruction_set()}"
        for runtime in ("onnx", "openvino")
    }
    assert of_onnx == of_openvino
    assert json.loads(of_onnx["names"]) == {str(index): name for index, name in NAMES.items()}
    assert of_onnx["source"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (of_onnx["stride"], of_onnx["imgsz"], of_onnx["batch"]) == ("32", "[64, 64]", "2")
    assert (of_onnx["dynamic"], of_onnx["variant"]) == ("false", "custom")  # narrower than any layout
    assert (
        config["shape"] == [2, 3, 64, 64] and config["stride"] == 32 and config["source"] == of_onnx["source"]
    )


def test_a_layout_is_named(tmp_path: Path) -> None:
    call(write_weights(tmp_path / "a.b.pt", DetectionModel("yolov5n-csppc.yaml", nc=3)), "--imgsz", "64")
    extra = {"config.txt": ""}
    with pytest.warns(FutureWarning):
        torch.jit.load(str(tmp_path / "a.b.torchscript"), _extra_files=extra)
    assert json.loads(extra["config.txt"])["variant"] == "yolov5n-csppc"


def test_detect_runs_what_was_exported(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(weights, "--include", "onnx", "--imgsz", "64")
    monkeypatch.chdir(weights.parent)
    cv2.imwrite("x.jpg", np.full((64, 64, 3), 90, np.uint8))
    detect.main(["--weights", "best.onnx", "--source", "x.jpg", "--imgsz", "64"])
    assert Path("runs/detect/exp/x.jpg").is_file()


@pytest.mark.parametrize("flags", [[], pytest.param(["--no-deploy"], marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_half(kind: str, flags: list[str], weights: Path) -> None:
    call(weights, "--include", kind, "--imgsz", "64", *flags)
    file = weights.with_suffix(f".{kind}")
    size = file.stat().st_size
    call(weights, "--include", kind, "--imgsz", "64", "--half", *flags)
    assert file.stat().st_size < 0.75 * size
    x = example((64, 64), 1)
    with torch.inference_mode():
        expected, found = load_model(weights)(x)[0], load_backend(file)(x)
    assert 1e-5 < float((found - expected).abs().max() / expected.abs().max()) < 2e-2
    if kind == "onnx":
        assert session(weights).get_inputs()[0].type == "tensor(float16)"
        assert session(weights).get_outputs()[0].type == "tensor(float)"  # fp16 would round pixels


@pytest.mark.parametrize(
    "name",
    [n if n == "yolov5n-dysample" else pytest.param(n, marks=pytest.mark.slow) for n in DISTINCT],
)
def test_half_of_every_layout(name: str, tmp_path: Path) -> None:
    """A block that keeps a type of its own must take weights of half precision, and of single again."""
    weights = write_weights(tmp_path / "best.pt", lively(small(name)))
    call(weights, "--include", "onnx", "torchscript", "--imgsz", "64", "--half")  # each is compared
    assert left(weights) == {"best.onnx", "best.torchscript"}


def test_maps_coarser_than_the_head_reads(tmp_path: Path) -> None:
    """P3 and P4 are read, at strides 8 and 16; the network goes down to 32 and up again."""
    weights = write_weights(tmp_path / "best.pt", lively(small("yolov5-p34")))
    model = load_model(weights)
    assert (model.stride.tolist(), model.multiple) == ([8, 16], 32)
    call(weights, "--include", "onnx", "--imgsz", "48", "--dynamic")  # rounded up to 64, and compared at 96
    backend = load_backend(weights.with_suffix(".onnx"))
    assert backend.stride == load_backend(weights).stride == 32
    assert backend(example((32, 96), 1)).shape[1] == 3 * (4 * 12 + 2 * 6)


def test_half_openvino_stores_half_and_takes_single(weights: Path) -> None:
    openvino = pytest.importorskip("openvino")
    call(weights, "--include", "openvino", "--imgsz", "64")
    size = (weights.parent / "best_openvino_model" / "best.bin").stat().st_size
    call(weights, "--include", "openvino", "--imgsz", "64", "--half")
    folder = weights.parent / "best_openvino_model"
    assert (folder / "best.bin").stat().st_size < 0.6 * size
    assert shared_core().read_model(str(folder / "best.xml")).inputs[0].element_type == openvino.Type.f32


@pytest.mark.parametrize(
    "flags",
    [
        [],
        *(pytest.param([flag], marks=pytest.mark.slow) for flag in ("--no-deploy", "--dynamic", "--half")),
    ],
)
def test_raw_maps(flags: list[str], weights: Path) -> None:
    call(weights, "--include", "onnx", "torchscript", "--imgsz", "64", "96", "--raw", *flags)
    assert [output.name for output in session(weights).get_outputs()] == ["output0", "output1", "output2"]
    kinds = {node.op_type for node in onnx.load(str(weights.with_suffix(".onnx"))).graph.node}
    if "--no-deploy" not in flags:
        assert not kinds & {"Transpose", "Reshape", "Split"}  # the head's convolutions are the outputs
    x = example((64, 96), 1)
    kind = np.float16 if "--half" in flags else np.float32
    found = session(weights).run(None, {"images": x.numpy().astype(kind)})
    with torch.inference_mode():
        logits = load_model(weights)(x)[1]
    for level, (maps, expected) in enumerate(zip(found, logits)):
        height, width = 8 >> level, 12 >> level
        assert maps.shape == (1, 3 * 8, height, width)  # 3 anchors, 5 + 3 classes
        again = maps.reshape(1, 3, 8, height, width).transpose(0, 1, 3, 4, 2)
        assert np.abs(again - expected.numpy()).max() < (0.1 if "--half" in flags else 1e-3)


def test_simplify(weights: Path) -> None:
    pytest.importorskip("onnxslim")
    call(weights, "--include", "onnx", "--imgsz", "64", "--no-deploy")
    before = len(onnx.load(str(weights.with_suffix(".onnx"))).graph.node)
    call(weights, "--include", "onnx", "--imgsz", "64", "--no-deploy", "--simplify")
    assert len(onnx.load(str(weights.with_suffix(".onnx"))).graph.node) < before


@pytest.mark.parametrize("opset", [12, *(pytest.param(opset, marks=pytest.mark.slow) for opset in (13, 20))])
def test_opsets(opset: int, weights: Path) -> None:
    call(weights, "--include", "onnx", "--imgsz", "64", "--opset", str(opset))
    (own,) = onnx.load(str(weights.with_suffix(".onnx"))).opset_import
    assert own.version == opset


def test_a_size_is_rounded_up_with_a_notice(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(weights, "--include", "onnx", "--imgsz", "50", "65")
    assert session(weights).get_inputs()[0].shape == [1, 3, 64, 96]
    told = capsys.readouterr().out
    assert "--imgsz 50 is not a multiple of the stride 32: using 64" in told
    assert "--imgsz 65 is not a multiple of the stride 32: using 96" in told


def test_tensorrt_command(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--dynamic",
        "--workspace",
        "2",
        "--cache",
        "t.cache",
        "--half",
        "--batch-size",
        "4",
        "--verbose",
    ]
    call(weights, "--include", "tensorrt", "--imgsz", "64", *flags)
    command = next(line for line in capsys.readouterr().out.splitlines() if "trtexec" in line)
    for part in ("--memPoolSize=workspace:2048", "--timingCacheFile=t.cache", "--fp16", "--verbose",
                 "--minShapes=images:1x3x64x64", "--optShapes=images:4x3x64x64"):  # fmt: skip
        assert part in command
    assert left(weights) == {"best.onnx"}


def test_pictures_are_real_and_letterboxed() -> None:
    x = example((64, 96), 7)
    assert x.shape == (7, 3, 64, 96) and x.dtype == torch.float32
    assert torch.equal(x[0], x[6]) and not torch.equal(x[0], x[1])  # six pictures, then the first again
    assert float(x[0, :, :, 16:-16].std()) > 0.05
    # a square picture in a 64 x 96 canvas: 16 columns of grey 114 on either side
    assert torch.all(x[0, :, :, :16] == 114 / 255) and torch.all(x[0, :, :, -16:] == 114 / 255)
