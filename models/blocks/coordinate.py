"""Attention that knows where along each axis: coordinate attention and EMA."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.conv import batch_norm
from models.blocks.gate import Gate, zero
from models.blocks.squeeze import hidden_channels
from models.registry import keeping, register


def along_axes(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, H + W, 1): the mean of every row, then that of every column."""
    rows = x.mean(dim=3, keepdim=True)
    columns = x.mean(dim=2, keepdim=True).transpose(2, 3)
    return torch.cat((rows, columns), dim=2)


@register(keeping)
class CoordAtt(nn.Module):
    """Coordinate attention (CA, arXiv 2103.02907): a pixel is weighed by its row's gate times its column's.

    The means of all rows and columns, side by side, go through one 1x1 convolution to c1 / ratio channels (at
    least 8), BatchNorm and h-swish; then rows and columns through one each, back to c1 channels, and a
    sigmoid. All three have biases. (B, c1, H, W) -> the same shape.
    """

    def __init__(self, c1: int, ratio: int = 32) -> None:
        super().__init__()
        hidden = hidden_channels("CoordAtt", c1, ratio, least=8)
        self.conv1 = nn.Conv2d(c1, hidden, kernel_size=1)
        self.bn1 = batch_norm(hidden)
        self.act = nn.Hardswish()
        self.conv_h = nn.Conv2d(hidden, c1, kernel_size=1)
        self.conv_w = nn.Conv2d(hidden, c1, kernel_size=1)
        self.gate_h, self.gate_w = Gate(), Gate()

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[2]
        both = self.act(self.bn1(self.conv1(along_axes(x))))
        rows = self.gate_h(self.conv_h(both[:, :, :height]))
        columns = self.gate_w(self.conv_w(both[:, :, height:]).transpose(2, 3))
        return x * rows * columns

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.conv_h, self.conv_w)
        self.gate_h.open()
        self.gate_w.open()


@register(keeping)
class EMA(nn.Module):
    """Efficient multi-scale attention (EMA, arXiv 2305.13563): two branches tell each other where to look.

    In each of `groups` slices of the channels, which share all weights:

        near   the slice times its row's and its column's gates (a 1x1 convolution on their means), GroupNorm
               with a group a channel
        wide   a 3x3 convolution of the slice

    The mean of each branch, softmax over the channels, is a mixture by which the channels of the other one
    add up to one map; the sum of both maps, through a sigmoid, weighs the slice. (B, c1, H, W) -> the same
    shape, with 10 (c1 / groups)^2 + 4 c1 / groups weights.

    The number of groups is 8 unless it is given, as in most yamls for detectors (the authors' code has 32).
    """

    def __init__(self, c1: int, groups: int = 8) -> None:
        super().__init__()
        if not isinstance(groups, int) or isinstance(groups, bool) or groups < 1 or c1 % groups:
            raise ValueError(f"EMA: the number of groups must divide {c1} channels, got {groups!r}")
        c = self.width = c1 // groups
        self.conv1x1 = nn.Conv2d(c, c, kernel_size=1)
        self.conv3x3 = nn.Conv2d(c, c, kernel_size=3, padding=1)
        self.gn = nn.GroupNorm(c, c)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        part = x.reshape(-1, self.width, height, width)  # (B, g * c, H, W) -> (B * g, c, H, W)
        axes = self.conv1x1(along_axes(part)).sigmoid()
        near = self.gn(part * axes[:, :, :height] * axes[:, :, height:].transpose(2, 3))
        wide = self.conv3x3(part)
        gate = self.gate(self._mixed(near, wide) + self._mixed(wide, near))
        return (part * gate).reshape(batch, channels, height, width)

    def _mixed(self, speaker: Tensor, listener: Tensor) -> Tensor:
        """(B * g, 1, H, W): the listener's channels, by the shares that the speaker gives them."""
        shares = self.pool(speaker).softmax(dim=1)
        return (shares * listener).sum(dim=1, keepdim=True)

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.gn, self.conv3x3)
        self.gate.open()
