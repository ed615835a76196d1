"""Bottlenecks and cross-stage partial (CSP, arXiv 1911.11929) stacks: BottleneckCSP, C3, and two shells."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from models.blocks.conv import Conv, CrossConv, batch_norm
from models.blocks.taking import Take
from models.registry import register, scaled, stacked


@register(scaled)
class Bottleneck(nn.Module):
    """1x1 Conv to c2 * e channels, 3x3 Conv to c2, plus the input when `shortcut` and c1 = c2."""

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden, c2, k=3, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv2(self.cv1(x))
        return x + y if self.add else y


def bottlenecks(channels: int, n: int, *, shortcut: bool, g: int) -> nn.Sequential:
    """`n` full-width bottlenecks in a row."""
    return nn.Sequential(*(Bottleneck(channels, channels, shortcut, g=g, e=1.0) for _ in range(n)))


@register(stacked)
class BottleneckCSP(nn.Module):
    """The CSP stack of YOLOv5 before v4.0, with a common BatchNorm and SiLU over both concatenated branches.

    `activation:` does not reach that SiLU, as in official models.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = nn.Conv2d(c1, hidden, kernel_size=1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, kernel_size=1, bias=False)
        self.cv4 = Conv(2 * hidden, c2)
        self.bn = batch_norm(2 * hidden)
        self.act = nn.SiLU(inplace=True)
        self.m = bottlenecks(hidden, n, shortcut=shortcut, g=g)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), dim=1)
        return self.cv4(self.act(self.bn(both)))


class C3Shell(nn.Module):
    """`cv3(inside(cv1(x)) | cv2(x))`: three 1x1 Convs around any module that keeps `hidden` channels."""

    def __init__(self, c1: int, c2: int, hidden: int, inside: nn.Module) -> None:
        super().__init__()
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(c1, hidden)
        self.cv3 = Conv(2 * hidden, c2)
        self.m = inside

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), dim=1))

    def adopt(self, other: nn.Module, take: Take) -> None:
        """All three Convs of another such shell, and what its inside has."""
        take.alike(self, other)
        if isinstance(other, C3Shell):
            take.module(self.m, other.m)


@register(stacked)
class C3(C3Shell):
    """The CSP stack of YOLOv5 since v4.0: n bottlenecks on one of two branches."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        super().__init__(c1, c2, hidden, bottlenecks(hidden, n, shortcut=shortcut, g=g))


@register(stacked)
class C3x(C3Shell):
    """C3 with n cross-convolutions (1x3, then 3x1) inside."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        crosses = (CrossConv(hidden, hidden, k=3, g=g, shortcut=shortcut) for _ in range(n))
        super().__init__(c1, c2, hidden, nn.Sequential(*crosses))


class SplitShell(nn.Module):
    """A 1x1 Conv makes two pieces, each of `blocks` one more from the last, and a 1x1 Conv joins all.

    (B, c1, H, W) -> 2 + n pieces of `hidden` channels -> (B, c2, H, W). Compared with C3, what every block
    makes reaches the output (the gradient flow of ELAN, arXiv 2211.04800).
    """

    def __init__(self, c1: int, c2: int, hidden: int, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.cv1 = Conv(c1, 2 * hidden)
        self.m = nn.ModuleList(blocks)
        self.cv2 = Conv((2 + len(self.m)) * hidden, c2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.cv1(x).chunk(2, dim=1)
        pieces = [first, second]
        for block in self.m:
            pieces.append(block(pieces[-1]))
        return self.cv2(torch.cat(pieces, dim=1))

    def adopt(self, other: nn.Module, take: Take) -> None:
        """C3's branches as the two pieces. All pieces of the second share what C3 gives its inside."""
        if not isinstance(other, C3Shell) or other.cv3.conv.weight.shape[0] != self.cv2.conv.weight.shape[0]:
            take.alike(self, other)
            return
        entries = [(convs.conv, convs.bn) for convs in (other.cv2, other.cv1)]
        entry = torch.cat([take.columns(conv.weight, self.cv1.conv.in_channels) for conv, _ in entries])
        if self.cv1.conv.weight.shape == entry.shape:
            take(self.cv1.conv.weight, entry)
            for name in ("weight", "bias", "running_mean", "running_var"):
                take(getattr(self.cv1.bn, name), torch.cat([getattr(bn, name) for _, bn in entries]))
            inside, passed = other.cv3.conv.weight.chunk(2, dim=1)
            deeper = [inside / (1 + len(self.m))] * (1 + len(self.m))
            take(self.cv2.conv.weight, torch.cat([passed, *deeper], dim=1))
            take.norm(self.cv2.bn, other.cv3.bn)
        for block, bottleneck in zip(self.m, other.m if isinstance(other.m, nn.Sequential) else ()):
            take.module(block, bottleneck)


class DenseBottleneck(Bottleneck):
    """Two 3x3 Convs, plus the input when `shortcut`; c channels throughout."""

    def __init__(self, c: int, shortcut: bool = True, g: int = 1) -> None:
        super().__init__(c, c, shortcut, g=g, e=1.0)
        self.cv1 = Conv(c, c, k=3)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """Both Convs of a bottleneck; its 1x1 kernel becomes the middle of a 3x3."""
        if isinstance(other, Bottleneck):
            take.unit(self.cv1, other.cv1)
            take.unit(self.cv2, other.cv2)
        else:
            take.alike(self, other)


@register(stacked)
class C2f(SplitShell):
    """The stack of YOLOv8 (no paper; Ultralytics, 2023): what every bottleneck makes reaches the output.

    `SplitShell` with n bottlenecks of two 3x3 Convs. As there, no shortcut unless it is asked for.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = False, g: int = 1, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        super().__init__(c1, c2, hidden, (DenseBottleneck(hidden, shortcut, g) for _ in range(n)))
