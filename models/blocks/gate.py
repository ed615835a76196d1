"""The gate at the end of most attention: a sigmoid, and how it begins where it was inserted."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Gate(nn.Module):
    """`gain * sigmoid(x)`, any shape, elementwise. The gain is 1, as in the papers, until `open` is called.

    With a gain of 2 a gate whose logits are 0 lets everything through unchanged, and the sigmoid is where it
    is steepest: attention that begins there learns at once, and may strengthen as well as weaken. A sigmoid
    alone is near 1 only where it hardly moves. The gain is a buffer: it is saved with the weights and does
    not learn.
    """

    gain: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid() * self.gain

    def open(self, logits: float = 0.0) -> None:
        """Make it 1 where the logits have this value."""
        self.gain.fill_(1 / torch.tensor(logits, dtype=torch.float64).sigmoid())


def zero(*layers: nn.Module) -> None:
    """Set weights and biases to 0."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
