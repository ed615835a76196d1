"""ShuffleNetV2 (arXiv 1807.11164): units that transform half of the channels and shuffle both halves."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.conv import Conv, batch_norm
from models.blocks.reshape import shuffle_channels
from models.blocks.taking import Take, depthwise_factors
from models.registry import register, scaled


@register(scaled)
class ShuffleNetV2(nn.Module):
    """A ShuffleNetV2 unit. (B, c1, H, W) -> (B, c2, ceil(H / stride), ceil(W / stride)), stride 1 or 2.

    Stride 1 (c1 = c2): the left half of the channels passes, the right half goes through `branch2`: 1x1 + BN
    + ReLU, 3x3 depthwise + BN, 1x1 + BN + ReLU. Stride 2: `branch2` on all channels beside `branch1`: 3x3
    depthwise + BN, 1x1 + BN + ReLU. Both halves are concatenated and interleaved.

    Deviation from the paper, which trained weights follow: the depthwise convolutions carry a bias, which BN
    takes away again. With `bias=False` they have none.
    """

    def __init__(self, c1: int, c2: int, stride: int = 1, bias: bool = True) -> None:
        super().__init__()
        name = type(self).__name__
        if stride not in (1, 2):
            raise ValueError(f"{name} takes stride 1 or 2, got {stride}")
        if c2 % 2:
            raise ValueError(f"{name} makes its channels in two halves: c2 must be even, got {c2}")
        if stride == 1 and c1 != c2:
            raise ValueError(
                f"{name} keeps its channels at stride 1: c1 must equal c2, got c1 = {c1}, c2 = {c2}"
            )
        self.stride, self.bias = stride, bias
        half = c2 // 2
        if stride == 2:
            self.branch1 = nn.Sequential(*self.transition(c1, half))
        self.branch2 = nn.Sequential(*self.bottleneck(c1 if stride == 2 else half, half))

    def transition(self, c1: int, c2: int) -> list[nn.Module]:
        """The layers of the stride-2 shortcut."""
        return [*self.depthwise(c1, self.stride), *_pointwise(c1, c2)]

    def bottleneck(self, c1: int, c2: int) -> list[nn.Module]:
        """The layers of the main branch."""
        return [*_pointwise(c1, c2), *self.depthwise(c2, self.stride), *_pointwise(c2, c2)]

    def depthwise(self, c: int, stride: int) -> list[nn.Module]:
        """3x3 depthwise convolution + BN."""
        conv = nn.Conv2d(c, c, kernel_size=3, stride=stride, padding=1, groups=c, bias=self.bias)
        return [conv, batch_norm(c)]

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            left, right = self.branch1(x), x
        else:
            left, right = x.chunk(2, dim=1)
        return shuffle_channels(torch.cat((left, self.branch2(right)), dim=1), groups=2)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """Of a Conv of stride 2 the even channels, made by `branch1`, as the nearest separable kernels."""
        if not isinstance(other, Conv) or other.conv.kernel_size != (3, 3) or other.conv.groups != 1:
            take.alike(self, other)
        elif self.stride == 2:
            spatial, *_, pointwise = (layer for layer in self.branch1 if isinstance(layer, nn.Conv2d))
            depthwise, mix = depthwise_factors(other.conv.weight[::2])
            if (mix.shape, depthwise.shape) == (pointwise.weight.shape, spatial.weight.shape):
                take(spatial.weight, depthwise)
                take(pointwise.weight, mix)
                take.norm(self.branch1[-2], other.bn, slice(0, None, 2))
                take.norm(self.branch2[-2], other.bn, slice(1, None, 2))


@register(scaled)
class ShuffleNetV2X(ShuffleNetV2):
    """ShuffleNetV2 with a larger receptive field, the paper's form for detection (V2*, section 4).

    One more 3x3 depthwise convolution + BN stands directly before the first pointwise convolution of each
    branch.
    """

    def transition(self, c1: int, c2: int) -> list[nn.Module]:
        return [*self.depthwise(c1, self.stride), *self.depthwise(c1, 1), *_pointwise(c1, c2)]

    def bottleneck(self, c1: int, c2: int) -> list[nn.Module]:
        return [*self.depthwise(c1, 1), *super().bottleneck(c1, c2)]


@register(scaled)
class ShuffleStem(nn.Module):
    """The network's entry: 3x3 convolution of stride 2 + BN + ReLU, 3x3 max-pool of stride 2.

    (B, c1, H, W) -> (B, c2, H / 4, W / 4).
    """

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        conv = nn.Conv2d(c1, c2, kernel_size=3, stride=2, padding=1, bias=False)
        self.conv = nn.Sequential(conv, batch_norm(c2), nn.ReLU(inplace=True))
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool(self.conv(x))


def _pointwise(c1: int, c2: int) -> list[nn.Module]:
    return [nn.Conv2d(c1, c2, kernel_size=1, bias=False), batch_norm(c2), nn.ReLU(inplace=True)]
