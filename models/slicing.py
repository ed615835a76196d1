"""Small objects of large pictures: overlapping tiles and the whole picture, merged after.

The idea is SAHI's (Akyon et al., ICIP 2022, arXiv:2202.06934). What differs: tiles go through the network in
batches, and a box that the edge of its tile has cut off is recognised by where it ends, not by its overlap
alone, so that small objects beside larger ones of their class stay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from models.detector import Detector
from utils.nms import suppress

Window: TypeAlias = tuple[int, int, int, int]  # left, top, right, bottom in pixels
BATCH = 8  # tiles that go through the network at once; more take more memory and save nothing
AT_EDGE = 0.01  # a box that ends closer to its tile's edge, in shares of the tile's side, is cut off there
COVERED = 0.7  # share of a cut box that lies in a larger box of another tile when both are one object
MOST_PAIRS = 4_000_000  # of boxes that are compared at once


@dataclass(frozen=True)
class Tiling:
    """Square tiles of `side` pixels of the picture; neighbours share at least `overlap` of it."""

    side: int
    overlap: float = 0.2

    def windows(self, shape: tuple[int, int]) -> list[Window]:
        """The tiles of a picture of `shape` (height, width), all of one size, at most the picture's."""
        (tops, height), (lefts, width) = (self._along(length) for length in shape)
        return [(left, top, left + width, top + height) for top in tops for left in lefts]

    def _along(self, length: int) -> tuple[list[int], int]:
        """Where the tiles of one side of a picture begin, evenly spread, and how long they are."""
        if length <= self.side:
            return [0], length
        step = max(int(self.side * (1 - self.overlap)), 1)
        gaps = math.ceil((length - self.side) / step)
        return [round(place * (length - self.side) / gaps) for place in range(gaps + 1)], self.side


@torch.inference_mode()
def detect_in_tiles(
    detector: Detector,
    images: Sequence[np.ndarray],
    size: tuple[int, int],
    tiling: Tiling,
    augment: bool = False,
) -> tuple[list[Tensor], tuple[int, int], tuple[float, float, float]]:
    """Detect on pictures one after the other, on the whole of each and in tiles.

    Args:
        images: (H, W, C) uint8 each, blue first.
        size: (height, width) that the network sees of a picture and of each tile.

    Returns:
        Per picture (n, 6) float32 x1, y1, x2, y2 in pixels of the picture, confidence, class, most confident
        first; the (height, width) that the network saw last; and the seconds that pre-processing, inference
        and suppression took.
    """
    found, seconds, seen = [], np.zeros(3), (0, 0)
    for image in images:
        whole = (0, 0, image.shape[1], image.shape[0])
        tiles = tiling.windows((image.shape[0], image.shape[1]))
        views = [whole] if tiles == [whole] else [whole, *tiles]
        # the whole picture has another shape than the tiles, to which it would otherwise be padded
        groups = [views[:1], *(views[first : first + BATCH] for first in range(1, len(views), BATCH))]
        parts: list[Tensor] = []
        for group in groups:
            rows, seen, times = _in_windows(detector, image, group, size, augment)
            parts += rows
            seconds += times
        start = detector.clock()
        agnostic, most = detector.agnostic, detector.max_det
        found.append(merge(parts, views, detector.iou, agnostic=agnostic, max_det=most))
        seconds[2] += detector.clock() - start
    return found, seen, (float(seconds[0]), float(seconds[1]), float(seconds[2]))


def _in_windows(
    detector: Detector, image: np.ndarray, windows: Sequence[Window], size: tuple[int, int], augment: bool
) -> tuple[list[Tensor], tuple[int, int], tuple[float, float, float]]:
    """What is in some windows of a picture, in pixels of the picture; what was seen, and how long it took."""
    start = detector.clock()
    batch = detector.prepare([image[top:bottom, left:right] for left, top, right, bottom in windows], size)
    prepared = detector.clock() - start
    found, (converted, inference, suppression) = detector.detect(batch, augment)
    for (left, top, *_), rows in zip(windows, found):
        rows[:, :4] += rows.new_tensor([left, top, left, top])
    return found, batch.size, (prepared + converted, inference, suppression)


def merge(
    found: Sequence[Tensor], views: Sequence[Window], iou: float, *, agnostic: bool, max_det: int
) -> Tensor:
    """The detections of several views of a picture as those of the picture.

    First those go that are the part of an object which its tile's edge has left: a larger box of another view
    and the same class covers them. The others suppress each other by their overlap, as in a single picture.

    Args:
        found: per view (n, 6) x1, y1, x2, y2 in pixels of the picture, confidence, class.
        views: the first one is the whole picture.
        iou: a box that overlaps a more confident one of its class by more than this is dropped.
        agnostic: classes do not matter.
        max_det: detections kept.
    """
    if len(views) == 1:
        return found[0]
    rows = torch.cat(list(found))
    view = torch.repeat_interleave(torch.tensor([len(each) for each in found])).to(rows.device)
    cut = torch.cat([cut_off(each, window, views[0]) for each, window in zip(found, views)])
    rows = rows[~_parts(rows, view, cut, agnostic)]
    rows = rows[rows[:, 4].argsort(descending=True, stable=True)]
    return suppress(rows, iou, agnostic=agnostic, max_det=max_det)


def cut_off(rows: Tensor, window: Window, whole: Window) -> Tensor:
    """(n,) bool: which of (n, 6) detections end at an edge of their window that is none of the picture."""
    near = rows.new_tensor([window[2] - window[0], window[3] - window[1]] * 2) * AT_EDGE
    inner = torch.tensor([edge != outer for edge, outer in zip(window, whole)], device=rows.device)
    return (((rows[:, :4] - rows.new_tensor(window)).abs() <= near) & inner).any(dim=1)


def _parts(rows: Tensor, view: Tensor, cut: Tensor, agnostic: bool) -> Tensor:
    """(n,) bool: which cut detections are covered by a larger one of another view."""
    part = torch.zeros_like(cut)
    areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
    for some in cut.nonzero().squeeze(1).split(max(MOST_PAIRS // max(len(rows), 1), 1)):
        low = torch.maximum(rows[some, None, :2], rows[None, :, :2])
        high = torch.minimum(rows[some, None, 2:4], rows[None, :, 2:4])
        shared = (high - low).clamp(min=0).prod(dim=2)
        covers = (shared >= COVERED * areas[some, None]) & (areas[some, None] < areas[None])
        covers &= view[some, None] != view[None]
        if not agnostic:
            covers &= rows[some, None, 5] == rows[None, :, 5]
        part[some] = covers.any(dim=1)
    return part
