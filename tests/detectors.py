"""Detectors that see something, without training."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.yolo import DetectionModel


def detector(*names: str, cfg: str = "yolov5n.yaml", seed: int = 0, **more: Any) -> DetectionModel:
    """With initial weights, statistics of pictures, and sure of something in many cells."""
    torch.manual_seed(seed)
    model = DetectionModel(cfg, nc=len(names), **more)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    model.train()(torch.rand(4, model.channels, 128, 128))
    for norm in norms:
        norm.momentum = 0.03
    for conv in model.head.m:
        with torch.no_grad():
            conv.bias.view(3, -1)[:, 4:] += 5.5
    model.names = dict(enumerate(names))
    return model.eval()


def content_of(model: DetectionModel) -> dict[str, Any]:
    """What a checkpoint of it holds."""
    description = {"yaml": model.yaml, "nc": model.nc, "names": model.names}
    return {**description, "model": model.state_dict(), "ema": None}
