"""DySample up-sampling (arXiv 2308.15085): the map is sampled at points that are learned from it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.taking import Take
from models.registry import per_channel, register

STATIC_SCOPE = 0.25  # how far offsets reach, in input pixels; the dynamic scope starts there
OFFSET_STD = 0.001  # of the initial offset weights: the block starts next to bilinear interpolation


@register(per_channel)
class DySample(nn.Module):
    """Up-sampling by `scale` at learned points. (B, c1, H, W) -> (B, c1, scale * H, scale * W).

    Output pixel u of a row lies at (u + 1/2) / scale input pixels, the paper's bilinear initial position; an
    offset for x and one for y move it, and the map is sampled there, bilinearly and clamped to the border.
    Each of `groups` slices of the channels has offsets of its own. With linear = 1x1 convolution:

        static scope    0.25 * linear(x)
        dynamic scope   0.5 * sigmoid(linear'(x)) * linear(x), where linear' starts at zero, so at 0.25 too

    Style `lp` makes 2 * groups * scale^2 channels from x and shuffles them to the fine grid; `pl` shuffles x
    first and makes 2 * groups from its c1 / scale^2 channels.

    Deviations from the paper: none in the formula. Points are computed and sampled in at least float32
    whatever the type of x, because a 16-bit coordinate is off by a fraction of a pixel. On CUDA the backward
    pass of torch's `grid_sample` adds in no fixed order; on CPU it is deterministic.
    """

    def __init__(
        self,
        c1: int,
        scale: int = 2,
        style: Literal["lp", "pl"] = "lp",
        groups: int = 4,
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        _check(c1, scale, style, groups)
        self.c1, self.factor, self.style, self.groups = c1, scale, style, groups
        inputs, offsets = (c1, 2 * groups * scale**2) if style == "lp" else (c1 // scale**2, 2 * groups)
        self.offset = nn.Conv2d(inputs, offsets, kernel_size=1)
        nn.init.normal_(self.offset.weight, std=OFFSET_STD)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]
        self.scope = nn.Conv2d(inputs, offsets, kernel_size=1, bias=False) if dynamic else None
        if self.scope is not None:
            nn.init.zeros_(self.scope.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        slices = wide.reshape(-1, self.c1 // self.groups, height, width)  # (B, C, H, W) -> (B*g, C/g, H, W)
        y = F.grid_sample(slices, self._grid(x, wide.dtype), padding_mode="border", align_corners=False)
        y = y.reshape(batch, self.c1, height * self.factor, width * self.factor)
        return y.type_as(x)  # whatever type a trace will be converted to later

    def offsets(self, x: Tensor) -> Tensor:
        """(B, 2 * groups, scale * H, scale * W): x and y of group 0, of group 1, …, in input pixels."""
        if self.style == "pl":
            x = F.pixel_shuffle(x, self.factor)
        offsets = self.offset(x)
        if self.scope is None:
            offsets = STATIC_SCOPE * offsets
        else:
            offsets = 2 * STATIC_SCOPE * self.scope(x).sigmoid() * offsets
        return F.pixel_shuffle(offsets, self.factor) if self.style == "lp" else offsets

    def adopt(self, other: nn.Module, take: Take) -> None:
        """Sample where a nearest-neighbour Upsample does: at the middle of pixels. Style `lp` can."""
        nearest = isinstance(other, nn.Upsample) and other.mode == "nearest"
        if not nearest or self.style != "lp" or getattr(other, "scale_factor", None) != self.factor:
            return
        way = 0.5 - (torch.arange(self.factor) + 0.5) / self.factor  # from the initial place to the middle
        fine = torch.stack((way.expand(self.factor, -1), way[:, None].expand(-1, self.factor)))  # x, y
        fine = fine.repeat(self.groups, 1, 1)[None] / STATIC_SCOPE  # (1, 2 * groups, scale, scale)
        take(self.offset.weight, torch.zeros_like(self.offset.weight))
        take(self.offset.bias, F.pixel_unshuffle(fine, self.factor).flatten())  # type: ignore[arg-type]

    def _grid(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Points for `grid_sample`, (B * groups, scale * H, scale * W, 2): x, y from -1 to 1 at the edges."""
        height, width = x.shape[2], x.shape[3]
        rows = torch.arange(height * self.factor, device=x.device, dtype=dtype)
        columns = torch.arange(width * self.factor, device=x.device, dtype=dtype)
        offsets = self.offsets(x).to(dtype).reshape(-1, 2, height * self.factor, width * self.factor)
        # slices, since an index is a Gather in ONNX; without an axis of channels, so that deploy() makes no
        # convolution of the products below
        right, down = (part.reshape(-1, *part.shape[2:]) for part in (offsets[:, :1], offsets[:, 1:]))
        in_x = right + (columns + 0.5) / self.factor
        in_y = down + ((rows + 0.5) / self.factor).unsqueeze(1)
        return torch.stack((in_x * 2 / width - 1, in_y * 2 / height - 1), dim=3)


def _check(c1: int, scale: int, style: str, groups: int) -> None:
    for name, value, least in (("scale", scale, 2), ("groups", groups, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"DySample: {name} must be an integer >= {least}, got {value!r}")
    if style not in ("lp", "pl"):
        raise ValueError(f"DySample: style must be lp or pl, got {style!r}")
    if c1 % groups:
        raise ValueError(f"DySample samples in {groups} groups: c1 must be a multiple of {groups}, got {c1}")
    if style == "pl" and c1 % scale**2:
        raise ValueError(f"DySample: style pl needs a multiple of scale^2 = {scale**2} channels, got {c1}")
