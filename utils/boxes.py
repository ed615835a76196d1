"""Boxes as arrays: conversions between their forms, and how much two of them overlap.

Two forms exist. `xyxy` is left, top, right, bottom; `xywh` is centre x, centre y, width, height. Coordinates
grow to the right and down. A box array is (..., 4), a float tensor or a float numpy array; conversions return
a new array of the same kind and leave their input alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Boxes = TypeVar("Boxes", Tensor, np.ndarray)
EPS = 1e-7  # keeps degenerate boxes from dividing by zero
SHAPE_EXPONENT = 4  # of SIoU: how steeply differing sides are punished; its authors advise 2 to 6


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


@dataclass(frozen=True)
class PairGeometry:
    """What the overlap measures of paired boxes are made of; tensors are (...,).

    `image` is the width and height of the image in the unit of the boxes; only MPDIoU needs it.
    """

    w1: Tensor
    h1: Tensor
    w2: Tensor
    h2: Tensor
    iou: Tensor
    union: Tensor
    dx: Tensor  # centre of the second box minus centre of the first
    dy: Tensor
    hull_w: Tensor  # sides of the smallest box around both
    hull_h: Tensor
    image: tuple[float, float] | None = None

    @classmethod
    def of(cls, box1: Tensor, box2: Tensor, image: tuple[float, float] | None = None) -> PairGeometry:
        """Measure xywh boxes (..., 4) pair by pair."""
        x1, y1, w1, h1 = box1.unbind(-1)
        x2, y2, w2, h2 = box2.unbind(-1)
        dx, dy = x2 - x1, y2 - y1
        shared_w, hull_w = _span(dx, w1, w2)
        shared_h, hull_h = _span(dy, h1, h2)
        shared = shared_w.clamp(min=0) * shared_h.clamp(min=0)
        union = w1 * h1 + w2 * h2 - shared + EPS
        return cls(w1, h1, w2, h2, shared / union, union, dx, dy, hull_w, hull_h, image)


def _giou(pair: PairGeometry) -> Tensor:
    """IoU less the share of the hull that neither box covers (Rezatofighi et al., arXiv:1902.09630)."""
    hull = pair.hull_w * pair.hull_h + EPS
    return pair.iou - (hull - pair.union) / hull


def _diou(pair: PairGeometry) -> Tensor:
    """IoU less squared centre distance over squared hull diagonal (Zheng et al., arXiv:1911.08287)."""
    distance = pair.dx.square() + pair.dy.square()
    return pair.iou - distance / (pair.hull_w.square() + pair.hull_h.square() + EPS)


def _ciou(pair: PairGeometry) -> Tensor:
    """DIoU less a penalty on different aspect ratios (same paper); its weight carries no gradient."""
    angle = torch.atan(pair.w2 / (pair.h2 + EPS)) - torch.atan(pair.w1 / (pair.h1 + EPS))
    aspect = (2 / math.pi * angle).square()
    weight = (aspect / (aspect - pair.iou + 1 + EPS)).detach()
    return _diou(pair) - weight * aspect


def _eiou(pair: PairGeometry) -> Tensor:
    """DIoU less squared differences of the sides over the hull's (Zhang et al., arXiv:2101.08158)."""
    width = (pair.w2 - pair.w1).square() / (pair.hull_w.square() + EPS)
    height = (pair.h2 - pair.h1).square() / (pair.hull_h.square() + EPS)
    return _diou(pair) - width - height


def _siou(pair: PairGeometry) -> Tensor:
    """IoU less half of a distance cost and of a shape cost (Gevorgyan, arXiv:2205.12740).

    The paper's angle cost, 1 - 2 sin²(arcsin(sin a) - 45°) for the angle a between the line of centres and an
    axis, is sin 2a = 2 sin a cos a; so written it needs no arcsin, whose slope is infinite at 90°. All three
    costs carry gradients.
    """
    dx2, dy2 = pair.dx.square(), pair.dy.square()
    angle = 2 * (pair.dx * pair.dy).abs() / (dx2 + dy2 + EPS)
    sharpness = 2 - angle
    distance = -torch.expm1(-sharpness * dx2 / (pair.hull_w.square() + EPS))
    distance = distance - torch.expm1(-sharpness * dy2 / (pair.hull_h.square() + EPS))
    wider, higher = torch.maximum(pair.w1, pair.w2), torch.maximum(pair.h1, pair.h2)
    width = -torch.expm1(-(pair.w1 - pair.w2).abs() / (wider + EPS))
    height = -torch.expm1(-(pair.h1 - pair.h2).abs() / (higher + EPS))
    return pair.iou - (distance + width**SHAPE_EXPONENT + height**SHAPE_EXPONENT) / 2


def _mpdiou(pair: PairGeometry) -> Tensor:
    """IoU less the squared distances of the top-left and of the bottom-right corners over the image's squared
    diagonal (Ma and Xu, arXiv:2307.07662).

    With centres dx, dy and half sides dw, dh apart, the corners are (dx - dw, dy - dh) and (dx + dw, dy + dh)
    apart; the squares add up to 2 (dx² + dy² + dw² + dh²).
    """
    if pair.image is None:
        raise ValueError("MPDIoU needs the image's width and height")
    width, height = pair.image
    half_w, half_h = (pair.w2 - pair.w1) / 2, (pair.h2 - pair.h1) / 2
    apart = 2 * (pair.dx.square() + pair.dy.square() + half_w.square() + half_h.square())
    return pair.iou - apart / (width**2 + height**2)


# A new overlap measure is one function of a PairGeometry and one line here; the hyper-parameter `iou` then
# accepts its name.
IOU_KINDS: dict[str, Callable[[PairGeometry], Tensor]] = {
    "IoU": lambda pair: pair.iou,
    "GIoU": _giou,
    "DIoU": _diou,
    "CIoU": _ciou,
    "EIoU": _eiou,
    "SIoU": _siou,
    "MPDIoU": _mpdiou,
}


def iou(box1: Tensor, box2: Tensor, kind: str = "IoU", image: tuple[float, float] | None = None) -> Tensor:
    """Overlap of boxes pair by pair, differentiable in both.

    Args:
        box1: (..., 4) float, xywh in any unit.
        box2: the same, broadcastable to `box1`.
        kind: a key of `IOU_KINDS`.
        image: width and height of the image in the unit of the boxes, for MPDIoU.

    Returns:
        (...,) at most 1; the kinds other than IoU go below 0.

    Raises:
        ValueError: an unknown kind, or MPDIoU without the size of the image.
    """
    if kind not in IOU_KINDS:
        raise ValueError(f"unknown overlap measure {kind!r}; known: {', '.join(IOU_KINDS)}")
    return IOU_KINDS[kind](PairGeometry.of(box1, box2, image))


def _span(offset: Tensor, side1: Tensor, side2: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: length shared by two intervals (negative when apart) and length that covers both."""
    half1, half2 = side1 / 2, side2 / 2
    shared = torch.minimum(half1, offset + half2) - torch.maximum(-half1, offset - half2)
    hull = torch.maximum(half1, offset + half2) - torch.minimum(-half1, offset - half2)
    return shared, hull


def _join(*parts: Boxes) -> Boxes:
    if isinstance(parts[0], Tensor):
        return torch.cat(parts, dim=-1)
    return np.concatenate(parts, axis=-1)


def _row(like: Boxes, values: Sequence[float]) -> Boxes:
    """Four numbers as an array that combines with `like` without changing its type or device."""
    if isinstance(like, Tensor):
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return np.asarray(values, dtype=like.dtype)
