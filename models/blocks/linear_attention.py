"""Attention over the whole map at a cost that grows with its pixels (EfficientViT, arXiv 2205.14756)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.conv import Conv
from models.blocks.gate import zero
from models.blocks.squeeze import odd_kernel
from models.registry import keeping, register

LEAST = 1e-6  # of a sum of weights, where ReLU leaves none


@register(keeping)
class LiteMLA(nn.Module):
    """`x + proj(attention)`: multi-scale linear attention (Cai et al. 2023, §3.1, equation 2, figure 2).

    (B, c1, H, W) -> the same shape. A 1x1 convolution makes query, key and value of c1 / dim heads, and a
    depthwise k x k convolution with a 1x1 one of each head's three parts gathers the pixels around, for
    another scale with as many heads. Each head attends with ReLU in place of softmax,

        O_i = ReLU(Q_i) (sum_j ReLU(K_j)^T V_j) / (ReLU(Q_i) sum_j ReLU(K_j)^T)

    so that both sums over the map are taken once. A 1x1 Conv without activation joins the heads of both
    scales. The attention is computed in at least float32, as a 16-bit number cannot hold the sums.

    Deviation from the paper: channels that are no multiple of `dim` have their greatest part in heads, at
    least one.
    """

    def __init__(self, c1: int, dim: int = 16, k: int = 5) -> None:
        super().__init__()
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
            raise ValueError(f"LiteMLA: a head has dim >= 1 channels, got {dim!r}")
        heads = max(c1 // dim, 1)
        self.dim, inner = dim, 3 * heads * dim
        self.qkv = nn.Conv2d(c1, inner, 1, bias=False)
        padding = odd_kernel("LiteMLA", k) // 2
        self.around = nn.Sequential(
            nn.Conv2d(inner, inner, k, padding=padding, groups=inner, bias=False),
            nn.Conv2d(inner, inner, 1, groups=3 * heads, bias=False),
        )
        self.act = nn.ReLU()
        self.proj = Conv(2 * heads * dim, c1, act=False)

    def forward(self, x: Tensor) -> Tensor:
        near = self.qkv(x)
        scales = torch.cat((near, self.around(near)), dim=1)
        height, width = x.shape[2], x.shape[3]
        wide = scales.to(torch.promote_types(x.dtype, torch.float32))
        # head by head: its query, its key, its value; (B * heads, 3 * dim, H * W)
        heads = wide.reshape(-1, 3 * self.dim, height * width)
        query, key, value = heads.split((self.dim, self.dim, self.dim), dim=1)
        query, key = self.act(query), self.act(key)
        summed = value @ key.transpose(1, 2)  # (dim of values, dim of keys)
        weight = key.sum(dim=2, keepdim=True).transpose(1, 2) @ query  # (1, H * W)
        attended = (summed @ query) / (weight + LEAST)
        out = attended.reshape(-1, self.proj.conv.in_channels, height, width).type_as(x)
        return x + self.proj(out)

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.proj.bn)


@register(keeping)
class EfficientViTBlock(nn.Module):
    """EfficientViT's block (arXiv 2205.14756, figure 2): `LiteMLA`, then an inverted bottleneck, both added.

    (B, c1, H, W) -> the same shape. The bottleneck: 1x1 Conv to `ratio` times the channels, depthwise 3x3
    Conv, both with h-swish, and a 1x1 Conv back without activation.

    Deviation from the paper: BatchNorm follows all three; its first two have biases instead.
    """

    def __init__(self, c1: int, dim: int = 16, ratio: int = 4) -> None:
        super().__init__()
        if not isinstance(ratio, int) or isinstance(ratio, bool) or ratio < 1:
            raise ValueError(f"EfficientViTBlock: ratio must be an integer >= 1, got {ratio!r}")
        hidden = ratio * c1
        self.context = LiteMLA(c1, dim)
        self.local = nn.Sequential(
            Conv(c1, hidden, act=nn.Hardswish()),
            Conv(hidden, hidden, k=3, g=hidden, act=nn.Hardswish()),
            Conv(hidden, c1, act=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.context(x)
        return x + self.local(x)

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        self.context.pass_through()
        zero(self.local[2].bn)  # type: ignore[arg-type]
