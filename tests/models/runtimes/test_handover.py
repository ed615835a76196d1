"""A network that begins in PyTorch and goes on elsewhere: `--runtime auto`."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import platformdirs
import pytest
import torch
from torch import Tensor

import detect
import hubconf
from models.common import AutoShape, DetectMultiBackend
from models.exporting.kept import kept_network
from models.runtimes import handover
from models.runtimes.choosing import Wanted, open_in
from models.runtimes.config import InferenceConfig
from models.runtimes.handover import PIXELS, SCORE, Handover, differ
from models.runtimes.onnx import OnnxBackend
from models.runtimes.opening import load_backend
from models.runtimes.pytorch import PyTorchBackend
from tests.models.exporting.weights import write_weights
from utils.errors import UserError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
CPU = torch.device("cpu")
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.pt")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path.parent / f"{tmp_path.name}-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))  # for child processes, too
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(folder / "lean5"))
    monkeypatch.setattr(handover, "AFTER", 4)
    return folder


def backend_of(weights: Path) -> Handover:
    return Handover(load_backend(weights), weights, "onnx", 1, 1)  # type: ignore[arg-type]


def run(backend: Handover, images: Tensor = IMAGES, seconds: float = 600) -> int:
    """Call until it is settled who goes on; how often that was."""
    calls, ends = 0, time.monotonic() + seconds
    while not backend.over:
        assert time.monotonic() < ends
        backend(images)
        calls += 1
        time.sleep(0.05)
    return calls


def test_the_other_runtime_takes_over(weights: Path) -> None:
    backend, alone = backend_of(weights), load_backend(weights)
    backend.title = f"{weights} (PyTorch, cpu)"
    assert (backend.names, backend.stride, backend.channels) == (alone.names, alone.stride, alone.channels)
    assert torch.equal(backend(IMAGES), alone(IMAGES))
    assert backend._child is None  # two images of four
    assert run(backend) > 1
    assert isinstance(backend.second, OnnxBackend)
    assert backend.title == f"{weights} (PyTorch, then ONNX Runtime, cpu)"
    found = backend(IMAGES)
    assert torch.equal(found, backend.second(IMAGES))
    torch.testing.assert_close(found, alone(IMAGES), rtol=1e-4, atol=1e-3)
    assert torch.equal(backend(IMAGES, augment=True), alone(IMAGES, augment=True))
    backend.close()


def test_it_goes_on_where_the_network_cannot_be_written(weights: Path, cache: Path) -> None:
    cache.write_text("in the way", encoding="utf-8")
    backend = backend_of(weights)
    run(backend)
    assert backend.second is None
    assert torch.equal(backend(IMAGES), load_backend(weights)(IMAGES))
    assert "then" not in backend.title


@pytest.mark.slow
def test_it_goes_on_where_the_other_gives_something_else(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(handover, "differ", lambda *_: True)
    backend = backend_of(weights)
    run(backend)
    assert backend.second is None
    assert "onnx gives other boxes than PyTorch, which goes on" in capsys.readouterr().err


def test_closing_ends_the_one_who_writes(weights: Path, cache: Path) -> None:
    backend = backend_of(weights)
    while backend._child is None:
        backend(IMAGES)
    time.sleep(1)
    started = time.monotonic()
    backend.close()
    assert time.monotonic() - started < 5
    assert backend._child.poll() is not None
    assert not [file for file in cache.rglob("*") if ".export-" in file.name]
    backend(IMAGES)
    assert backend.second is None


def test_with_augmentation_nobody_takes_over(weights: Path) -> None:
    backend = backend_of(weights)
    for _ in range(4):
        backend(IMAGES, augment=True)
    assert backend._child is None


@pytest.mark.parametrize(
    ("place", "by", "expected"),
    [
        (0, 0.9 * PIXELS, False), (3, 1.1 * PIXELS, True), (4, 0.9 * SCORE, False), (6, 1.1 * SCORE, True),
        (0, float("nan"), True),
    ],
)  # fmt: skip
def test_what_differs(place: int, by: float, expected: bool) -> None:
    predictions = torch.zeros(2, 5, 7, dtype=torch.float64)
    other = predictions.clone()
    other[1, 2, place] += by
    assert differ(other, predictions, 640) == expected
    assert not differ(predictions, predictions, 640)
    assert differ(predictions[:1], predictions, 640)
    if place < 4 and not expected:
        assert differ(other, predictions, 320)


def opened(weights: Path, images: int | None, runtime: str = "auto", augment: bool = False) -> object:
    config = InferenceConfig(weights=(str(weights),), runtime=runtime, augment=augment)  # type: ignore[arg-type]
    return config.open_weights(CPU, "data/digits.yaml", images=images)


def test_auto_is_for_long_work(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.runtimes.choosing.AFTER", 4)
    for images, expected in ((3, PyTorchBackend), (4, Handover), (None, Handover)):
        assert type(opened(weights, images)) is expected
    assert type(opened(weights, None, "torch")) is PyTorchBackend
    assert type(opened(weights, None, augment=True)) is PyTorchBackend
    with monkeypatch.context() as patch:
        patch.setattr("models.runtimes.choosing.installed", list)
        assert type(opened(weights, None)) is PyTorchBackend
    kept_network(weights, "onnx")
    config = InferenceConfig(weights=(str(weights),), runtime="auto", dnn=True)
    with pytest.raises(
        UserError, match=r"--dnn runs \.onnx files"
    ):  # nobody has asked for the one that is kept
        config.open_weights(CPU, "data/digits.yaml")
    assert type(opened(weights, 3)) is PyTorchBackend
    backend = opened(weights, 4)  # it is there already
    assert isinstance(backend, OnnxBackend)
    assert backend.title == f"{weights} (ONNX Runtime, cpu)"


def test_a_video_is_handed_over(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    for number in range(40):
        writer.write(np.roll(noise, number, axis=1))
    writer.release()
    kept_network(weights, "onnx")
    found = []
    for runtime in ("torch", "auto"):
        place = ("--project", str(tmp_path / "runs"), "--name", runtime, "--nosave", "--save-txt")
        detect.main(
            ["--weights", str(weights), "--source", str(clip), "--runtime", runtime, "--imgsz", "96", *place]
        )
        labels = sorted((tmp_path / "runs" / runtime / "labels").iterdir())
        found.append({file.name: file.read_text(encoding="utf-8") for file in labels})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) == 40
    # random weights give scores so alike that rounding tips one or another
    assert sum(found[0][name] == found[1][name] for name in found[0]) >= 30
    printed = capsys.readouterr().out
    assert f"{weights} (PyTorch, cpu)" in printed
    assert f"{weights} (ONNX Runtime, cpu)" in printed


@pytest.mark.slow
def test_one_that_is_kept_takes_over_at_once(weights: Path) -> None:
    """Where nobody knows whether pictures will be augmented, or the network moved, PyTorch stays at hand."""
    kept_network(weights, "onnx")
    alone = load_backend(weights)
    backend = open_in([weights], CPU, Wanted(augment=None))
    assert isinstance(backend, Handover) and backend.pt
    found = backend(IMAGES)
    assert isinstance(backend.second, OnnxBackend) and backend._child is None
    assert torch.equal(found, backend.second(IMAGES)) and not torch.equal(found, alone(IMAGES))
    assert torch.equal(backend(IMAGES, augment=True), alone(IMAGES, augment=True))
    copied = copy.deepcopy(backend)
    assert copied.second is None and copied.model is not backend.model
    assert torch.equal(copied(IMAGES), found)
    wide = backend.double()(IMAGES)  # as a user's `model.half()`
    assert wide.dtype is torch.float64
    torch.testing.assert_close(wide.float(), alone(IMAGES), rtol=1e-4, atol=1e-3)


@pytest.mark.slow
def test_the_hub(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures of a script go to the other runtime as those of a command do."""
    pictures = [np.random.default_rng(n).integers(0, 255, (64, 96, 3), np.uint8) for n in range(3)]
    model = hubconf.custom(weights, device="cpu", _verbose=False)
    assert isinstance(model.backend, Handover)
    first = model(pictures, size=96)
    model(pictures, size=96)
    child = model.backend._child
    assert child is not None and child.wait(timeout=600) == 0
    assert len(model(pictures, size=96)) == len(first) == 3
    assert isinstance(model.backend.second, OnnxBackend)
    assert type(hubconf.custom(weights, device="cpu", runtime="torch").backend) is PyTorchBackend
    assert type(hubconf.custom(weights, device="cpu", runtime="onnx").backend) is OnnxBackend
    shaped = AutoShape(DetectMultiBackend(weights))
    assert isinstance(shaped.backend, Handover)
    shaped(pictures, size=96)
    assert isinstance(shaped.backend.second, OnnxBackend)
    assert "warning" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"runtime": "abacus"}, "runtime must be one of torch, onnx, openvino, auto, found 'abacus'"),
        ({"runtime": "onnx", "autoshape": False}, "runtime='onnx' is for the detector of a weights file"),
    ],
)
def test_a_runtime_that_cannot_be(weights: Path, given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        hubconf.custom(weights, device="cpu", **given)
    with pytest.raises(UserError, match="is for the detector of a weights file"):
        hubconf.yolov5n(pretrained=False, device="cpu", runtime="openvino")
