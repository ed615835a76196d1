"""Adaptively spatial feature fusion (ASFF, arXiv 1911.09516): each pixel weighs the levels of the pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks.conv import Conv
from models.registry import Row, Wiring, register

LEVELS = 3


def _fused(row: Row) -> Wiring:
    if len(row.args) != 1:
        raise ValueError(f"takes one argument, the level to fuse at, got {len(row.args)} of them")
    level = row.argument(0, 0)
    _check(level, row.channels)
    return Wiring((level, row.channels), row.channels[level], joins=True)


def _check(level: int, channels: Sequence[int]) -> None:
    if len(channels) != LEVELS:
        raise ValueError(f"ASFF fuses {LEVELS} levels, finest first, got {len(channels)} inputs")
    if not 0 <= level < LEVELS:
        raise ValueError(f"ASFF: the level must be 0 (finest) to {LEVELS - 1}, got {level}")


@register(_fused, example=(1,), levels=LEVELS)
class ASFF(nn.Module):
    """Fuse three pyramid levels at one of them: the sum of all, resized to it, with weights for every pixel.

    Input: a list of maps, finest first, each half as high and wide as the one before: (B, ch[i], H / 2^i, W /
    2^i). Output: the shape of map `level`. Maps are brought to it as in the paper:

        coarser    1x1 Conv, then enlarged to the nearest pixel
        the same   as it is
        one finer  3x3 Conv of stride 2
        two finer  3x3 max-pooling of stride 2, then 3x3 Conv of stride 2

    A 1x1 convolution makes one control value per pixel of each; softmax over the levels makes weights of
    these.

    Deviations from the paper: nothing follows the sum, and control values come from the maps directly, not
    from a compressed copy of them, as the formulas have it. The 1x1 and 3x3 Convs have BN and activation.

    In a yaml: `[[17, 20, 23], 1, ASFF, [0]]`, the argument being the level, 0 for the finest.

    Args:
        level: index of the map to fuse at, 0 for the finest.
        ch: channels of the maps.
    """

    def __init__(self, level: int, ch: Sequence[int]) -> None:
        super().__init__()
        _check(level, ch)
        self.level = level
        self.resize = nn.ModuleList(_resizer(ch[i], ch[level], steps=level - i) for i in range(LEVELS))
        self.control = nn.ModuleList(nn.Conv2d(ch[level], 1, kernel_size=1) for _ in range(LEVELS))

    def forward(self, x: list[Tensor]) -> Tensor:
        if isinstance(x[0], Tensor) and not torch.jit.is_tracing():  # else sizes are no numbers
            _check_sizes(x)
        maps = [resize(features) for resize, features in zip(self.resize, x)]
        shares = self.weights(maps).split(1, dim=1)
        return shares[0] * maps[0] + shares[1] * maps[1] + shares[2] * maps[2]

    def weights(self, maps: Sequence[Tensor]) -> Tensor:
        """(B, 3, H, W) in 0..1, summing to 1 over dimension 1; `maps` are of one shape, (B, C, H, W)."""
        return torch.cat([control(y) for control, y in zip(self.control, maps)], dim=1).softmax(dim=1)


def _resizer(c1: int, c2: int, steps: int) -> nn.Module:
    """From c1 channels to c2, and `steps` times half the size, or for negative steps twice."""
    if steps == 0:
        return nn.Identity()
    if steps < 0:
        return nn.Sequential(Conv(c1, c2), nn.Upsample(scale_factor=2**-steps, mode="nearest"))
    halves = (nn.MaxPool2d(3, stride=2, padding=1) for _ in range(steps - 1))
    return nn.Sequential(*halves, Conv(c1, c2, k=3, s=2))


def _check_sizes(x: Sequence[Tensor]) -> None:
    sizes = [tuple(features.shape[2:]) for features in x]
    height, width = sizes[-1]
    if sizes != [(height * 2**i, width * 2**i) for i in reversed(range(LEVELS))]:
        raise ValueError(
            f"ASFF takes maps from fine to coarse, each half the size of the one before; got {sizes}"
        )
