"""Ghost modules (GhostNet, arXiv 1911.11907): half the features by convolution, half cheaply from these."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.activation import Activation
from models.blocks.conv import Conv, DWConv
from models.blocks.csp import C3Shell
from models.blocks.gate import Gate
from models.blocks.taking import Take
from models.registry import register, scaled, stacked


@register(scaled)
class GhostConv(nn.Module):
    """`a | cv2(a)` with `a = cv1(x)` of c2/2 channels and `cv2` a depthwise 5x5 Conv.

    Deviation from the paper: the cheap operation is 5x5, not 3x3, and c2 must be even.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: Activation = True) -> None:
        super().__init__()
        if c2 % 2:
            name = type(self).__name__
            raise ValueError(f"{name} makes its channels in two halves: c2 must be even, got {c2}")
        self.cv1 = Conv(c1, c2 // 2, k, s, g=g, act=act)
        self.cv2 = Conv(c2 // 2, c2 // 2, k=5, g=c2 // 2, act=act)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.cv1(x)
        return torch.cat((primary, self.cv2(primary)), dim=1)

    def places(self) -> tuple[list[int], list[int]]:
        """Where the channels of `a`, and those of `cv2(a)`, come out."""
        half = self.cv1.conv.out_channels
        return list(range(half)), list(range(half, 2 * half))

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Conv's channels where they come out: the dense half whole, of the other half its BatchNorm."""
        if not isinstance(other, Conv) or other.conv.stride != self.cv1.conv.stride:
            take.alike(self, other)
        elif other.conv.out_channels == 2 * self.cv1.conv.out_channels and other.conv.groups == 1:
            dense, cheap = self.places()
            take.unit(self.cv1, other, rows=dense)
            take.norm(self.cv2.bn, other.bn, cheap)


@register(scaled)
class GhostBottleneck(nn.Module):
    """GhostConv to c2/2, at s = 2 a depthwise k x k Conv, GhostConv to c2 without activation; and a shortcut.

    The shortcut is the input itself, or at s = 2 a depthwise and a 1x1 Conv without activations. At s = 1, c1
    must equal c2. Deviations from the paper: the hidden width is c2/2, and there is no
    squeeze-and-excitation.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__()
        if s not in (1, 2) or (s == 1 and c1 != c2):
            raise ValueError(
                f"GhostBottleneck takes s = 1 with c1 = c2, or s = 2; got s = {s}, c1 = {c1}, c2 = {c2}"
            )
        hidden, halves = c2 // 2, s == 2
        self.conv = nn.Sequential(
            GhostConv(c1, hidden),
            DWConv(hidden, hidden, k, s, act=False) if halves else nn.Identity(),
            GhostConv(hidden, c2, act=False),
        )
        self.shortcut = (
            nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, act=False))
            if halves
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.shortcut(x)


@register(stacked)
class C3Ghost(C3Shell):
    """C3 with n ghost bottlenecks inside; `shortcut` and `g` are C3's and have no effect."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        ghosts = nn.Sequential(*(GhostBottleneck(hidden, hidden) for _ in range(n)))
        super().__init__(c1, c2, hidden, ghosts)


@register(scaled)
class GhostBottleneckV2(GhostBottleneck):
    """GhostBottleneck whose first GhostConv is weighed by long-range attention (GhostNetV2, arXiv
    2211.12905).

    The attention ("decoupled fully connected") looks along rows and columns at half the size: the mean of 2x2
    pixels, a 1x1, a depthwise 1x5 and a depthwise 5x1 Conv without activation, sigmoid, enlarged to the
    nearest pixel. In place of a GhostBottleneck it begins as that: see `gate.py`.

    Deviations from the paper: those of GhostBottleneck; and attention also where s = 2.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1) -> None:
        super().__init__(c1, c2, k, s)
        hidden = c2 // 2
        self.dfc = nn.Sequential(
            Conv(c1, hidden, act=False),
            Conv(hidden, hidden, (1, 5), g=hidden, act=False),
            Conv(hidden, hidden, (5, 1), g=hidden, act=False),
        )
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        ghosts, smaller, project = self.conv
        y = ghosts(x)
        gate = self.gate(self.dfc(F.avg_pool2d(x, kernel_size=2, ceil_mode=True)))
        y = y * F.interpolate(gate, size=y.shape[2:], mode="nearest")
        return project(smaller(y)) + self.shortcut(x)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """All of a GhostBottleneck, with a gate of 1."""
        take.alike(self, other)
        if isinstance(other, GhostBottleneck):
            last = self.dfc[2].bn
            assert isinstance(last, nn.BatchNorm2d)
            take(last.weight, torch.zeros_like(last.weight))
            take(last.bias, torch.zeros_like(last.bias))
            take(self.gate.gain, torch.full_like(self.gate.gain, 2))


@register(stacked)
class C3GhostV2(C3Shell):
    """C3 with n ghost bottlenecks of the second version inside; `shortcut` and `g` have no effect."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        ghosts = nn.Sequential(*(GhostBottleneckV2(hidden, hidden) for _ in range(n)))
        super().__init__(c1, c2, hidden, ghosts)
