"""Blocks of mobile classifiers: squeeze-excite, PP-LCNet's depthwise-separable and MobileNetV3's inverted."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.conv import Conv
from models.registry import Row, Wiring, per_channel, register, scaled


def round_to_eights(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, but at least 8 and at most 10 % below (MobileNetV2's rule)."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


@register(per_channel, example=(8,))
class SqueezeExcite(nn.Module):
    """Scale each channel by what the whole map says about it (SE, arXiv 1709.01507). Keeps its shape.

    Mean over the map, 1x1 to `squeezed` channels, ReLU, 1x1 back, hard sigmoid. SE has a plain sigmoid; this
    is MobileNetV3's and PP-LCNet's form.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, kernel_size=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, kernel_size=1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


@register(scaled)
class LCNetBlock(nn.Module):
    """PP-LCNet's depthwise-separable block (arXiv 2109.15099).

    k x k depthwise Conv, squeeze-excite to a quarter when `se`, 1x1 Conv; both Convs with h-swish.
    (B, c1, H, W) -> (B, c2, ceil(H / s), ceil(W / s)).
    """

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, se: bool = False) -> None:
        super().__init__()
        if k % 2 == 0:
            raise ValueError(f"LCNetBlock pads to keep the map's size: k must be odd, got {k}")
        self.depthwise = Conv(c1, c1, k, s, g=c1, act=nn.Hardswish())
        self.se = SqueezeExcite(c1, c1 // 4) if se else nn.Identity()
        self.pointwise = Conv(c1, c2, act=nn.Hardswish())

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.se(self.depthwise(x)))


def _inverted(row: Row) -> Wiring:
    """As `scaled`; the second argument, the hidden channels, is scaled too."""
    hidden = row.scale(row.argument(1, 0))
    return Wiring((row.c1, row.c2, hidden, *row.args[2:]), row.c2, row.number)


@register(_inverted, example=(32, 48, 3, 1, True))
class InvertedResidual(nn.Module):
    """MobileNetV3's block (arXiv 1905.02244): widen, filter depthwise, weigh the channels, project.

    1x1 Conv to `hidden` channels (left out when that is c1), k x k depthwise Conv, squeeze-excite when `se`,
    1x1 Conv without activation; plus the input when s = 1 and c1 = c2. Activations are h-swish when `hs`,
    else ReLU. (B, c1, H, W) -> (B, c2, ceil(H / s), ceil(W / s)).
    """

    def __init__(
        self, c1: int, c2: int, hidden: int, k: int = 3, s: int = 1, se: bool = False, hs: bool = False
    ) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"InvertedResidual needs its hidden channels as second argument, got {hidden}")
        if k % 2 == 0:
            raise ValueError(f"InvertedResidual pads to keep the map's size: k must be odd, got {k}")
        act: nn.Module = nn.Hardswish() if hs else nn.ReLU(inplace=True)
        self.conv = nn.Sequential(
            Conv(c1, hidden, act=act) if hidden != c1 else nn.Identity(),
            Conv(hidden, hidden, k, s, g=hidden, act=act),
            SqueezeExcite(hidden, round_to_eights(hidden / 4)) if se else nn.Identity(),
            Conv(hidden, c2, act=False),
        )
        self.add = s == 1 and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.add else y
