"""Transformer encoder layers on feature maps (ViT, arXiv 2010.11929), as in YOLOv5's transformer variant."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.csp import C3Shell
from models.registry import register, stacked


class TransformerLayer(nn.Module):
    """Self-attention and a two-layer linear map, each with a residual. Tokens are (L, B, c).

    Deviations from the paper, all YOLOv5's: no layer normalisation, no bias and no non-linearity in `fc1`,
    `fc2`, and separate projections `q`, `k`, `v` in front of those that multi-head attention has itself.
    """

    def __init__(self, c: int, num_heads: int) -> None:
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        self.ma = nn.MultiheadAttention(c, num_heads)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        attended, _ = self.ma(self.q(tokens), self.k(tokens), self.v(tokens), need_weights=False)
        tokens = attended + tokens
        return self.fc2(self.fc1(tokens)) + tokens


class TransformerBlock(nn.Module):
    """Every pixel a token: a learned linear position term, `num_layers` layers, and back to a map.

    (B, c, H, W) -> the same shape.
    """

    def __init__(self, c: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.linear = nn.Linear(c, c)
        self.tr = nn.Sequential(*(TransformerLayer(c, num_heads) for _ in range(num_layers)))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).permute(2, 0, 1)  # (B, C, H, W) -> (H*W, B, C)
        tokens = self.tr(tokens + self.linear(tokens))
        return tokens.permute(1, 2, 0).reshape(x.shape)


@register(stacked)
class C3TR(C3Shell):
    """C3 with n four-headed transformer layers inside; `shortcut` and `g` are C3's and have no effect."""

    def __init__(
        self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5
    ) -> None:
        hidden = int(c2 * e)
        super().__init__(c1, c2, hidden, TransformerBlock(hidden, num_heads=4, num_layers=n))
