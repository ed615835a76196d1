from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hubconf
from models.detector import Detector
from models.yolo import DetectionModel
from utils.errors import UserError
from utils.files import ROOT

SIZES = [f"yolov5{size}{level}" for level in ("", "6") for size in "nsmlx"]


def test_there_is_an_entry_for_every_official_size() -> None:
    assert all(callable(getattr(hubconf, name)) for name in [*SIZES, "custom"])


def test_random_weights_of_other_classes() -> None:
    model = hubconf.yolov5n(pretrained=False, classes=3, _verbose=False, device="cpu")
    assert isinstance(model, Detector) and len(model.names) == 3
    bare = hubconf.yolov5n(pretrained=False, channels=4, classes=2, autoshape=False, device="cpu")
    assert isinstance(bare, DetectionModel)
    assert bare.eval()(torch.zeros(1, 4, 64, 64))[0].shape == (1, 252, 7)  # 3 * (64 + 16 + 4) boxes


def test_nothing_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        UserError, match=r"yolov5s\.pt is neither in .*nothing is downloaded.*pretrained=False"
    ):
        hubconf.yolov5s()
    with pytest.raises(UserError, match=r"'best\.pt' not found"):
        hubconf.custom()


def test_official_weights_in_the_weights_folder(
    official_weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "yolov5n.pt").symlink_to(official_weights)
    model = hubconf.yolov5n(device="cpu")
    assert isinstance(model, Detector) and model.names[5] == "bus"
    other = hubconf.yolov5n(classes=3, autoshape=False, device=torch.device("cpu"))
    assert isinstance(other, DetectionModel) and other.nc == 3
    first = next(iter(other.state_dict().values()))
    assert torch.equal(
        first, next(iter(hubconf.custom(official_weights, False, False, "cpu").state_dict().values()))
    )
    assert "tensors taken over" in capsys.readouterr().out


def test_torch_hub_from_another_folder(official_weights: Path, shared: Path, tmp_path: Path) -> None:
    program = f"""
import torch
model = torch.hub.load({str(ROOT)!r}, "custom", path={str(official_weights)!r}, source="local", device="cpu")
model.conf = 0.4
results = model([{str(shared / "data" / "bus.jpg")!r}], size=320)
results.print()
print(sorted(set(results.pandas().xyxy[0]["name"])))
print(results.save(save_dir="out"))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    assert "image 1/1: 1080x810 " in ended.stdout and "['bus', 'person']" in ended.stdout
    assert (tmp_path / "out" / "bus.jpg").exists()
