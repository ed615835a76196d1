"""Weights that were trained with the public code of a lightweight block load under the names of that code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from models.transfer import transfer
from models.weights import load_model
from models.yolo import DetectionModel
from tests.layouts import images, small
from tests.utils.checkpoints.official_files import fake_module, fake_of, save_fake
from utils.checkpoints.files import inference_state, read_checkpoint

VARIANTS = ("gsconv", "slimneck", "shufflenetv2", "csppc", "c3dual", "csphet")
PUBLIC_NAMES = {  # one tensor of each block, as golden/blocks has it
    "gsconv": "model.10.cv2.conv.weight",
    "slimneck": "model.13.gsb.0.conv_lighting.1.cv2.bn.running_var",
    "shufflenetv2": "model.1.branch1.0.bias",
    "csppc": "model.2.m.0.DualPConv.1.partial_conv3.weight",
    "c3dual": "model.2.m.0.cv2.gc.weight",
    "csphet": "model.2.m.0.0.filters.3.1.weight",
}


def public_file(model: DetectionModel, path: Path, unused: bool = False) -> Path:
    """The model as an official checkpoint; `unused` adds the `res` convolution of the public VoVGSCSP."""
    extra = {"yaml": model.yaml, "names": model.names, "nc": model.nc, "stride": model.stride}
    root = fake_of(model, **extra)
    type(root).__module__, type(root).__qualname__ = "models.yolo", "DetectionModel"
    if unused:
        for layer in root._modules["model"]._modules.values():
            if type(layer).__qualname__ == "VoVGSCSP":
                conv = fake_of(nn.Conv2d(8, 8, 3, bias=False))
                layer._modules["res"] = fake_module(
                    "models.common", "Conv", {}, {"conv": conv, "bn": fake_of(nn.BatchNorm2d(8))}
                )
    return save_fake(path, {"epoch": -1, "model": root, "ema": None})


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_public_weights_load(variant: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = small(f"yolov5n-{variant}").half().float().eval()  # what half precision can hold
    path = public_file(model, tmp_path / "public.pt", unused=variant == "slimneck")
    assert PUBLIC_NAMES[variant] in inference_state(read_checkpoint(path))
    x = images(model, 1)
    assert torch.equal(load_model(path)(x)[0], model(x)[0])
    notices = [record.getMessage() for record in caplog.records]
    # four VoVGSCSP, each with a weight, a BatchNorm of four tensors and its counter
    dropped = f"{path}: dropped the unused `res` convolutions of VoVGSCSP (24 tensors)"
    assert notices == ([dropped] if variant == "slimneck" else [])


def test_public_weights_transfer(tmp_path: Path) -> None:
    path = public_file(small("yolov5n-slimneck"), tmp_path / "public.pt", unused=True)
    report = transfer(small("yolov5n-slimneck"), inference_state(read_checkpoint(path)))
    assert report.share == 1.0
    assert list(report.kept) == ["model.24.anchors"]


def test_the_published_form_keeps_its_unused_convolution(tmp_path: Path) -> None:
    model = small("yolov5n-slimneck-paper").half().float()
    loaded = load_model(public_file(model, tmp_path / "public.pt"))
    assert torch.equal(loaded.model[13].res.conv.weight, model.model[13].res.conv.weight)
