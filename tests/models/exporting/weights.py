"""Small weights files to export."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from models.exporting.job import example
from models.yolo import DetectionModel
from tests.layouts import small
from utils.checkpoints.files import write_checkpoint

NAMES = {0: "a", 1: "naïve", 2: 'it\'s "c"'}


def write_weights(path: Path, model: DetectionModel | None = None) -> Path:
    """Write a model, a narrow yolov5n-gsconv by default, whose predictions lie all over the scale."""
    model = model or seeing(lively(small("yolov5n-gsconv")))
    content = {
        "format": "lean5", "version": 1, "model": model.state_dict(), "ema": None, "yaml": model.yaml,
        "names": NAMES, "nc": model.nc, "stride": model.stride.tolist(), "anchors": model.head.anchors,
        "epoch": 0,
    }  # fmt: skip
    write_checkpoint(path, content)
    return path


@torch.no_grad()
def lively(model: DetectionModel) -> DetectionModel:
    """The model with a head that answers: after initialisation all scores are near zero."""
    generator = torch.Generator().manual_seed(0)
    for conv in model.head.m:
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        nn.init.normal_(conv.weight, std=0.5, generator=generator)
        nn.init.normal_(conv.bias, mean=-0.5, generator=generator)
    return model.eval()


@torch.no_grad()
def spread(model: DetectionModel) -> DetectionModel:
    """The model with logits that differ by two from cell to cell, as those of a trained one do.

    Those of `lively` are nearly the same in all cells, and the order of detections a matter of rounding.
    These amplify rounding instead, too much for half precision.
    """
    lively(model)
    noise = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    for conv, logits in zip(model.head.m, model(noise)[1]):
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        channels = logits.permute(1, 4, 0, 2, 3).flatten(0, 1).flatten(1)  # (na * no, cells)
        scale = 2 / channels.std(dim=1).clamp(min=1e-6)
        conv.weight *= scale[:, None, None, None]
        conv.bias.copy_((conv.bias - channels.mean(dim=1)) * scale)
    return model


@torch.no_grad()
def seeing(model: DetectionModel) -> DetectionModel:
    """The model with BatchNorm statistics of real pictures.

    With statistics at random the signal dies away from layer to layer, and every picture gives the same. The
    smaller variances are raised to their layer's mean, or rounding errors would grow from layer to layer.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(example((64, 96), 4))
    for norm, momentum in zip(norms, kept):
        norm.momentum = momentum
        assert norm.running_var is not None
        norm.running_var.clamp_(min=float(norm.running_var.mean()))
    return model.eval().requires_grad_(False)
