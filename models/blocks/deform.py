"""Convolution at learned places (Deformable ConvNets v2, arXiv 1811.11168)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.activation import Activation, make_activation
from models.blocks.conv import Conv, Size, fold_batch_norm
from models.blocks.gate import Gate, zero
from models.blocks.taking import Take
from models.registry import register, scaled


@register(scaled)
class DCNv2(nn.Module):
    """Conv whose k x k taps lie where the map says, and count as it says (Zhu et al. 2019, equation 1).

    (B, c1, H, W) -> (B, c2, H', W') with k, s, p, g, d and act as Conv has them:
    `y(o) = sum_i w_i * x(o * s + i + offset_i) * mask_i`, then BatchNorm and activation. A k x k convolution
    `offset` with the same stride, 0 at first, makes 3 k^2 channels for each of `dg` slices of the channels: y
    and x of each tap's offset in pixels, all slices, then the taps' masks, through a sigmoid. Values between
    pixels are bilinear, those outside the map 0.

    In place of a Conv it begins as that one, but for rounding: offsets are 0, and the gain of the mask's
    `Gate` is 2. From scratch masks begin at 1/2, as in the paper.

    torchvision computes it; what is traced (all exported files) samples the map with `grid_sample` instead,
    which gives the same numbers and which every format has, where operators for deformable convolution are
    rare. Deviation from the paper: `offset` learns as fast as all else, not at a tenth of the rate.
    """

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 3,
        s: int = 1,
        p: Size | None = None,
        g: int = 1,
        d: int = 1,
        act: Activation = True,
        dg: int = 1,
    ) -> None:
        super().__init__()
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise ValueError(f"DCNv2: the kernel must be a square, k an integer >= 1, got {k!r}")
        for name, channels, groups in (("g", c1, g), ("g", c2, g), ("dg", c1, dg)):
            if not isinstance(groups, int) or groups < 1 or channels % groups:
                raise ValueError(f"DCNv2: {name} = {groups} must divide the channels, got {channels}")
        unit = Conv(c1, c2, k, s, p=p, g=g, d=d)
        self.conv, self.bn, self.act = unit.conv, unit.bn, make_activation(act)
        self.dg = dg
        like = self.conv
        self.offset = nn.Conv2d(c1, 3 * dg * k * k, k, like.stride, like.padding, like.dilation)  # type: ignore[arg-type]
        zero(self.offset)
        self.gate = Gate()

    def forward(self, x: Tensor) -> Tensor:
        taps = self.offset.out_channels // 3
        offset, mask = self.offset(x).split((2 * taps, taps), dim=1)
        mask = self.gate(mask)
        if isinstance(x, Tensor) and not torch.jit.is_tracing() and x.device.type != "mps":
            return self.act(self.bn(self._deformed(x, offset, mask).type_as(x)))
        return self.act(self.bn(self._sampled(x, offset, mask)))

    def _deformed(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """The convolution by torchvision's operator, in at least float32: it has no bfloat16."""
        from torchvision.ops import deform_conv2d  # seconds to import, for this block alone

        conv, kind = self.conv, torch.promote_types(x.dtype, torch.float32)
        return deform_conv2d(
            x.to(kind),
            offset.to(kind),
            conv.weight.to(kind),
            None if conv.bias is None else conv.bias.to(kind),
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            mask=mask.to(kind),
        )

    def _sampled(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """The convolution in operators that every format has: places, `grid_sample`, and a 1x1 convolution.

        All taps of a pixel lie below each other: (B * dg, C / dg, k^2 * H', W').
        """
        conv, taps, dg = self.conv, self.conv.kernel_size[0] ** 2, self.dg
        height, width = x.shape[2], x.shape[3]
        rows, columns = offset.shape[2], offset.shape[3]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        moves = offset.to(wide.dtype).reshape(-1, taps, 2, rows, columns)  # (B * dg, k^2, 2, H', W')
        down, right = (part.squeeze(2) for part in (moves[:, :, :1], moves[:, :, 1:]))
        tap_y, tap_x = self._taps(wide)
        in_y = down + _starts(rows, conv.stride[0], conv.padding[0], wide).unsqueeze(1) + tap_y
        in_x = right + _starts(columns, conv.stride[1], conv.padding[1], wide) + tap_x
        places = torch.stack(((2 * in_x + 1) / width - 1, (2 * in_y + 1) / height - 1), dim=4)
        slices = wide.reshape(-1, x.shape[1] // dg, height, width)
        grid = places.reshape(-1, taps * rows, columns, 2)
        found = F.grid_sample(slices, grid, padding_mode="zeros", align_corners=False)
        weighed = found * mask.to(wide.dtype).reshape(-1, 1, taps * rows, columns)
        stacked = weighed.reshape(-1, x.shape[1] * taps, rows, columns).type_as(x)
        return F.conv2d(
            stacked, conv.weight.reshape(conv.out_channels, -1, 1, 1), conv.bias, groups=conv.groups
        )

    def _taps(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(k^2, 1, 1) each: pixels down and to the right from the first tap to every one."""
        k, (step_y, step_x) = self.conv.kernel_size[0], self.conv.dilation
        side = torch.arange(k, device=like.device, dtype=like.dtype)
        down, right = side.repeat_interleave(k) * step_y, side.repeat(k) * step_x
        return down.reshape(-1, 1, 1), right.reshape(-1, 1, 1)

    def fuse(self) -> None:
        """Fold BatchNorm into the kernel, for inference. A second call changes nothing."""
        if isinstance(self.bn, nn.BatchNorm2d):
            fold_batch_norm(self.conv, self.bn)
            self.bn = nn.Identity()

    def adopt(self, other: nn.Module, take: Take) -> None:
        """A Conv's kernel and norm; the taps stay where its taps are, and count as much."""
        if not isinstance(other, Conv):
            take.alike(self, other)
            return
        take.unit(self, other)
        if take.has(self.conv.weight):
            for tensor in self.offset.parameters():
                take(tensor, torch.zeros_like(tensor))
            take(self.gate.gain, torch.full_like(self.gate.gain, 2.0))


def _starts(count: int, stride: int, padding: int | str, like: Tensor) -> Tensor:
    """(count,) where the first tap of each pixel of the output lies in the input, in pixels."""
    assert isinstance(padding, int)
    return torch.arange(count, device=like.device, dtype=like.dtype) * stride - padding
