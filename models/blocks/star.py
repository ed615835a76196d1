"""The block of StarNet (Rewrite the Stars, arXiv 2403.19967): two linear maps, multiplied."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.conv import Conv
from models.blocks.gate import zero
from models.registry import keeping, register


@register(keeping)
class StarBlock(nn.Module):
    """`x + dwconv2(g(relu6(f1(y)) * f2(y)))` with `y = dwconv(x)`. (B, c1, H, W) -> the same shape.

    `dwconv` is a depthwise 7x7 Conv without activation; `f1` and `f2` are 1x1 convolutions to `ratio` times
    the channels, with bias; `g` is a 1x1 Conv back without activation, `dwconv2` a depthwise 7x7 convolution
    with bias.

    Deviations from the paper: no stochastic depth; `dwconv` has no bias beside its BatchNorm, which takes it
    away again, and neither has `g`.
    """

    def __init__(self, c1: int, ratio: int = 3) -> None:
        super().__init__()
        if not isinstance(ratio, int) or isinstance(ratio, bool) or ratio < 1:
            raise ValueError(f"StarBlock: ratio must be an integer >= 1, got {ratio!r}")
        self.dwconv = Conv(c1, c1, k=7, g=c1, act=False)
        self.f1 = nn.Conv2d(c1, ratio * c1, kernel_size=1)
        self.f2 = nn.Conv2d(c1, ratio * c1, kernel_size=1)
        self.act = nn.ReLU6()
        self.g = Conv(ratio * c1, c1, act=False)
        self.dwconv2 = nn.Conv2d(c1, c1, kernel_size=7, padding=3, groups=c1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x)
        return x + self.dwconv2(self.g(self.act(self.f1(y)) * self.f2(y)))

    def pass_through(self) -> None:
        """Return the input until something better is learnt."""
        zero(self.dwconv2)
