"""export.py as a user runs it: formats, flags, and what happens when it cannot be done."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

import detect
import export
from models.backends import load_backend
from models.exporting import formats, place
from models.exporting.describe import example
from models.exporting.job import Job
from models.registry import BLOCKS, register, same
from models.weights import load_model
from models.yolo import DetectionModel
from tests.exporting.weights import NAMES, lively, spread, write_weights
from tests.layouts import small
from utils.errors import UserError
from utils.files import ROOT
from utils.nms import non_max_suppression

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.pt")


@pytest.fixture
def spread_weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.pt", spread(small("yolov5n-gsconv")))


def call(weights: Path, *flags: str) -> None:
    export.main(["--weights", str(weights), *flags])


def left(weights: Path) -> set[str]:
    """Names of everything beside the weights, hidden files too."""
    return {file.name for file in weights.parent.iterdir()} - {weights.name}


def session(weights: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(weights.with_suffix(".onnx")))


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
    of_openvino = yaml.safe_load((weights.parent / "best_openvino_model" / "metadata.yaml").read_text())
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


def test_half_openvino_stores_half_and_takes_single(weights: Path) -> None:
    openvino = pytest.importorskip("openvino")
    call(weights, "--include", "openvino", "--imgsz", "64")
    size = (weights.parent / "best_openvino_model" / "best.bin").stat().st_size
    call(weights, "--include", "openvino", "--imgsz", "64", "--half")
    folder = weights.parent / "best_openvino_model"
    assert (folder / "best.bin").stat().st_size < 0.6 * size
    assert openvino.Core().read_model(str(folder / "best.xml")).inputs[0].element_type == openvino.Type.f32


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--no-deploy"],
        *(pytest.param([flag], marks=pytest.mark.slow) for flag in ("--dynamic", "--half")),
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


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_nms_inside(kind: str, agnostic: bool, spread_weights: Path) -> None:
    pytest.importorskip(kind)
    flags = ["--nms", "--iou-thres", "0.3", "--conf-thres", "0.3", "--topk-all", "20", "--dynamic"]
    call(
        spread_weights, "--include", kind, "--imgsz", "64", *flags, *(["--agnostic-nms"] if agnostic else [])
    )
    x = example((64, 96), 3)
    x[1] = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    if kind == "onnx":
        (rows,) = session(spread_weights).run(["output0"], {"images": x.numpy()})
    else:
        import openvino

        xml = str(spread_weights.parent / "best_openvino_model" / "best.xml")
        config = {"INFERENCE_PRECISION_HINT": "f32"}
        rows = np.array(openvino.Core().compile_model(xml, "CPU", config)({"images": x.numpy()})["output0"])
    with torch.inference_mode():
        expected = non_max_suppression(
            load_model(spread_weights)(x)[0], conf_thres=0.3, iou_thres=0.3, max_det=20, agnostic=agnostic
        )
    assert sum(map(len, expected)) >= 20 and np.all(np.diff(rows[:, 0]) >= 0)
    for index, wanted in enumerate(expected):
        found = rows[rows[:, 0] == index, 1:]
        assert found.shape == wanted.shape and np.all(np.diff(found[:, 4]) <= 0)
        assert np.abs(found - wanted.numpy()).max() < 1e-2


def test_nms_keeps_some_of_each_class(spread_weights: Path) -> None:
    call(
        spread_weights,
        "--include",
        "onnx",
        "--imgsz",
        "64",
        "--nms",
        "--conf-thres",
        "0.2",
        "--topk-per-class",
        "2",
    )
    (rows,) = session(spread_weights).run(None, {"images": example((64, 64), 1).numpy()})
    counts = np.bincount(rows[:, 6].astype(int), minlength=3)
    assert counts.max() == 2 and len(rows) == counts.sum()


def test_nms_without_a_detection(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(weights, "--include", "onnx", "--imgsz", "64", "--nms", "--conf-thres", "1")
    (rows,) = session(weights).run(None, {"images": example((64, 64), 1).numpy()})
    assert rows.shape == (0, 7)
    assert "no detection above --conf-thres 1" in capsys.readouterr().out


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
    assert "rounded up to 64 x 96, multiples of the stride 32" in capsys.readouterr().out


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


BAD = [
    (["--include", "keras"], "--include keras: TensorFlow formats are not written; use litert"),
    (["--include", "saved_model"], "use litert"),
    (["--include", "edgetpu"], "its compiler takes"),
    (["--include", "paddle"], "use onnx"),
    (["--include", "onxx"], "no such format; known are torchscript, onnx, openvino, ncnn"),
    (["--keras"], "--keras: TensorFlow"),
    (["--mlmodel"], "--mlmodel: use --include coreml"),
    (["--optimize"], "--optimize: was for PyTorch Mobile"),
    (["--per-tensor"], "--per-tensor: weights are quantised per channel"),
    (["--include", "onnx", "--nms", "--raw"], "--nms needs decoded boxes"),
    (["--include", "onnx", "--half", "--int8"], "--int8 and --half exclude each other"),
    (["--include", "torchscript", "--nms"], "--nms is not for torchscript; it is for onnx"),
    (["--include", "ncnn", "--raw"], "--raw is not for ncnn"),
    (["--include", "onnx", "executorch", "--dynamic"], "--dynamic is not for executorch"),
    (["--include", "onnx", "--opset", "11"], "--opset must lie between 12 and 20, found 11"),
    (["--include", "onnx", "--opset", "21"], "found 21"),
    (["--imgsz", "1", "2", "3"], "--imgsz takes one side"),
    (["--batch-size", "5000"], "--batch-size must be at most 1024"),
    (["--device", "warp"], "--device warp"),
]


@pytest.mark.parametrize(("flags", "complaint"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_wishes_that_cannot_be_met(flags: list[str], complaint: str, weights: Path) -> None:
    with pytest.raises(UserError) as caught:
        call(weights, *flags)
    assert complaint in str(caught.value) and "\n" not in str(caught.value)
    assert left(weights) == set()


def test_weights_that_cannot_be_exported(weights: Path) -> None:
    call(weights, "--include", "onnx", "--imgsz", "64")
    with pytest.raises(UserError, match=r"best\.onnx' is no PyTorch file; export starts from"):
        call(weights.with_suffix(".onnx"))
    with pytest.raises(UserError, match="not found"):
        call(weights.with_name("absent.pt"))
    with pytest.raises(UserError, match="one file at a time, found 2"):
        export.main(["--weights", str(weights), str(weights)])
    weights.with_name("bad.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"bad\.pt"):
        call(weights.with_name("bad.pt"))


def test_a_whole_command_ends_with_one_line_and_status_2(weights: Path) -> None:
    command = [sys.executable, ROOT / "export.py", "--weights", weights, "--include", "onnx", "--opset", "3"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and result.stderr.count("\n") == 1 and result.stdout == ""
    assert result.stderr.startswith("error: --opset must lie between 12 and 20")


@pytest.mark.parametrize("package", ["onnx", "openvino"])
def test_missing_packages_name_the_command(
    package: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f"pip install {package}"):
        call(weights, "--include", "torchscript", "openvino", "--imgsz", "64")
    assert left(weights) == set()  # found out before anything is written


def test_missing_simplifier(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxslim", None)
    monkeypatch.setitem(sys.modules, "onnxsim", None)
    with pytest.raises(UserError, match="pip install onnxslim"):
        call(weights, "--include", "onnx", "--imgsz", "64", "--simplify")
    assert left(weights) == set()


class Unwritable(nn.Module):
    """A block that ONNX has no operator for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_that_a_format_does_not_know(tmp_path: Path) -> None:
    register(same)(Unwritable)
    try:
        model = small("yolov5n")
        cfg = dict(model.yaml)
        cfg["head"] = [*cfg["head"][:-1], [17, 1, "Unwritable", []], [[-1, 20, 23], *cfg["head"][-1][1:]]]
        weights = write_weights(tmp_path / "best.pt", lively(DetectionModel(cfg)))
        with pytest.raises(UserError, match=r"onnx cannot express this network: .*bessel_j0") as caught:
            call(weights, "--include", "onnx", "--imgsz", "64")
        assert "\n" not in str(caught.value) and left(weights) == set()
    finally:
        BLOCKS.pop("Unwritable")


def wrong_exporter(job: Job) -> None:
    """Writes a network whose scores are one per cent too large."""
    network = job.network

    class Wrong(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return network(images) * torch.tensor([1.0] * 4 + [1.01] * 4)

    formats.onnx.export(dataclasses.replace(job, network=Wrong()))


def test_a_mismatch_is_an_error_and_the_older_file_stays(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(weights, "--include", "onnx", "--imgsz", "64")
    before = weights.with_suffix(".onnx").read_bytes()
    wrong = dataclasses.replace(formats.FORMATS["onnx"], exporter=wrong_exporter)
    monkeypatch.setitem(formats.FORMATS, "onnx", wrong)
    with pytest.raises(
        UserError, match=r"onnx: differs from PyTorch by 0\.01 of the range \(0\.0001 allowed\)"
    ):
        call(weights, "--include", "onnx", "--imgsz", "64")
    assert left(weights) == {"best.onnx"} and weights.with_suffix(".onnx").read_bytes() == before
    weights.with_suffix(".onnx").unlink()
    with pytest.raises(UserError, match="differs"):
        call(weights, "--include", "torchscript", "onnx", "--imgsz", "64")
    assert left(weights) == {"best.torchscript"}  # what was verified before stays


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_an_interrupted_export_leaves_nothing(
    fault: BaseException, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(job: Job) -> None:
        job.target.mkdir()
        (job.target / "best.bin").write_bytes(b"half")
        raise fault

    broken = dataclasses.replace(formats.FORMATS["openvino"], exporter=breaks_off, needs=())
    monkeypatch.setitem(formats.FORMATS, "openvino", broken)
    with pytest.raises(type(fault)):
        call(weights, "--include", "openvino", "--imgsz", "64")
    assert left(weights) == set()


def test_a_folder_that_cannot_be_written(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(arguments["dir"]))

    monkeypatch.setattr(place.tempfile, "TemporaryDirectory", refused)
    with pytest.raises(UserError, match=r"cannot write beside the weights in '.*': Permission denied; copy"):
        call(weights, "--include", "onnx", "--imgsz", "64")
    assert left(weights) == set()


def test_a_folder_of_an_export_is_replaced_and_another_is_not(weights: Path) -> None:
    pytest.importorskip("openvino")
    folder = weights.parent / "best_openvino_model"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="is in the way and was made by no export"):
        call(weights, "--include", "openvino", "--imgsz", "64")
    assert (folder / "thesis.txt").read_text() == "years of work" and left(weights) == {folder.name}
    (folder / "thesis.txt").rename(folder / "metadata.yaml")
    call(weights, "--include", "openvino", "--imgsz", "64")
    assert {file.name for file in folder.iterdir()} == {"best.xml", "best.bin", "metadata.yaml"}
    assert left(weights) == {folder.name}
    weights.with_suffix(".onnx").mkdir()
    with pytest.raises(UserError, match=r"best\.onnx' is in the way"):
        call(weights, "--include", "onnx")


def test_a_folder_comes_back_when_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old_openvino_model", tmp_path / "work" / "old_openvino_model"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir(parents=True)
        (folder / "best.xml").write_text(text)
    real = Path.replace

    def fails_once(self: Path, target: Path) -> Path:
        if self == new:
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        place.publish(new, old)
    assert (old / "best.xml").read_text() == "old"


def test_pictures_are_real_and_letterboxed() -> None:
    x = example((64, 96), 7)
    assert x.shape == (7, 3, 64, 96) and x.dtype == torch.float32
    assert torch.equal(x[0], x[6]) and not torch.equal(x[0], x[1])  # six pictures, then the first again
    assert float(x[0, :, :, 16:-16].std()) > 0.05
    # a square picture in a 64 x 96 canvas: 16 columns of grey 114 on either side
    assert torch.all(x[0, :, :, :16] == 114 / 255) and torch.all(x[0, :, :, -16:] == 114 / 255)
