"""Halving a map without losing what lies between: SPD-Conv and ADown."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.activation import Activation
from models.blocks.conv import Conv, Focus
from models.blocks.taking import Take
from models.registry import Row, Wiring, register, scaled


def _quadrupled(row: Row) -> Wiring:
    if row.argument(0, 1) != 1:
        raise ValueError(f"rearranges along the channels: its argument must be 1, got {row.args[0]}")
    return Wiring((), 4 * row.c1)


@register(_quadrupled, example=(1,))
class SpaceToDepth(nn.Module):
    """Each 2x2 patch of pixels becomes four groups of channels. (B, c, H, W) -> (B, 4c, H / 2, W / 2).

    In the order of `Focus`: the row's offset runs faster than the column's. H and W must be even.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=1)


@register(scaled)
class SPDConv(Focus):
    """Space to depth, then a k x k Conv of stride 1 (SPD-Conv, arXiv 2208.03641): no pixel is skipped.

    (B, c1, H, W) -> (B, c2, H / 2, W / 2); H and W must be even. A convolution of stride 2 is a special case
    of it, in whose place it begins as that one.
    """

    def __init__(self, c1: int, c2: int, k: int = 3, act: Activation = True) -> None:
        super().__init__(c1, c2, k, act=act)

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Conv of stride 2, exactly, where the window is wide enough.

        Its column at offset d reads, of the four groups, that of parity d mod 2, floor(d / 2) pixels away.
        """
        source = other.conv if isinstance(other, Conv) else None
        own = self.conv.conv
        if source is None or source.stride != (2, 2) or source.groups != 1 or source.dilation != (1, 1):
            take.alike(self, other)
            return
        c2, c1, height, width = source.weight.shape
        padding = source.padding
        middle = own.kernel_size[0] // 2
        kernel = own.weight.new_zeros(c2, 4 * c1, *own.kernel_size)
        for y in range(height):
            for x in range(width):
                (down, row), (right, column) = divmod(y - int(padding[0]), 2), divmod(x - int(padding[1]), 2)
                if max(abs(down), abs(right)) > middle:
                    return
                group = 2 * column + row
                place = slice(group * c1, (group + 1) * c1)
                kernel[:, place, middle + down, middle + right] = source.weight[:, :, y, x]
        if kernel.shape == own.weight.shape:
            take(own.weight, kernel)
            take.norm(self.conv.bn, other.bn)  # type: ignore[arg-type]


@register(scaled)
class ADown(nn.Module):
    """YOLOv9's down-sampling (arXiv 2402.13616): half by convolution, half by the largest of its pixels.

    The mean of each 2x2 pixels, at stride 1; of its channels the first half through a 3x3 Conv of stride 2,
    the other through 3x3 max-pooling of stride 2 and a 1x1 Conv; side by side. (B, c1, H, W) -> (B, c2, H /
    2, W / 2), c1 and c2 even.
    """

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        if c1 % 2 or c2 % 2:
            raise ValueError(f"ADown works on halves: c1 and c2 must be even, got c1 = {c1}, c2 = {c2}")
        self.cv1 = Conv(c1 // 2, c2 // 2, k=3, s=2)
        self.cv2 = Conv(c1 // 2, c2 // 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = F.avg_pool2d(x, kernel_size=2, stride=1).chunk(2, dim=1)
        second = F.max_pool2d(second, kernel_size=3, stride=2, padding=1)
        return torch.cat((self.cv1(first), self.cv2(second)), dim=1)
