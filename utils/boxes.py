"""Boxes as arrays: conversions between their forms, and IoU; what losses measure is in `utils/losses/`.

Two forms exist. `xyxy` is left, top, right, bottom; `xywh` is centre x, centre y, width, height. Coordinates
grow to the right and down. A box array is (..., 4), a float tensor or a float numpy array; conversions return
a new array of the same kind and leave their input alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Boxes = TypeVar("Boxes", Tensor, np.ndarray)
EPS = 1e-7  # keeps degenerate boxes from dividing by zero


def xyxy_to_xywh(boxes: Boxes) -> Boxes:
    """(..., 4) corners to centre and size, in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return _join((low + high) / 2, high - low)


def xywh_to_xyxy(boxes: Boxes) -> Boxes:
    """(..., 4) centre and size to corners, in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return _join(centre - half, centre + half)


def normalize(boxes: Boxes, shape: tuple[int, int]) -> Boxes:
    """Pixel boxes of either form to fractions of an image of `shape` (height, width)."""
    return boxes / _row(boxes, shape[::-1] * 2)


def denormalize(boxes: Boxes, shape: tuple[int, int]) -> Boxes:
    """Boxes of either form in fractions of an image of `shape` (height, width) to pixels."""
    return boxes * _row(boxes, shape[::-1] * 2)


def clip_boxes(boxes: Boxes, shape: tuple[int, int]) -> Boxes:
    """(..., 4) xyxy pixels, limited to an image of `shape` (height, width)."""
    return boxes.clip(_row(boxes, (0, 0, 0, 0)), _row(boxes, shape[::-1] * 2))


def scale_boxes(
    boxes: Boxes,
    from_shape: tuple[int, int],
    to_shape: tuple[int, int],
    ratio: tuple[float, float] | None = None,
    pad: tuple[float, float] | None = None,
) -> Boxes:
    """Boxes found on a letterboxed image, placed on the source image and clipped to it.

    Args:
        boxes: (..., 4) xyxy pixels of the letterboxed image.
        from_shape: its (height, width).
        to_shape: (height, width) of the source image.
        ratio: horizontal and vertical scale that the letterbox applied; by default the scale that makes the
            source fit into `from_shape`.
        pad: pixels added left and on top; by default what centres the scaled source in `from_shape`.
    """
    if ratio is None:
        ratio = (min(from_shape[0] / to_shape[0], from_shape[1] / to_shape[1]),) * 2
    if pad is None:
        pad = ((from_shape[1] - to_shape[1] * ratio[0]) / 2, (from_shape[0] - to_shape[0] * ratio[1]) / 2)
    unpadded = boxes - _row(boxes, pad + pad)
    return clip_boxes(unpadded / _row(boxes, ratio + ratio), to_shape)


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Overlap of every box with every other one: (N, 4) and (M, 4) xyxy -> (N, M), 0–1; 0 for empty boxes."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    area, other_area = (np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, others))
    return shared / (area[:, None] + other_area[None, :] - shared + EPS)


def _join(*parts: Boxes) -> Boxes:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim=-1)
    return np.concatenate(parts, axis=-1)


def _row(like: Boxes, values: Sequence[float]) -> Boxes:
    """Four numbers as an array that combines with `like` without changing its type or device."""
    if isinstance(like, Tensor):
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return np.asarray(values, dtype=like.dtype)
