"""The detection head after folding: decoding on planes, before the values are brought into rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks.detect import Detect

BOX = 4  # x, y, w, h


class FoldedHead(nn.Module):
    """What `Detect` does with the outputs of its convolutions, which give boxes and scores apart.

    Scores may be in several pieces, one behind the other (`Detect.pieces`).

    With s = sigmoid(t), both kinds of coordinates are one polynomial, `(a s + b) s + c`: for x and y a = 0,
    b = 2 stride, c = (cell - 1/2) stride; for w and h a = 4 anchor, b = c = 0. On planes (channel by channel)
    a coordinate is one contiguous piece of memory; only finished values are transposed to rows, once.

    Args:
        detect: the head that is folded.
    """

    size: tuple[int, int] | None = None

    def __init__(self, detect: Detect) -> None:
        super().__init__()
        self.na, self.no, self.pieces = detect.na, detect.no, detect.pieces
        strides = [float(stride) for stride in detect.stride]
        self.strides = strides
        pixels = detect.anchors * detect.stride.to(detect.anchors).reshape(-1, 1, 1)  # (nl, na, 2)
        for level, (anchors, stride) in enumerate(zip(pixels, strides)):
            zero = torch.zeros_like(anchors)
            a, b = torch.cat((zero, 4 * anchors), dim=1), torch.cat((zero + 2 * stride, zero), dim=1)
            self.register_buffer(f"a{level}", a.reshape(1, self.na, BOX, 1))
            self.register_buffer(f"b{level}", b.reshape(1, self.na, BOX, 1))

    def fix(self, size: tuple[int, int]) -> None:
        """Have the cells as constants, for images of this (height, width) alone."""
        self.size = size
        for level, stride in enumerate(self.strides):
            height, width = (int(side / stride) for side in size)
            cells = self._cells(height, width, stride, getattr(self, f"a{level}"))
            self.register_buffer(f"c{level}", cells)

    def forward(self, boxes: Sequence[Tensor], *scores: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """(B, na * 4, H, W) and (B, na * (1 + nc), H, W) per level to what `Detect` gives in eval mode."""
        rows, logits = [], []
        for level, (box, *parts) in enumerate(zip(boxes, *scores)):
            score = parts[0]
            box = box.reshape(box.shape[0], self.na, BOX, -1)
            several = [
                part.reshape(score.shape[0], self.na, size, -1) for part, size in zip(parts, self.pieces[1:])
            ]
            planes = several[0] if len(several) == 1 else torch.cat(several, dim=2)
            decoded = torch.cat((self._decoded(box, level, score), self._wide(planes).sigmoid()), dim=2)
            rows.append(decoded.transpose(2, 3).reshape(score.shape[0], -1, self.no))
            whole = torch.cat((box, planes), dim=2).transpose(2, 3)
            logits.append(whole.reshape(score.shape[0], self.na, score.shape[2], score.shape[3], self.no))
        return torch.cat(rows, dim=1), logits

    def _decoded(self, box: Tensor, level: int, score: Tensor) -> Tensor:
        """(B, na, 4, H * W) logits to pixels."""
        s = self._wide(box).sigmoid()
        a, b = getattr(self, f"a{level}"), getattr(self, f"b{level}")
        if self.size is not None:
            cells = getattr(self, f"c{level}")
        else:
            cells = self._cells(score.shape[2], score.shape[3], self.strides[level], s)
        return (a.to(s.dtype) * s + b.to(s.dtype)) * s + cells

    def _cells(self, height: int, width: int, stride: float, like: Tensor) -> Tensor:
        """(1, 1, 4, H * W): x and y of each cell less one half in pixels, zero for w and h."""
        y = (torch.arange(height, device=like.device, dtype=like.dtype) - 0.5) * stride
        x = (torch.arange(width, device=like.device, dtype=like.dtype) - 0.5) * stride
        shape = (height, width)
        cells = torch.stack((x.expand(shape), y.unsqueeze(1).expand(shape)), dim=0).reshape(1, 1, 2, -1)
        return torch.cat((cells, torch.zeros_like(cells)), dim=2)

    @staticmethod
    def _wide(x: Tensor) -> Tensor:
        return x.float() if x.dtype is torch.bfloat16 else x  # 8 bits of mantissa cannot hold a coordinate


def piece_rows(detect: Detect) -> list[list[int]]:
    """The rows of the head's convolutions that make each of its pieces, anchor by anchor; boxes first."""
    ends = [sum(detect.pieces[: place + 1]) for place in range(len(detect.pieces))]
    starts = range(0, detect.na * detect.no, detect.no)
    return [
        [start + row for start in starts for row in range(end - size, end)]
        for end, size in zip(ends, detect.pieces)
    ]
