"""Weighted concatenation, as tutorials carry BiFPN's fusion (EfficientDet, arXiv 1911.09070) into YOLOv5."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.reshape import Concat
from models.blocks.taking import Take
from models.registry import Row, Wiring, register

EPSILON = 1e-4  # of the paper


def _weighted(row: Row) -> Wiring:
    if row.argument(0, 1) != 1:
        raise ValueError(f"joins along the channels: its argument must be 1, got {row.args[0]}")
    return Wiring((len(row.channels),), sum(row.channels), joins=True)


@register(_weighted, example=(1,))
class BiFPN(nn.Module):
    """Concatenate maps, each times its learned share. Known as BiFPN_Concat2 and BiFPN_Concat3.

    The shares are the paper's fast normalised fusion, `relu(w_i) / (sum of relu(w) + 1e-4)`, with one weight
    a map, 1 at first. Deviation: the paper adds the maps up; here they are concatenated, as in the tutorials.

    Shares of n maps are about 1 / n. In place of a Concat with trained weights, `gain` makes them 1, so that
    the network stays the same; it is saved with the weights and does not learn.

    Args:
        n: how many maps are joined, which a yaml says by its `from`.
    """

    gain: Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(n))
        self.register_buffer("gain", torch.ones(()))

    def forward(self, x: list[Tensor]) -> Tensor:
        shares = self.shares()
        return torch.cat([features * shares[i] for i, features in enumerate(x)], dim=1)

    def shares(self) -> Tensor:
        """(n,) by what each map is multiplied."""
        positive = self.w.relu()
        return self.gain * positive / (positive.sum() + EPSILON)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Concat's: shares of 1."""
        if isinstance(other, Concat):
            take(self.w, torch.ones_like(self.w))
            take(self.gain, torch.full_like(self.gain, len(self.w) + EPSILON))
        else:
            take.alike(self, other)
