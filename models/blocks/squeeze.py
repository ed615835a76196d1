"""Attention by what a channel is on the average over the map: SE, ECA and MLCA."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.blocks.gate import Gate, zero
from models.registry import keeping, register


def hidden_channels(name: str, c1: int, ratio: int, least: int = 1) -> int:
    """c1 / ratio, rounded down, and at least `least`.

    Raises:
        ValueError: a ratio that is no integer from 1 to c1.
    """
    if not isinstance(ratio, int) or isinstance(ratio, bool) or ratio < 1:
        raise ValueError(
            f"{name}: the ratio of channels to hidden ones must be an integer >= 1, got {ratio!r}"
        )
    if c1 // ratio < 1 and least < 2:
        raise ValueError(
            f"{name}: {c1} channels squeezed by {ratio} leave none; give a ratio of at most {c1}"
        )
    return max(c1 // ratio, least)


WIDEST = 64  # of a kernel, in pixels, and of a grid, in cells


def odd_kernel(name: str, k: int) -> int:
    """`k` itself.

    Raises:
        ValueError: it is no odd integer from 1 to 63, which is wider than the maps of most networks.
    """
    if not isinstance(k, int) or isinstance(k, bool) or not 1 <= k < WIDEST or k % 2 == 0:
        raise ValueError(
            f"{name} pads to keep the map's size: its kernel must be odd, 1 to {WIDEST - 1}, got {k!r}"
        )
    return k


@register(keeping)
class SE(nn.Module):
    """Squeeze and excitation (SENet, arXiv 1709.01507): `x * sigmoid(fc2(relu(fc1(mean(x)))))`.

    (B, c1, H, W) -> the same shape. The mean is that of the whole map; `fc1` squeezes to c1 / ratio channels,
    `fc2` makes c1 of these; neither has a bias, so that there are 2 c1^2 / ratio weights, as in the paper's
    equation 5. They are 1x1 convolutions here. `SqueezeExcite` is the form of mobile networks, with biases
    and a hard sigmoid.
    """

    def __init__(self, c1: int, ratio: int = 16) -> None:
        super().__init__()
        hidden = hidden_channels("SE", c1, ratio)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(c1, hidden, kernel_size=1, bias=False)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden, c1, kernel_size=1, bias=False)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.fc2(self.act(self.fc1(self.pool(x)))))

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.fc2)
        self.gate.open()


def adaptive_kernel(c1: int) -> int:
    """ECA's neighbourhood: the integer part of log2(c1) / 2 + 1 / 2, or the next number if that is even."""
    size = int(math.log2(c1) / 2 + 0.5)
    return size + (size + 1) % 2


@register(keeping)
class ECA(nn.Module):
    """Efficient channel attention (ECA-Net, arXiv 1910.03151): a channel and its k neighbours decide.

    `x * sigmoid(conv(mean(x)))`, where `conv` is one kernel of k weights, without bias, that slides along the
    channels. k is odd, |log2(c1) / 2 + 1 / 2| of the paper's equation 12 (gamma 2, b 1) unless it is given.
    (B, c1, H, W) -> the same shape.
    """

    def __init__(self, c1: int, k: int | None = None) -> None:
        super().__init__()
        k = adaptive_kernel(c1) if k is None else odd_kernel("ECA", k)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel_size=k, padding=k // 2, bias=False)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        along = self.pool(x).squeeze(3).transpose(1, 2)  # (B, C, 1, 1) -> (B, 1, C)
        return x * self.gate(self.conv(along).transpose(1, 2).unsqueeze(3))

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.conv)
        self.gate.open()


CELLS = 5  # a side, of the grid on which MLCA averages


@register(keeping)
class MLCA(nn.Module):
    """Mixed local channel attention (D. Wan et al., Engineering Applications of AI 123, 2023).

    ECA for the whole map and for each of `cells` x `cells` parts of it.

    The map is averaged over a grid of cells, and these over the whole. A kernel of k weights slides along the
    channels of the whole, and another one along those of every cell; the gates of both are mixed, half and
    half, and laid over the map again. k is ECA's. (B, c1, H, W) -> the same shape; of maps smaller than the
    grid, cells share pixels.

    Deviation: the public code strings the channels of all cells together before the kernel slides over them,
    so that it reaches from the last channel of a cell to the first of the next one. Here cells end at zeros.
    Cells and their way back are the bins of torch's adaptive pooling, as products with matrices, which export
    for any size.
    """

    def __init__(self, c1: int, cells: int = CELLS, k: int | None = None) -> None:
        super().__init__()
        if not isinstance(cells, int) or isinstance(cells, bool) or not 1 <= cells < WIDEST:
            raise ValueError(f"MLCA: the grid must have 1 to {WIDEST - 1} cells a side, got {cells!r}")
        k = adaptive_kernel(c1) if k is None else odd_kernel("MLCA", k)
        self.cells = cells
        self.conv = nn.Conv2d(1, 1, kernel_size=(k, 1), padding=(k // 2, 0), bias=False)
        self.conv_local = nn.Conv2d(1, 1, kernel_size=(k, 1), padding=(k // 2, 0), bias=False)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        height, width, cells = x.shape[2], x.shape[3], self.cells
        pooled = _resized(x, bins(height, cells, x), bins(width, cells, x))  # (B, C, cells, cells)
        parts = pooled.flatten(2).unsqueeze(1)  # (B, 1, C, cells * cells)
        mean = parts.mean(dim=3, keepdim=True)
        both = (self.gate(self.conv(mean)) + self.gate(self.conv_local(parts))) / 2
        gates = both.squeeze(1).unflatten(2, (cells, cells))
        return x * _resized(gates, bins(cells, height, x), bins(cells, width, x))

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.conv, self.conv_local)
        self.gate.open()


def bins(size: int, count: int, like: Tensor) -> Tensor:
    """(count, size) of `like`'s type: adaptive average pooling of `size` values to `count`, as a matrix.

    Value i is the mean from floor(i * size / count) to ceil((i + 1) * size / count), the end left out.
    """
    place = torch.arange(size, device=like.device)
    first = torch.arange(count, device=like.device) * size
    start = first.div(count, rounding_mode="floor").unsqueeze(1)
    end = (first + size + count - 1).div(count, rounding_mode="floor").unsqueeze(1)
    inside = ((place >= start) & (place < end)).type_as(like)
    return inside / (end - start).type_as(like)


def _resized(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ x @ columns^T for every map of (B, C, H, W)."""
    return rows @ (x @ columns.transpose(0, 1))
