"""Functions as layers, and tensors without data, for the tests of what networks cost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.yolo import DetectionModel
from utils.counting.measure import measure
from utils.counting.meter import Cost


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def cost_of(function: Callable[[Tensor], object], *shape: int) -> Cost:
    return measure(Apply(function), meta(*shape))


def on_meta(name: str) -> DetectionModel:
    with torch.device("meta"):
        return DetectionModel(name).eval()
