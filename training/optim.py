"""Optimizer, parameter groups and the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from utils.hyperparameters import Hyperparameters

OptimizerName = Literal["SGD", "Adam", "AdamW"]
NORMS = tuple(module for name, module in vars(nn).items() if "Norm" in name)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Three groups, in this order: biases, decayed weights, weights of normalisation layers."""
    groups: tuple[list[nn.Parameter], ...] = ([], [], [])
    biases, weights, norm_weights = groups
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = norm_weights if isinstance(module, NORMS) else weights
            (biases if name.endswith("bias") else kind).append(parameter)
    return [
        {"params": biases, "weight_decay": 0.0},
        {"params": weights, "weight_decay": weight_decay},
        {"params": norm_weights, "weight_decay": 0.0},
    ]


def build_optimizer(
    model: nn.Module, name: OptimizerName, hyp: Hyperparameters, weight_decay: float
) -> Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW; `hyp.momentum` is Adam's beta1.

    Args:
        weight_decay: that of `hyp`, scaled by the caller to the batch size in effect.
    """
    groups = parameter_groups(model, weight_decay)
    if name == "SGD":
        return torch.optim.SGD(groups, lr=hyp.lr0, momentum=hyp.momentum, nesterov=True)
    adam = torch.optim.Adam if name == "Adam" else torch.optim.AdamW
    return adam(groups, lr=hyp.lr0, betas=(hyp.momentum, 0.999))


@dataclass(frozen=True)
class Schedule:
    """Learning rate, momentum and gradient accumulation as pure functions of the position in training.

    Nothing here has state: a resumed run needs only to know where it is.

    Attributes:
        batches: batches an epoch.
        batch_size: images a batch, over all processes.
    """

    hyp: Hyperparameters
    epochs: int
    batches: int
    batch_size: int
    cosine: bool = False

    @property
    def warmup_batches(self) -> int:
        """Length of the warm-up, at least 100 batches; 0 when the hyper-parameters switch it off."""
        if self.hyp.warmup_epochs <= 0:
            return 0
        return max(round(self.hyp.warmup_epochs * self.batches), 100)

    @property
    def is_all_warmup(self) -> bool:
        """Whether the run ends before its rates are what they shall be."""
        return self.epochs * self.batches < self.warmup_batches

    @property
    def full_accumulation(self) -> int:
        """Batches an optimizer step, after the warm-up."""
        return max(round(self.hyp.nominal_batch / self.batch_size), 1)

    @property
    def weight_decay(self) -> float:
        """Weight decay for the images that one step really sees."""
        return self.hyp.weight_decay * self.batch_size * self.full_accumulation / self.hyp.nominal_batch

    def lr_factor(self, epoch: float) -> float:
        """Fraction of lr0 at an epoch: from 1 down to `lrf`, linear or cosine."""
        progress = epoch / self.epochs
        if self.cosine:
            return 1 + (self.hyp.lrf - 1) * (1 - math.cos(math.pi * progress)) / 2
        return self.hyp.lrf + (1 - self.hyp.lrf) * (1 - progress)

    def accumulation(self, step: int) -> int:
        """Batches an optimizer step, at the `step`-th batch of training."""
        return max(1, round(self._warm(step, 1, self.full_accumulation)))

    def apply(self, optimizer: Optimizer, step: int, epoch: int) -> None:
        """Set learning rates (and SGD's momentum) for the `step`-th batch of training, in `epoch`."""
        target = self.hyp.lr0 * self.lr_factor(epoch)
        for index, group in enumerate(optimizer.param_groups):
            start = self.hyp.warmup_bias_lr if index == 0 else 0.0
            group["lr"] = self._warm(step, start, target)
            if "momentum" in group:
                group["momentum"] = self._warm(step, self.hyp.warmup_momentum, self.hyp.momentum)

    def _warm(self, step: int, start: float, end: float) -> float:
        if step >= self.warmup_batches:
            return end
        return float(np.interp(step, [0, self.warmup_batches], [start, end]))
