"""The anchor-based detection head: one 1x1 convolution per level, and the decoding of its output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from models.registry import Row, Wiring, register

Anchors: TypeAlias = int | Sequence[Sequence[float]]


def detects(row: Row) -> Wiring:
    """The rule of heads: `Head(nc, anchors, ch)` of the maps that it takes."""
    if len(row.args) != 2:
        raise ValueError(f"takes the arguments [nc, anchors], got {len(row.args)} of them")
    nc, anchors = row.args
    if not isinstance(anchors, int) and len(anchors) != len(row.channels):
        raise ValueError(f"has {len(anchors)} rows of anchors for {len(row.channels)} layers; give one each")
    return Wiring((nc, anchors, row.channels), anchors_per_level(anchors) * (nc + 5), joins=True)


def anchors_per_level(anchors: Anchors) -> int:
    """How many anchors each level has: the integer itself, or half the numbers of a row."""
    return anchors if isinstance(anchors, int) else len(anchors[0]) // 2


@register(detects, example=(3, 2), levels=3)
class Detect(nn.Module):
    """YOLOv5's head. Input: `nl` maps (B, c, H, W), one per level, finest first.

    Training: a list of logits, one (B, na, H, W, no) per level, no = x, y, w, h, objectness, nc classes.
    Eval: the pair of decoded predictions (B, sum of na*H*W, no) and that list. Decoded boxes are centre x, y,
    width, height in input pixels; objectness and class scores are in 0..1. Rows are ordered by level, anchor,
    y, x.

    Args:
        nc: number of classes.
        anchors: one row `w, h, w, h, …` of pixels per level, or the number of anchors per level: then the
            shapes are squares of 4 to 8 strides, a start for autoanchor.
        ch: channels of the input maps.

    Attributes:
        anchors: buffer (nl, na, 2), w and h in grid units, pixels / stride.
        stride: buffer (nl,), input pixels per cell. Both are set by `set_geometry`.
        pieces: numbers of neighbouring rows of an anchor that a folded head takes apart, 4 of the box first.
    """

    anchors: Tensor
    stride: Tensor

    def __init__(self, nc: int, anchors: Anchors, ch: Sequence[int]) -> None:
        super().__init__()
        self.nc = nc
        self.no = nc + 5
        self.nl = len(ch)
        self.na = anchors_per_level(anchors)
        self.anchor_pixels = anchors
        self.pieces: tuple[int, ...] = (4, self.no - 4)
        self.register_buffer("anchors", torch.ones(self.nl, self.na, 2))
        self.register_buffer("stride", torch.ones(self.nl), persistent=False)
        self.m = nn.ModuleList(nn.Conv2d(c, self.na * self.no, kernel_size=1) for c in ch)

    def set_geometry(self, strides: Sequence[float]) -> None:
        """Take the levels' strides: sets `stride` and `anchors`, and the biases that expect few objects.

        Anchors that run from coarse to fine while the strides run from fine to coarse are turned round.
        """
        shapes = self._anchor_shapes(strides)
        area = [sum(w * h for w, h in level) for level in shapes]
        if (area[-1] - area[0]) * (strides[-1] - strides[0]) < 0:
            shapes.reverse()
        in_cells = [[(w / s, h / s) for w, h in level] for level, s in zip(shapes, strides)]
        self.stride.copy_(torch.tensor(strides))
        self.anchors.copy_(torch.tensor(in_cells))
        self._initialise_biases(strides)

    def _anchor_shapes(self, strides: Sequence[float]) -> list[list[tuple[float, float]]]:
        """(w, h) in pixels per level and anchor."""
        if not isinstance(self.anchor_pixels, int):
            return [list(zip(row[0::2], row[1::2])) for row in self.anchor_pixels]
        # the octave scales of RetinaNet (arXiv 1708.02002): sides 4 * 2^(k/n) strides
        sides = [4 * 2 ** (k / self.na) for k in range(self.na)]
        return [[(side * stride, side * stride) for side in sides] for stride in strides]

    @torch.no_grad()
    def _initialise_biases(self, strides: Sequence[float]) -> None:
        """Start from some 8 objects in a 640-pixel image and equally rare classes (arXiv 1708.02002 §3.3)."""
        for conv, stride in zip(self.m, strides):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            bias = conv.bias.view(self.na, self.no)
            bias[:, 4] = math.log(8 / (640 / stride) ** 2)
            bias[:, 5:] = math.log(0.6 / (self.nc - 0.99999))

    def forward(self, x: list[Tensor]) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        logits = []
        for features, level in zip(x, self.maps(x)):
            batch, _, height, width = features.shape
            level = level.reshape(batch, self.na, self.no, height, width)
            logits.append(level.permute(0, 1, 3, 4, 2))  # (B, na, no, H, W) -> (B, na, H, W, no)
        return logits if self.training else (self.decode(logits), logits)

    def maps(self, x: Sequence[Tensor]) -> list[Tensor]:
        """(B, na * no, H, W) of logits per level, anchor by anchor."""
        return [conv(features) for conv, features in zip(self.m, x)]

    def apart(self) -> tuple[nn.Module | None, Detect]:
        """What runs before the 1x1 convolutions of a head, if anything does, and the head without that."""
        return None, self

    def decode(self, logits: Sequence[Tensor]) -> Tensor:
        """Logits of every level, (B, na, H, W, no) each, to predictions (B, sum of na*H*W, no) in pixels."""
        scores = torch.cat([level.flatten(1, 3) for level in logits], dim=1)
        if scores.dtype is torch.bfloat16:
            scores = scores.float()  # 8 bits of mantissa cannot hold a pixel coordinate
        xy, wh, rest = scores.sigmoid_().split((2, 2, self.nc + 1), dim=2)
        cell, stride, anchor = self._places(logits, scores.dtype)
        return torch.cat(((xy * 2 + cell) * stride, (wh * 2) ** 2 * anchor, rest), dim=2)

    def _places(self, logits: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Per prediction row: its cell less one half (N, 2), stride (N, 1), anchor in pixels (N, 2).

        Made anew for each call: it costs a thousandth of the network, follows any map size in a traced graph,
        and never lags behind anchors that training or a checkpoint has changed.
        """
        cells, strides, anchors = [], [], []
        for level, stride, anchor in zip(logits, self.stride.to(dtype), self.anchors.to(dtype)):
            height, width = level.shape[2], level.shape[3]
            y = torch.arange(height, device=level.device, dtype=dtype) - 0.5
            x = torch.arange(width, device=level.device, dtype=dtype) - 0.5
            grid = torch.stack((x.expand(height, width), y.unsqueeze(1).expand(height, width)), dim=2)
            whole = (self.na, height, width, 2)
            cells.append(grid.expand(whole).flatten(0, 2))
            anchors.append((anchor * stride)[:, None, None].expand(whole).flatten(0, 2))
            strides.append(stride.expand(self.na, height, width, 1).flatten(0, 2))
        return torch.cat(cells), torch.cat(strides), torch.cat(anchors)
