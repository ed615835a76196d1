"""Convolutions with branches that become one for inference (RepVGG, arXiv 2101.03697), and stacks of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.activation import Activation, make_activation
from models.blocks.conv import Conv, batch_norm
from models.blocks.csp import C3Shell
from models.blocks.merging import become, check_middle, folded, merged, of_norm, silence
from models.blocks.taking import Take
from models.registry import Row, Wiring, register, scaled, stacked


@register(scaled)
class RepConv(nn.Module):
    """`act(conv1(x) + conv2(x) + bn(x))`: a k x k Conv, a 1x1 Conv and, where shapes allow, a BatchNorm.

    (B, c1, H, W) -> (B, c2, H', W') as a k x k Conv of stride s. Neither Conv has an activation of its own.
    The BatchNorm is there when c1 = c2 and s = 1, unless `identity` is false. `fuse` leaves one biased
    convolution.

    Deviation from the paper: the model's activation instead of ReLU.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        g: int = 1,
        act: Activation = True,
        identity: bool = True,
    ) -> None:
        super().__init__()
        check_middle("RepConv", k)
        self.conv1: Conv | None = Conv(c1, c2, k, s, g=g, act=False)
        self.conv2: Conv | None = Conv(c1, c2, 1, s, g=g, act=False)
        self.bn = batch_norm(c1) if identity and c1 == c2 and s == 1 else None
        self.act = make_activation(act)
        self.conv: nn.Conv2d | None = None  # the only one, once it is fused

    def forward(self, x: Tensor) -> Tensor:
        if self.conv1 is None or self.conv2 is None:
            assert self.conv is not None
            return self.act(self.conv(x))
        y = self.conv1(x) + self.conv2(x)
        return self.act(y if self.bn is None else y + self.bn(x))

    def fuse(self) -> None:
        """Leave one biased convolution, for inference. A second call changes nothing."""
        if self.conv1 is None or self.conv2 is None:
            return
        parts = [folded(self.conv2)]
        if self.bn is not None:
            parts.append(of_norm(self.bn, self.conv1.conv.weight))
        self.conv = become(self.conv1, merged(folded(self.conv1), parts))
        self.conv1, self.conv2, self.bn = None, None, None

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Conv's kernel and norm in `conv1`; the other branches add nothing at first."""
        if not isinstance(other, Conv) or self.conv1 is None or self.conv2 is None:
            take.alike(self, other)
            return
        take.unit(self.conv1, other)
        if take.has(self.conv1.conv.weight):
            silence(take, (self.conv2.bn, self.bn))


class RepBottleneck(nn.Module):
    """RepConv without its BatchNorm branch, then a 3x3 Conv, plus the input when `shortcut`; c channels."""

    def __init__(self, c: int, shortcut: bool = True) -> None:
        super().__init__()
        self.cv1 = RepConv(c, c, identity=False)
        self.cv2 = Conv(c, c, k=3)
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


@register(stacked)
class RepNCSP(C3Shell):
    """C3 with n `RepBottleneck` inside (YOLOv9, arXiv 2402.13616); `g` is C3's and has no effect."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        inside = nn.Sequential(*(RepBottleneck(hidden, shortcut) for _ in range(n)))
        super().__init__(c1, c2, hidden, inside)


def _elan(row: Row) -> Wiring:
    """As `scaled`; the second and third argument are channels too, the fourth the number of bottlenecks."""
    wide, inner = (row.scale(row.argument(place, 0)) for place in (1, 2))
    return Wiring((row.c1, row.c2, wide, inner, row.argument(3, 1)), row.c2, row.number)


@register(_elan, example=(32, 32, 16, 1))
class RepNCSPELAN4(nn.Module):
    """GELAN's block (YOLOv9, arXiv 2402.13616). (B, c1, H, W) -> (B, c2, H, W).

    A 1x1 Conv to c3 channels makes two halves; from the second a RepNCSP and a 3x3 Conv make c4 channels,
    from these another pair c4 more; a 1x1 Conv joins all four pieces.
    """

    def __init__(self, c1: int, c2: int, c3: int, c4: int, n: int = 1) -> None:
        super().__init__()
        if c3 < 2 or c3 % 2 or c4 < 2:
            raise ValueError(f"RepNCSPELAN4 splits c3 in halves: it must be even, got c3 = {c3}, c4 = {c4}")
        self.cv1 = Conv(c1, c3)
        self.cv2 = nn.Sequential(RepNCSP(c3 // 2, c4, n), Conv(c4, c4, k=3))
        self.cv3 = nn.Sequential(RepNCSP(c4, c4, n), Conv(c4, c4, k=3))
        self.cv4 = Conv(c3 + 2 * c4, c2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.cv1(x).chunk(2, dim=1)
        third = self.cv2(second)
        return self.cv4(torch.cat((first, second, third, self.cv3(third)), dim=1))
