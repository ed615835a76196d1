"""--half on a CPU: bf16 where the CPU is fast in it, else a line. No machine of ours is: it is imitated."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import detect
import utils.device
import val
from models.runtimes import openvino
from models.runtimes.choosing import Wanted, open_in
from models.runtimes.opening import load_backend
from models.runtimes.pytorch import PyTorchBackend
from tests.detectors import content_of, detector
from tests.models.exporting.weights import write_weights
from utils.checkpoints.files import write_checkpoint
from utils.device import half_dtype

CPU = torch.device("cpu")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "best.pt", content_of(detector("a", "b")))
    return tmp_path / "best.pt"


@pytest.fixture(params=[False, True])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(utils.device, "cpu_is_fast_in_bf16", lambda: request.param)
    return bool(request.param)


def test_which_precision(fast: bool) -> None:
    assert half_dtype(CPU) is (torch.bfloat16 if fast else None)
    assert half_dtype(torch.device("cuda")) is torch.float16
    assert half_dtype(torch.device("mps")) is None


def test_pytorch(weights: Path, fast: bool) -> None:
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        found, expected = load_backend(weights, half=True), load_backend(weights)(images)
        rough = found(images)
    assert found.dtype is (torch.bfloat16 if fast else torch.float32)
    assert {parameter.dtype for parameter in found.parameters()} == {found.dtype}
    assert ("(PyTorch, cpu in bf16)" in found.title) == fast
    assert rough.dtype is torch.float32
    assert torch.equal(rough, expected) != fast
    # eight bits of mantissa: three digits of a logit, and coordinates are decoded in single precision
    torch.testing.assert_close(rough[..., 4:], expected[..., 4:], rtol=0, atol=0.05)
    torch.testing.assert_close(rough[..., :2], expected[..., :2], rtol=0, atol=3)


def test_auto_stays_in_pytorch(weights: Path, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What bf16 gives would differ from any other runtime's answer."""
    monkeypatch.setattr("models.runtimes.choosing.installed", lambda: ["onnx"])
    monkeypatch.setattr("models.runtimes.choosing.written", lambda _: None)
    backend = open_in([weights], CPU, Wanted("auto", half=True))
    assert (type(backend) is PyTorchBackend) == fast


@pytest.mark.slow
def test_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO is asked for bf16, and says whether it computes in it: on this CPU, perhaps, it does not."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnx")
    weights = write_weights(tmp_path / "best.pt")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    core, asked = openvino.shared_core(), []

    class Core:
        read_model = core.read_model

        @staticmethod
        def compile_model(model: object, device: str, config: dict[str, object]) -> object:
            asked.append(config["INFERENCE_PRECISION_HINT"])
            return core.compile_model(model, device, config)

    images = torch.rand(1, 3, 64, 64)
    monkeypatch.setattr(openvino, "shared_core", Core)
    for fast, told in ((False, "f32"), (True, "f32"), (True, "bf16")):
        with monkeypatch.context() as patch:
            patch.setattr(utils.device, "cpu_is_fast_in_bf16", lambda fast=fast: fast)
            patch.setattr(openvino, "told_precision", lambda _, told=told: told)
            backend = open_in([weights], CPU, Wanted("openvino", half=True))
        assert asked[-1] == ("bf16" if fast else "f32")
        assert backend.dtype is (torch.bfloat16 if told == "bf16" else torch.float32)
        assert backend.place == ("cpu in bf16" if told == "bf16" else "cpu")
        torch.testing.assert_close(backend(images), load_backend(weights)(images), rtol=0.05, atol=3)


def test_val_tells_what_it_costs(
    weights: Path, tiny_data: Path, tmp_path: Path, fast: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--weights", str(weights), "--data", str(tiny_data), "--imgsz", "64", "--noplots")
    place = ("--project", str(tmp_path / "runs"))
    reports = []
    for half in ((), ("--half",)):
        val.main([*flags, *place, *half, "--name", f"n{len(half)}"])
        content = (tmp_path / "runs" / f"n{len(half)}" / "metrics.json").read_text(encoding="utf-8")
        reports.append(json.loads(content))
    told = capsys.readouterr()
    line = r"^bf16 compared with single precision: precision (.+), recall .*, mAP50_95 ([+-]0\.\d{4})$"
    found = re.search(line, told.out, flags=re.M)
    assert bool(found) == fast
    slow = "warning: --half: this CPU has neither AMX nor AVX512-BF16 and would be slower in it; running in"
    assert (slow in told.err) != fast
    if found:
        single, half = reports
        expected = [half[key] - single[key] for key in ("precision", "mAP50_95")]
        assert [float(value) for value in found.groups()] == pytest.approx(expected, abs=6e-5)
        assert "(PyTorch, cpu in bf16); results" in told.out
        assert half["mAP50_95"] == pytest.approx(single["mAP50_95"], abs=0.05)


def test_detect(
    weights: Path, tiny_data: Path, tmp_path: Path, fast: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_data.parent / "images" / "val" / "0.png"
    place = ("--project", str(tmp_path / "runs"), "--nosave", "--imgsz", "64")
    detect.main(["--weights", str(weights), "--source", str(source), "--half", *place])
    told = capsys.readouterr()
    assert ("cpu in bf16" in told.out) == fast
    assert ("running in single precision" in told.err) != fast
