"""export.py when it cannot be done: one line, nothing half-written, nothing of the user's lost."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models.exporting import formats, place
from models.exporting.job import Job
from models.registry import BLOCKS, register, same
from models.yolo import DetectionModel
from tests.layouts import small
from tests.models.exporting.command import call, left, refusal
from tests.models.exporting.weights import lively, write_weights
from utils.errors import Incomplete, UserError
from utils.files import ROOT

onnx = pytest.importorskip("onnx")


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
    (["--device", "warp"], "--device warp"),
]


@pytest.mark.parametrize(("flags", "complaint"), BAD, ids=[" ".join(flags) for flags, _ in BAD])
def test_what_cannot_be_asked_for(
    flags: list[str], complaint: str, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert complaint in refusal(capsys, "--weights", str(weights), *flags)
    assert left(weights) == set()


def test_weights_that_cannot_be_exported(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call(weights, "--include", "onnx", "--imgsz", "64")
    with pytest.raises(UserError, match=r"best\.onnx' is no PyTorch file; export starts from"):
        call(weights.with_suffix(".onnx"))
    with pytest.raises(UserError, match="not found"):
        call(weights.with_name("absent.pt"))
    assert "one file at a time, found 2" in refusal(capsys, "--weights", str(weights), str(weights))
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
    def refused(parent: Path, prefix: str) -> None:
        raise PermissionError(13, "Permission denied", str(parent))

    monkeypatch.setattr(place.files, "temporary_folder", refused)
    with pytest.raises(UserError, match=r"cannot write beside the weights in '.*': Permission denied; copy"):
        call(weights, "--include", "onnx", "--imgsz", "64")
    assert left(weights) == set()


def test_a_folder_of_an_export_is_replaced_and_another_is_not(weights: Path) -> None:
    pytest.importorskip("openvino")
    folder = weights.parent / "best_openvino_model"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="is in the way and was made by no export"):
        call(weights, "--include", "openvino", "--imgsz", "64")
    assert (folder / "thesis.txt").read_text(encoding="utf-8") == "years of work" and left(weights) == {
        folder.name
    }
    (folder / "thesis.txt").rename(folder / "metadata.yaml")
    call(weights, "--include", "openvino", "--imgsz", "64")
    assert {file.name for file in folder.iterdir()} == {"best.xml", "best.bin", "metadata.yaml"}
    assert left(weights) == {folder.name}
    (folder / "notes.txt").write_text("more work", encoding="utf-8")
    with pytest.raises(UserError, match="is in the way and was made by no export"):
        call(weights, "--include", "openvino", "--imgsz", "64")
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "more work"
    weights.with_suffix(".onnx").mkdir()
    with pytest.raises(UserError, match=r"best\.onnx' is in the way"):
        call(weights, "--include", "onnx")


def test_a_folder_comes_back_when_it_cannot_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old_openvino_model", tmp_path / "work" / "old_openvino_model"
    for folder, text in ((old, "old"), (new, "new")):
        folder.mkdir(parents=True)
        (folder / "best.xml").write_text(text, encoding="utf-8")
    real = Path.replace

    def fails_once(self: Path, target: Path) -> Path:
        if self == new:
            raise OSError(5, "Input/output error")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", fails_once)
    with pytest.raises(OSError, match="Input/output"):
        place.publish(new, old)
    assert (old / "best.xml").read_text(encoding="utf-8") == "old"


def test_an_opset_without_a_layer_is_one_line(tmp_path: Path) -> None:
    """torch prints the graph from C++ on such an error; only a process of its own shows that."""
    weights = write_weights(tmp_path / "a.pt", lively(small("yolov5n-dysample")))
    command = [sys.executable, "export.py", "--weights", str(weights), "--include", "onnx", "--imgsz", "64"]
    done = subprocess.run([*command, "--opset", "12"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch(
        r"error: onnx cannot express this network: .*grid_sampler.*version 16.*\n", done.stderr
    )
    assert left(weights) == set()


def test_a_closed_standard_output(weights: Path) -> None:
    command = [sys.executable, "export.py", "--weights", str(weights), "--include", "onnx", "--imgsz", "64"]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, left(weights)) == (0, {"best.onnx"}), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(
    weights: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signalled(job: Job) -> None:
        job.target.write_bytes(b"half")
        os.kill(os.getpid(), number)

    monkeypatch.setitem(
        formats.FORMATS, "onnx", dataclasses.replace(formats.FORMATS["onnx"], exporter=signalled)
    )

    def ends(number: int, frame: object) -> None:  # as the `Watch` of a command does
        raise SystemExit(128 + number)

    before = signal.signal(number, ends)
    try:
        with pytest.raises(SystemExit):
            call(weights, "--include", "onnx", "--imgsz", "64")
    finally:
        signal.signal(number, before)
    assert left(weights) == set()


def test_one_format_that_fails_does_not_cost_the_others(
    weights: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(job: Job) -> None:
        raise RuntimeError("no operator for this")

    monkeypatch.setitem(formats.FORMATS, "onnx", dataclasses.replace(formats.FORMATS["onnx"], exporter=fail))
    with pytest.raises(Incomplete, match=r"^not written: onnx cannot express this network: no operator"):
        call(weights, "--include", "onnx", "torchscript", "--imgsz", "64")
    assert left(weights) == {"best.torchscript"}
    assert f"1 of 2 formats of {weights} for 64x64 px images" in capsys.readouterr().out
    script = dataclasses.replace(formats.FORMATS["torchscript"], exporter=fail)
    monkeypatch.setitem(formats.FORMATS, "torchscript", script)
    with pytest.raises(UserError, match=r"^not written: onnx .*; torchscript cannot express") as caught:
        call(weights, "--include", "onnx", "torchscript", "--imgsz", "64")
    assert caught.value.status == 2
