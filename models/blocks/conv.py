"""Convolutions: the Conv unit that everything else is made of, and its depthwise, sliced and mixed relatives.

The short names of all blocks: `c1` and `c2` are input and output channels, `n` how often the inside repeats,
`k` the kernel size, `s` the stride, `p` the padding (None keeps the size at stride 1), `g` groups, `d`
dilation, `e` the ratio of hidden to output channels, `act` the activation (True: the model's default, SiLU
unless its yaml says otherwise; False: none; or a module). Tensors are (B, C, H, W) float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from models.blocks.activation import Activation, make_activation
from models.registry import register, scaled

Size: TypeAlias = int | Sequence[int]


def autopad(k: Size, p: Size | None = None, d: int = 1) -> int | tuple[int, ...]:
    """The padding that keeps the map's size at stride 1 for kernel `k`, dilation `d`, unless `p` is given."""
    if p is not None:
        return p if isinstance(p, int) else tuple(p)
    if isinstance(k, int):
        return (d * (k - 1) + 1) // 2
    return tuple((d * (size - 1) + 1) // 2 for size in k)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with the constants of every YOLOv5 model."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)


def batch_norm_terms(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel, (C,) each in double precision, that a BatchNorm is in eval mode.

    It is `gamma * (y - mean) / sqrt(var + eps) + beta`.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    scale = torch.rsqrt(bn.running_var.double() + bn.eps)
    if bn.affine:
        scale = scale * bn.weight.double()
    shift = -bn.running_mean.double() * scale
    return scale.detach(), (shift + bn.bias.double() if bn.affine else shift).detach()


def fold_batch_norm(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that equals `bn(conv(x))` in eval mode; `conv` is changed in place and returned.

    The product is formed in double precision, so that only one rounding is left.
    """
    scale, shift = batch_norm_terms(bn)
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale.reshape(-1, 1, 1, 1)
    grad = conv.weight.requires_grad
    conv.bias = nn.Parameter(shift.detach().to(conv.weight), requires_grad=grad)
    conv.weight = nn.Parameter(weight.detach().to(conv.weight), requires_grad=grad)
    return conv


@register(scaled)
class Conv(nn.Module):
    """Convolution without bias, BatchNorm, activation. (B, c1, H, W) -> (B, c2, H', W'), H' = ceil(H / s)."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Size = 1,
        s: Size = 1,
        p: Size | None = None,
        g: int = 1,
        d: int = 1,
        act: Activation = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            c1,
            c2,
            kernel_size=k,  # type: ignore[arg-type]  # torch takes any sequence of ints, its stub only tuples
            stride=s,  # type: ignore[arg-type]
            padding=autopad(k, p, d),  # type: ignore[arg-type]
            groups=g,
            dilation=d,
            bias=False,
        )
        self.bn: nn.Module = batch_norm(c2)
        self.act = make_activation(act)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))

    def fuse(self) -> None:
        """Fold BatchNorm into the convolution, for inference. A second call changes nothing."""
        if isinstance(self.bn, nn.BatchNorm2d):
            fold_batch_norm(self.conv, self.bn)
            self.bn = nn.Identity()


@register(scaled)
class DWConv(Conv):
    """Depthwise Conv: as many groups as `c1` and `c2` allow, their greatest common divisor."""

    def __init__(
        self, c1: int, c2: int, k: Size = 1, s: Size = 1, d: int = 1, act: Activation = True
    ) -> None:
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), d=d, act=act)


@register(scaled, example=(32, 4, 2, 1))
class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depthwise transposed convolution with bias; `p1` is its padding, `p2` its output padding."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0) -> None:
        super().__init__(c1, c2, k, stride=s, padding=p1, output_padding=p2, groups=math.gcd(c1, c2))


@register(scaled)
class Focus(nn.Module):
    """Space to depth, then Conv: each 2x2 patch of pixels becomes four channel groups.

    The stem of YOLOv5 before v6.0. (B, c1, H, W) -> (B, c2, H/2, W/2) at s = 1; H and W must be even.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        act: Activation = True,
    ) -> None:
        super().__init__()
        self.conv = Conv(4 * c1, c2, k, s, p=p, g=g, act=act)

    def forward(self, x: Tensor) -> Tensor:
        # the order of official weights: row offset runs faster than column offset
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.conv(torch.cat(corners, dim=1))


@register(scaled)
class CrossConv(nn.Module):
    """A k x k convolution split into a 1 x k and a k x 1 Conv, with an optional shortcut when c1 = c2."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        g: int = 1,
        e: float = 1.0,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, (1, k), (1, s))
        self.cv2 = Conv(hidden, c2, (k, 1), (s, 1), g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


@register(scaled)
class MixConv2d(nn.Module):
    """Mixed depthwise convolution (MixConv, arXiv 1907.09595): several kernel sizes share the channels.

    Each kernel size has its own convolution on the whole input; their outputs are concatenated, then BN and
    SiLU. With `equal_ch` the kernels get equally many channels, else as many as give them equally many
    weights. Deviations from the paper: grouped by the greatest common divisor of the channels instead of
    strictly depthwise. From YOLOv5: with `equal_ch=False` the rounded counts always add up to `c2`.
    """

    def __init__(
        self, c1: int, c2: int, k: Sequence[int] = (1, 3), s: int = 1, equal_ch: bool = True
    ) -> None:
        super().__init__()
        shares = _equal_shares(c2, len(k)) if equal_ch else _weight_shares(c2, k)
        if min(shares) < 1:
            raise ValueError(f"MixConv2d: {c2} channels are too few for the kernels {tuple(k)}")
        self.m = nn.ModuleList(
            nn.Conv2d(c1, share, size, stride=s, padding=size // 2, groups=math.gcd(c1, share), bias=False)
            for size, share in zip(k, shares)
        )
        self.bn = batch_norm(c2)
        self.act = nn.SiLU(inplace=True)  # fixed, as in official models: `activation:` does not reach it

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(torch.cat([branch(x) for branch in self.m], dim=1)))


def _equal_shares(total: int, parts: int) -> list[int]:
    """`total` in nearly equal parts, with the remainder where official weights have it.

    Channel i of `total` evenly spaced ones lies in part ceil(i * parts / (total - 1)) - 1, and the first in
    part 0.
    """
    last = max(total - 1, 1)
    owners = [max(-(-channel * parts // last) - 1, 0) for channel in range(total)]
    return [owners.count(part) for part in range(parts)]


def _weight_shares(total: int, kernels: Sequence[int]) -> list[int]:
    """`total` split in inverse proportion to kernel area; the last kernel takes the rounding error."""
    inverse = [1 / size**2 for size in kernels]
    shares = [round(total * part / sum(inverse)) for part in inverse[:-1]]
    return [*shares, total - sum(shares)]
