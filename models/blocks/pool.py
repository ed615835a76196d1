"""Spatial pyramid pooling (SPP, arXiv 1406.4729) in the forms that YOLO necks use."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks.conv import Conv
from models.blocks.csp import C3Shell
from models.registry import register, scaled


def same_pool(k: int) -> nn.MaxPool2d:
    """k x k max-pooling that keeps the map's size."""
    if k % 2 == 0:
        raise ValueError(f"pooling that keeps the size needs an odd kernel, got {k}")
    return nn.MaxPool2d(k, stride=1, padding=k // 2)


@register(scaled)
class SPP(nn.Module):
    """1x1 Conv to c1/2, its max-pools with kernels `k` beside it, 1x1 Conv to c2.

    Deviation from the paper: pools keep the map's size instead of making a vector of fixed length.
    """

    def __init__(self, c1: int, c2: int, k: Sequence[int] = (5, 9, 13)) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c1 // 2)
        self.cv2 = Conv(c1 // 2 * (1 + len(k)), c2)
        self.m = nn.ModuleList(same_pool(size) for size in k)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], dim=1))


@register(scaled)
class SPPF(nn.Module):
    """SPP(k=(5, 9, 13)) by pooling three times in a row with the small kernel: the same result, sooner.

    Two 5-wide maxima in a row are one 9-wide, three are one 13-wide.
    """

    def __init__(self, c1: int, c2: int, k: int = 5) -> None:
        super().__init__()
        self.cv1 = Conv(c1, c1 // 2)
        self.cv2 = Conv(c1 // 2 * 4, c2)
        self.m = same_pool(k)

    def forward(self, x: Tensor) -> Tensor:
        pyramid = [self.cv1(x)]
        for _ in range(3):
            pyramid.append(self.m(pyramid[-1]))
        return self.cv2(torch.cat(pyramid, dim=1))


@register(scaled)
class C3SPP(C3Shell):
    """C3 with one SPP inside. Kernels come before `n` as in official yamls; n, shortcut, g have no effect."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: Sequence[int] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ) -> None:
        hidden = int(c2 * e)
        super().__init__(c1, c2, hidden, SPP(hidden, hidden, k))
