"""GSConv and the slim neck (arXiv 2206.02424): a dense and a depthwise half, their channels shuffled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.activation import Activation
from models.blocks.conv import Conv, DWConv
from models.blocks.csp import Bottleneck, C3Shell
from models.blocks.ghost import GhostConv
from models.blocks.reshape import shuffle_channels
from models.blocks.taking import Take
from models.registry import register, scaled, stacked


@register(scaled)
class GSConv(GhostConv):
    """GhostConv, shuffled: of its `a | b` the even, then the odd channels; `a` is dense, `b` depthwise 5x5.

    Deviations: the paper draws an interleave of the halves; its public code, which trained weights follow,
    de-interleaves, and so do we. It also folds the batch into the shuffle, which TensorRT rejects; we do not.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: Activation = True) -> None:
        if g < 1 or c1 % g or c2 // 2 % g:
            name = type(self).__name__
            raise ValueError(f"{name}: g must divide c1 and c2 / 2, got c1 {c1}, c2 {c2} and g {g}")
        super().__init__(c1, c2, k, s, g, act)
        self.width = c2 // 2

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(super().forward(x))

    def mix(self, both: Tensor) -> Tensor:
        """Bring dense and depthwise channels together."""
        return shuffle_channels(both, groups=self.width)  # even channels, then odd

    def places(self) -> tuple[list[int], list[int]]:
        both = torch.arange(2 * self.width, dtype=torch.float32).reshape(1, -1, 1, 1)
        came_from = shuffle_channels(both, groups=self.width).flatten().long().tolist()
        place = {channel: position for position, channel in enumerate(came_from)}
        return [place[i] for i in range(self.width)], [place[self.width + i] for i in range(self.width)]


@register(scaled)
class GSConvns(GSConv):
    """GSConv whose shuffle is learned: `ReLU(shuf(a | b))`, `shuf` a 1x1 convolution without bias.

    Deviations from the public code: it drops k, s and g, and replaces the tensor by a ReLU module instead of
    applying one; here k, s and g count and ReLU is applied.
    """

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: Activation = True) -> None:
        super().__init__(c1, c2, k, s, g, act)
        self.shuf = nn.Conv2d(c2, c2, kernel_size=1, bias=False)

    def mix(self, both: Tensor) -> Tensor:
        return self.shuf(both).relu()

    def adopt(self, other: nn.Module, take: Take) -> None:
        """As GSConv, whose shuffle `shuf` begins with."""
        super().adopt(other, take)
        if isinstance(other, Conv):
            dense, cheap = self.places()
            order = torch.tensor([*dense, *cheap]).argsort()
            take(self.shuf.weight, torch.eye(len(order))[order].reshape(self.shuf.weight.shape))


@register(scaled)
class GSBottleneck(nn.Module):
    """Two GSConv (1x1 to c2 * e; k x k to c2, no activation) beside a 1x1 Conv shortcut, summed.

    Deviation from the public code: it ignores `k` and `s`; here they are those of the second GSConv, and the
    shortcut follows `s`. The defaults agree.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, e: float = 0.5) -> None:
        super().__init__()
        self.conv_lighting = _lighting(c1, int(c2 * e), c2, k, s)
        self.shortcut: Conv = Conv(c1, c2, k=1, s=s, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_lighting(x) + self.shortcut(x)

    def adopt(self, other: nn.Module, take: Take) -> None:
        _adopt_bottleneck(self, other, take)


@register(scaled)
class GSBottleneckC(nn.Module):
    """GSBottleneck with a depthwise shortcut of kernel `k` and stride `s`; its second GSConv stays 3x3."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, e: float = 0.5) -> None:
        super().__init__()
        self.conv_lighting = _lighting(c1, int(c2 * e), c2, 3, s)
        self.shortcut = DWConv(c1, c2, k, s, act=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_lighting(x) + self.shortcut(x)

    def adopt(self, other: nn.Module, take: Take) -> None:
        _adopt_bottleneck(self, other, take)


def _lighting(c1: int, hidden: int, c2: int, k: int, s: int) -> nn.Sequential:
    return nn.Sequential(GSConv(c1, hidden), GSConv(hidden, c2, k, s, act=False))


def _adopt_bottleneck(own: GSBottleneck | GSBottleneckC, other: nn.Module, take: Take) -> None:
    """Both convolutions of a bottleneck; the shortcut, where that one has none, begins with nothing."""
    if not isinstance(other, Bottleneck):
        take.alike(own, other)
        return
    first, second = own.conv_lighting
    take.module(first, other.cv1)
    take.module(second, other.cv2)
    if not other.add and isinstance(own.shortcut.bn, nn.BatchNorm2d):
        take(own.shortcut.bn.weight, torch.zeros_like(own.shortcut.bn.weight))


@register(stacked)
class VoVGSCSP(nn.Module):
    """The slim neck's replacement for C3, `cv3(cv2(x) | gsb(cv1(x)))`: `gsb` is n GSBottlenecks (e = 1).

    `shortcut` and `g` keep C3's signature and have no effect. The public classes own one more 3x3 Conv,
    `res`, that their forward never uses: it inflates the parameter count and stalls data-parallel training.
    Ours have none.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        inside = self.inside(hidden, n)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(c1, hidden)
        self.gsb = inside
        self.cv3 = Conv(2 * hidden, c2)

    def inside(self, hidden: int, n: int) -> nn.Module:
        """What stands on one of the two branches and keeps its `hidden` channels."""
        return nn.Sequential(*(GSBottleneck(hidden, hidden, e=1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.cv2(x), self.gsb(self.cv1(x))), dim=1))

    def adopt(self, other: nn.Module, take: Take) -> None:
        """C3's three Convs; it joins its branches in the other order, so columns of `cv3` change places."""
        if not isinstance(other, C3Shell):
            take.alike(self, other)
            return
        for own, its in ((self.cv1, other.cv1), (self.cv2, other.cv2)):
            take.unit(own, its)
        width = self.cv2.conv.out_channels
        columns = [*range(width, 2 * width), *range(width)]
        if other.cv3.conv.in_channels == 2 * width:
            take.unit(self.cv3, other.cv3, columns=columns)
        inside = next(other.m.children()) if isinstance(self.gsb, GSBottleneckC) else other.m
        take.module(self.gsb, inside)


@register(stacked)
class VoVGSCSPC(VoVGSCSP):
    """VoVGSCSP with a single GSBottleneckC, whatever `n`, as in the public code; without `res`."""

    def inside(self, hidden: int, n: int) -> nn.Module:
        return GSBottleneckC(hidden, hidden, k=1, s=1)


@register(stacked)
class VoVGSCSPPaper(VoVGSCSP):
    """VoVGSCSP as the published numbers count it: GSBottlenecks at e = 0.5, and the unused convolution `res`.

    `res` (3x3, hidden to hidden channels) is there to be counted and never runs. It is frozen: training
    leaves it alone, data-parallel training does not wait for it, and deployment drops it. Use VoVGSCSP for
    anything else.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        super().__init__(c1, c2, n, shortcut, g, e)
        hidden = int(c2 * e)
        self.res = Conv(hidden, hidden, k=3).requires_grad_(False)

    def inside(self, hidden: int, n: int) -> nn.Module:
        return nn.Sequential(*(GSBottleneck(hidden, hidden, e=0.5) for _ in range(n)))
