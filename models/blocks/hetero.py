"""HetConv (arXiv 1903.04120): filters whose kernels are 3x3 on some input channels and 1x1 on the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.csp import Bottleneck, C3Shell, SplitShell
from models.blocks.reshape import shuffle_channels
from models.blocks.taking import Take, linear_part
from models.registry import register, scaled, stacked


@register(scaled)
class HetConv(nn.Module):
    """p sets of filters: set i sees input channels i, i + p, … with 3x3 kernels, the others with 1x1.

    (B, c1, H, W) -> (B, c2, ceil(H / s), ceil(W / s)), no bias; c1 and c2 are multiples of p >= 2. The
    outputs of the sets interleave: channel j * p + i is filter j of set i.

    Parameters have the names of the public code: `filters.{i}.0.weight` (c2/p, c1/p, 3, 3) and
    `filters.{i}.1.weight` (c2/p, c1 - c1/p, 1, 1), input channels in ascending order. That code gathers
    channels p times and runs 2p small convolutions; here `kernels` puts their weights together, and two
    convolutions run.

    Attributes:
        structural_zeros: how many weights of those two are always zero, since a filter has its 3x3 kernel
            there. They are multiplied, but the paper does not count them as operations, and neither do we.
    """

    def __init__(self, c1: int, c2: int, s: int = 1, p: int = 4) -> None:
        super().__init__()
        if p < 2:
            raise ValueError(
                f"HetConv needs p >= 2 sets, got {p}; with a single one it is a plain convolution"
            )
        for name, channels in (("c1", c1), ("c2", c2)):
            if channels % p:
                raise ValueError(f"HetConv has p = {p} sets: {name} must be a multiple of it, got {channels}")
        self.c1, self.c2, self.stride, self.sets = c1, c2, s, p
        own, rows = c1 // p, c2 // p
        self.structural_zeros = c2 * own
        self.filters = nn.ModuleList(
            nn.ModuleList((_conv(own, rows, 3, s), _conv(c1 - own, rows, 1, s))) for _ in range(p)
        )

    def kernels(self) -> tuple[Tensor, Tensor]:
        """Weights of both convolutions for channels sorted by set: 0, p, 2p, …, then 1, p + 1, …

        Returns:
            (c2, c1, 1, 1), with zeros where a filter has its 3x3 kernel, and (c2, c1/p, 3, 3), for p groups.
        """
        spatial = torch.cat([pair[0].weight for pair in self.filters])  # type: ignore[index]
        rows = []
        for index, pair in enumerate(self.filters):
            weight = pair[1].weight  # type: ignore[index]
            # (c2/p, c1 - c1/p) in ascending order -> (c2/p, other sets, c1/p): sorted by set
            others = weight.reshape(self.c2 // self.sets, -1, self.sets - 1).transpose(1, 2)
            own = torch.zeros_like(others[:, :1])
            rows.append(torch.cat((others[:, :index], own, others[:, index:]), dim=1))
        return torch.cat(rows).reshape(self.c2, self.c1, 1, 1), spatial

    def forward(self, x: Tensor) -> Tensor:
        pointwise, spatial = self.kernels()
        x = shuffle_channels(x, groups=self.c1 // self.sets)  # sorts the channels by set
        y = F.conv2d(x, pointwise, stride=self.stride)
        y = y + F.conv2d(x, spatial, stride=self.stride, padding=1, groups=self.sets)
        return shuffle_channels(y, groups=self.sets)

    def take_kernel(self, kernel: Tensor, take: Take) -> None:
        """What each filter sees of a dense kernel (c2, c1, k, k), k = 1 or 3: of other sets the middle."""
        if kernel.shape[:2] != (self.c2, self.c1):
            return
        window = F.pad(kernel, (1, 1, 1, 1)) if kernel.shape[2] == 1 else kernel
        for index, pair in enumerate(self.filters):
            own = torch.arange(self.c1) % self.sets == index
            rows = window[index :: self.sets]
            take(pair[0].weight, rows[:, own])  # type: ignore[index]
            take(pair[1].weight, rows[:, ~own, 1:2, 1:2])  # type: ignore[index]


def _conv(c1: int, c2: int, k: int, s: int) -> nn.Conv2d:
    return nn.Conv2d(c1, c2, kernel_size=k, stride=s, padding=k // 2, bias=False)


class HetPair(nn.Sequential):
    """Two HetConv in a row that keep the channels, nothing between them."""

    def __init__(self, channels: int, p: int) -> None:
        super().__init__(HetConv(channels, channels, p=p), HetConv(channels, channels, p=p))

    def adopt(self, other: nn.Module, take: Take) -> None:
        """The slopes at zero of a bottleneck's two Convs."""
        if isinstance(other, Bottleneck):
            kernels = linear_part(other.cv1), linear_part(other.cv2)
            for conv, kernel in zip(self, kernels):
                if kernel is not None and isinstance(conv, HetConv):
                    conv.take_kernel(kernel, take)


@register(stacked)
class CSPHet(SplitShell):
    """CSPPC with n pairs of HetConv in place of its pairs of PConv.

    `shortcut` and `g` keep C3's signature and have no effect. Needs c2 * e to be a multiple of p.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        p: int = 4,
    ) -> None:
        hidden = int(c2 * e)
        super().__init__(c1, c2, hidden, (HetPair(hidden, p) for _ in range(n)))


@register(stacked)
class C3Het(C3Shell):
    """C3 with n pairs of HetConv in place of its bottlenecks; `shortcut` and `g` have no effect."""

    def __init__(
        self,
        c1: int,
        c2: int,
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
        p: int = 4,
    ) -> None:
        hidden = int(c2 * e)
        super().__init__(c1, c2, hidden, nn.Sequential(*(HetPair(hidden, p) for _ in range(n))))
