"""Boxes and suppression with YOLOv5's names and argument orders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from utils import boxes as own
from utils import nms
from utils.boxes import Boxes
from utils.data.letterbox import rounded_size

Pair = tuple[float, float]


def non_max_suppression(
    prediction: Tensor | Sequence[Any],
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
    nm: int = 0,
) -> list[Tensor]:
    """Per image (n, 6): x1, y1, x2, y2 in pixels, confidence, class; see `utils.nms.non_max_suppression`.

    Args:
        prediction: (B, N, 5 + nc), or the pair of it and the maps that a network gives.
        nm: masks, of which there are none here.

    Raises:
        ValueError: `nm` is not 0, or as there.
    """
    if nm:
        raise ValueError(f"nm={nm}: segmentation is not part of this project")
    found = prediction if isinstance(prediction, Tensor) else prediction[0]
    return nms.non_max_suppression(
        found,
        conf_thres,
        iou_thres,
        classes=classes,
        agnostic=agnostic,
        multi_label=multi_label,
        labels=labels,
        max_det=max_det,
    )


def scale_boxes(
    img1_shape: Sequence[int],
    boxes: Boxes,
    img0_shape: Sequence[int],
    ratio_pad: tuple[Pair, Pair] | None = None,
) -> Boxes:
    """Move (n, 4 or more) boxes, in place, from a letterboxed picture to the picture itself; returns them.

    Args:
        img1_shape: (height, width) of the letterboxed picture.
        boxes: x1, y1, x2, y2 in its pixels, and whatever stands behind them.
        img0_shape: (height, width, …) of the picture.
        ratio_pad: ((scale, scale), (left, top)) of the letterbox, where known.
    """
    ratio, pad = ((ratio_pad[0][0],) * 2, ratio_pad[1]) if ratio_pad else (None, None)
    boxed, whole = ((int(shape[0]), int(shape[1])) for shape in (img1_shape, img0_shape))
    boxes[..., :4] = own.scale_boxes(boxes[..., :4], boxed, whole, ratio, pad)
    return boxes


def scale_coords(
    img1_shape: Sequence[int],
    coords: Boxes,
    img0_shape: Sequence[int],
    ratio_pad: tuple[Pair, Pair] | None = None,
) -> Boxes:
    """`scale_boxes` under its older name."""
    return scale_boxes(img1_shape, coords, img0_shape, ratio_pad)


def clip_boxes(boxes: Boxes, shape: Sequence[int]) -> None:
    """Limit (n, 4 or more) xyxy boxes, in place, to a picture of `shape` (height, width, …)."""
    boxes[..., :4] = own.clip_boxes(boxes[..., :4], (int(shape[0]), int(shape[1])))


def xyxy2xywh(x: Boxes) -> Boxes:
    """A copy of (n, 4 or more) with corners as centre and size."""
    return _first_four(own.xyxy_to_xywh, x)


def xywh2xyxy(x: Boxes) -> Boxes:
    """A copy of (n, 4 or more) with centre and size as corners."""
    return _first_four(own.xywh_to_xyxy, x)


def _first_four(convert: Callable[[Any], Any], x: Boxes) -> Boxes:
    copy = x.clone() if isinstance(x, Tensor) else x.copy()
    copy[..., :4] = convert(x[..., :4])
    return copy


def check_img_size(imgsz: int | Sequence[int], s: int | Tensor = 32, floor: int = 0) -> int | list[int]:
    """Sides as multiples of the stride `s`, at least `floor`; a number for a number, a list for a list."""
    stride = int(torch.as_tensor(s).max())
    sides = [imgsz] if isinstance(imgsz, int) else list(imgsz)
    rounded = [max(rounded_size(side, stride, least=1), floor) for side in sides]
    return rounded[0] if isinstance(imgsz, int) else rounded
