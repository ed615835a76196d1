"""Exponential moving average of a model's weights: what is validated and shipped."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

ModelType = TypeVar("ModelType", bound=nn.Module)


class ModelEma(Generic[ModelType]):
    """A copy of the model whose weights trail it.

    The decay rises as `decay * (1 - exp(-updates / tau))`, so that the fast changes at the start
    are followed closely.

    Attributes:
        model: the averaged model, in eval mode, without gradients.
        updates: how many times the average was updated.
    """

    def __init__(self, model: ModelType, decay: float = 0.9999, tau: float = 2000.0) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.tau, self.updates = decay, tau, 0

    def decay_at(self, updates: int) -> float:
        return self.decay * (1 - math.exp(-updates / self.tau))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`. Integer buffers are copied, there is no average of a counter."""
        self.updates += 1
        average, current = self.model.state_dict(), model.state_dict()
        floats = [name for name, tensor in average.items() if tensor.dtype.is_floating_point]
        move = get_ema_multi_avg_fn(self.decay_at(self.updates))
        move([average[name] for name in floats], [current[name] for name in floats], self.updates)
        for name in average.keys() - floats:
            average[name].copy_(current[name])
