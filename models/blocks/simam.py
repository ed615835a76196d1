"""Attention without weights (SimAM, ICML 2021, proceedings.mlr.press/v139/yang21o)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.gate import Gate
from models.registry import keeping, register

USUAL = 0.75  # what the logits are on the average: a quarter of d / var, whose mean is 1, and 1/2


@register(keeping)
class SimAM(nn.Module):
    """`x * sigmoid(d / (4 (var + e_lambda)) + 1/2)`, d the squared distance of a pixel to its channel's mean.

    (B, c1, H, W) -> the same shape. This is the inverse of the energy in the paper's equation 5; `var` is the
    sum of d over the map, divided by the number of pixels less one. There are no weights.

    Its gate lies between 0.62 and 1, so that a network into which it is put is another one. Inserted, it is
    scaled to be 1 where d is the variance. With `share` it begins as the identity: one weight, `share`, says
    how much of the attention counts, `x + share * (attention - x)`, and is learnt from 0. That is not in the
    paper.
    """

    def __init__(self, c1: int, e_lambda: float = 1e-4, share: bool = False) -> None:
        super().__init__()
        number = isinstance(e_lambda, (int, float)) and not isinstance(e_lambda, bool)
        if not number or not e_lambda > 0:
            raise ValueError(f"SimAM: e_lambda must be a number > 0, got {e_lambda!r}")
        if not isinstance(share, bool):
            raise ValueError(f"SimAM: share must be true or false, got {share!r}")
        self.e_lambda = float(e_lambda)
        self.share = nn.Parameter(torch.ones(())) if share else None
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.shape[2] * x.shape[3]
        distance = (x - x.mean(dim=(2, 3), keepdim=True)).square()
        variance = distance.mean(dim=(2, 3), keepdim=True) * (pixels / (pixels - 1 + (pixels == 1)))
        gate = self.gate(distance / (4 * (variance + self.e_lambda)) + 0.5)
        return x * gate if self.share is None else x * (1 + self.share * (gate - 1))

    def pass_through(self) -> str:
        """Return the input until something better is learnt, or be near that without a weight to learn by."""
        if self.share is not None:
            nn.init.zeros_(self.share)
            return ""
        self.gate.open(USUAL)
        return (
            "gives 0.92 to 1.47 times its input, 1 on the average, as SimAM has no weights to begin "
            "otherwise with; SimAM(0.0001, true) has one, and begins as the identity"
        )
