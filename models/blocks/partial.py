"""Partial convolution (FasterNet, arXiv 2303.03667): convolve a part of the channels, pass the rest on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.conv import batch_norm
from models.blocks.csp import SplitShell
from models.blocks.taking import Take
from models.registry import per_channel, register, scaled, stacked


@register(per_channel)
class PConv(nn.Module):
    """3x3 convolution without bias on the first `dim / n_div` channels; the others stay as they are.

    (B, dim, H, W) -> the same shape. With n_div = 4 it costs 1/16 of a full convolution.
    """

    def __init__(self, dim: int, n_div: int = 4) -> None:
        super().__init__()
        if n_div < 1 or dim % n_div:
            raise ValueError(
                f"PConv convolves 1 in n_div channels: dim must be a multiple of {n_div}, got {dim}"
            )
        self.part = dim // n_div
        self.partial_conv3 = nn.Conv2d(self.part, self.part, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        part, rest = x[:, : self.part], x[:, self.part :]
        return torch.cat((self.partial_conv3(part), rest), dim=1)


class DoublePConv(nn.Module):
    """Two PConv in a row, nothing between them: a 5x5 receptive field on a quarter of the channels."""

    def __init__(self, dim: int, n_div: int = 4) -> None:
        super().__init__()
        self.DualPConv = nn.Sequential(PConv(dim, n_div), PConv(dim, n_div))

    def forward(self, x: Tensor) -> Tensor:
        return self.DualPConv(x)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """Nothing of a bottleneck fits; what passes it by does: the pair returns its input."""
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                take(conv.weight, nn.init.dirac_(torch.empty_like(conv.weight)))


@register(stacked)
class CSPPC(SplitShell):
    """n pairs of PConv in a split shell: `cv1` makes two pieces, each pair one more, `cv2` joins n + 2.

    `shortcut` and `g` keep C3's signature and have no effect. Needs c2 * e to be a multiple of 4.
    """

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        super().__init__(c1, c2, hidden, (DoublePConv(hidden) for _ in range(n)))


@register(scaled)
class PatchEmbed(nn.Module):
    """FasterNet's embedding: k x k patches that do not overlap, each to a vector; then BN, no activation.

    (B, c1, H, W) -> (B, c2, H / k, W / k); H and W are multiples of k.
    """

    def __init__(self, c1: int, c2: int, k: int = 4) -> None:
        super().__init__()
        self.proj = nn.Sequential(nn.Conv2d(c1, c2, kernel_size=k, stride=k, bias=False), batch_norm(c2))

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x)


@register(scaled)
class PatchMerging(PatchEmbed):
    """FasterNet's merging between stages: an embedding of 2x2 patches."""

    def __init__(self, c1: int, c2: int, k: int = 2) -> None:
        super().__init__(c1, c2, k)


@register(scaled)
class FasterNetBlock(nn.Module):
    """PConv, 1x1 to `ratio` times the channels + BN + ReLU, 1x1 back, plus the input. Keeps its channels.

    Activation: ReLU as in the paper's T1 to L (its T0 has GELU). Deviations: no stochastic depth and no layer
    scale, which the paper uses in classification training only.
    """

    def __init__(self, c1: int, c2: int, n_div: int = 4, ratio: int = 2) -> None:
        super().__init__()
        if c1 != c2:
            raise ValueError(f"FasterNetBlock keeps its channels: c1 must equal c2, got c1 = {c1}, c2 = {c2}")
        hidden = c1 * ratio
        self.spatial_mixing = PConv(c1, n_div)
        self.mlp = nn.Sequential(
            nn.Conv2d(c1, hidden, kernel_size=1, bias=False),
            batch_norm(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, c1, kernel_size=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.spatial_mixing(x))
