"""Exponential moving average of a model's weights: what is validated and shipped."""

from __future__ import annotations

import copy
import math
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

ModelType = TypeVar("ModelType", bound=nn.Module)


class ModelEma(Generic[ModelType]):
    """A copy of the model whose weights trail it.

    The decay rises as `decay * (1 - exp(-updates / tau))`, so that the fast changes at the start
    are followed closely.

    Attributes:
        model: the averaged model, in eval mode, without gradients.
        updates: how many times the average was updated.
    """

    def __init__(
        self, model: ModelType, decay: float = 0.9999, tau: float = 2000.0, updates: int = 0
    ) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.tau, self.updates = decay, tau, updates

    def decay_at(self, updates: int) -> float:
        return self.decay * (1 - math.exp(-updates / self.tau))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`. Integer buffers are copied, there is no average of a counter."""
        self.updates += 1
        averages: list[Tensor] = []
        sources: list[Tensor] = []
        current = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.dtype.is_floating_point:
                averages.append(average)
                sources.append(current[name])
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(averages, sources, 1 - self.decay_at(self.updates))
