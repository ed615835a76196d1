"""Depthwise-separable and expanding dilated convolutions: DSConv (arXiv 1704.04861) and ExpandConv."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks.conv import Conv, batch_norm, fold_batch_norm
from models.blocks.taking import Take, depthwise_factors
from models.registry import register, scaled


@register(scaled)
class DSConv(nn.Module):
    """Depthwise k x k convolution + BN + ReLU, pointwise convolution + BN + ReLU.

    (B, c1, H, W) -> (B, c2, ceil(H / s), ceil(W / s)), k odd. The activation is ReLU whatever the model's.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, d: int = 1) -> None:
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f"DSConv pads to keep the map's size: k must be odd, got {k}")
        self.conv1 = nn.Conv2d(
            c1, c1, kernel_size=k, stride=s, padding=d * (k // 2), dilation=d, groups=c1, bias=False
        )
        self.bn1: nn.Module = batch_norm(c1)
        self.conv2 = nn.Conv2d(c1, c2, kernel_size=1, bias=False)
        self.bn2: nn.Module = batch_norm(c2)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()

    def fuse(self) -> None:
        """Fold both BatchNorms into their convolutions, for inference. A second call changes nothing."""
        if isinstance(self.bn1, nn.BatchNorm2d) and isinstance(self.bn2, nn.BatchNorm2d):
            fold_batch_norm(self.conv1, self.bn1)
            fold_batch_norm(self.conv2, self.bn2)
            self.bn1, self.bn2 = nn.Identity(), nn.Identity()

    def adopt(self, other: nn.Module, take: Take) -> None:
        """Of a Conv the nearest kernels that are separable."""
        if not isinstance(other, Conv) or other.conv.groups != 1:
            return
        depthwise, pointwise = depthwise_factors(other.conv.weight)
        shapes = depthwise.shape, pointwise.shape, other.conv.stride
        if shapes == (self.conv1.weight.shape, self.conv2.weight.shape, self.conv1.stride):
            take(self.conv1.weight, depthwise)
            take(self.conv2.weight, pointwise)
            take.norm(self.bn2, other.bn)


@register(scaled)
class ExpandConv(nn.Module):
    """A pyramid of dilated depthwise-separable branches on half of the channels, with a residual branch.

    `x' = compress(x)`, a 1x1 DSConv to c1/2 channels; for each kernel k with dilation d a branch DSConv(k) ->
    DSConv(k, dilation d) on x'; beside them a 1x1 Conv of x itself to c1/2. All are concatenated and a 1x1
    DSConv makes c2 channels of them. (B, c1, H, W) -> (B, c2, H, W). A branch sees 1 + (k - 1)(1 + d) pixels
    of x': 25, 49 and 81.

    Deviations from the circulating code: it creates its last convolution inside forward, so that it is never
    trained; it has dilations 2, 3 and 4 where its text says 5, 7 and 9; and it returns 4 * c2 channels.
    """

    def __init__(
        self, c1: int, c2: int, kernels: Sequence[int] = (5, 7, 9), dilations: Sequence[int] = (5, 7, 9)
    ) -> None:
        super().__init__()
        if c1 % 2:
            raise ValueError(f"ExpandConv works on half of its channels: c1 must be even, got {c1}")
        if not kernels or len(kernels) != len(dilations):
            raise ValueError(
                f"ExpandConv needs one dilation for each kernel, got kernels {list(kernels)} and "
                f"dilations {list(dilations)}"
            )
        half = c1 // 2
        self.compress = DSConv(c1, half, k=1)
        self.branches = nn.ModuleList(
            nn.Sequential(DSConv(half, half, k), DSConv(half, half, k, d=d))
            for k, d in zip(kernels, dilations)
        )
        self.residual = Conv(c1, half)
        self.expand = DSConv((len(kernels) + 1) * half, c2, k=1)

    def forward(self, x: Tensor) -> Tensor:
        small = self.compress(x)
        parts = [*(branch(small) for branch in self.branches), self.residual(x)]
        return self.expand(torch.cat(parts, dim=1))
