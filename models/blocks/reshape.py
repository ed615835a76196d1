"""Layers without weights that join or rearrange maps, each with its wiring rule beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.registry import Row, Wiring, register


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Bring channels of different groups next to each other. (B, C, H, W), C a multiple of `groups`.

    The channel axis is read as a table of `groups` rows and transposed: channel `g * C/groups + i` goes to
    place `i * groups + g`. Two groups interleave the halves; C/2 groups undo that: even channels first, then
    odd. The batch axis stays alone, so that the operation exports for any batch size.
    """
    batch, channels, height, width = x.shape
    # reshape, not unflatten: the TorchScript exporter freezes the sizes that unflatten leaves alone
    table = x.reshape(batch, groups, channels // groups, height, width)
    return table.transpose(1, 2).reshape(batch, channels, height, width)


def _summed(row: Row) -> Wiring:
    if row.argument(0, 1) != 1:
        raise ValueError(f"joins along the channels: its argument must be 1, got {row.args[0]}")
    return Wiring(row.args, sum(row.channels), joins=True)


@register(_summed, example=(1,))
class Concat(nn.Module):
    """Concatenate a list of tensors along `dimension` (1: channels)."""

    def __init__(self, dimension: int = 1) -> None:
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        return torch.cat(x, dim=self.d)


def _matched(row: Row) -> Wiring:
    if len(set(row.channels)) != 1:
        raise ValueError(f"sums maps of equal channels, got {list(row.channels)}")
    return Wiring(row.args, row.channels[0], joins=True)


@register(_matched, example=())
class Add(nn.Module):
    """The sum of a list of tensors of one shape."""

    def forward(self, x: list[Tensor]) -> Tensor:
        total = x[0]
        for part in x[1:]:
            total = total + part
        return total


def _contracted(row: Row) -> Wiring:
    return Wiring(row.args, row.c1 * row.argument(0, 2) ** 2)


@register(_contracted, example=(2,))
class Contract(nn.Module):
    """Space to depth: (B, C, H, W) -> (B, C * gain^2, H / gain, W / gain); H and W are multiples of gain."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        gain, (batch, channels, height, width) = self.gain, x.shape
        patches = x.reshape(batch, channels, height // gain, gain, width // gain, gain)
        offsets_first = patches.permute(0, 3, 5, 1, 2, 4)  # (B, g, g, C, H/g, W/g)
        return offsets_first.reshape(batch, channels * gain**2, height // gain, width // gain)


def _expanded(row: Row) -> Wiring:
    c1, gain = row.c1, row.argument(0, 2)
    if gain < 1 or c1 % gain**2:
        raise ValueError(f"needs a multiple of gain^2 = {gain**2} channels, got {c1}")
    return Wiring(row.args, c1 // gain**2)


@register(_expanded, example=(2,))
class Expand(nn.Module):
    """Depth to space, the inverse of Contract: (B, C, H, W) -> (B, C / gain^2, H * gain, W * gain)."""

    def __init__(self, gain: int = 2) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        gain, (batch, channels, height, width) = self.gain, x.shape
        patches = x.reshape(batch, gain, gain, channels // gain**2, height, width)
        offsets_last = patches.permute(0, 3, 4, 1, 5, 2)  # (B, C/g^2, H, g, W, g)
        return offsets_last.reshape(batch, channels // gain**2, height * gain, width * gain)
