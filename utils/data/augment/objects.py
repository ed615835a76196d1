"""The labelled things of one picture, in its pixels, and what geometry does to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST = 2.0  # pixels: narrower boxes are dropped after a warp
LARGEST_ASPECT = 100.0
VISIBLE_BOX, VISIBLE_POLYGON = 0.10, 0.01  # part of its area that must remain in the picture


@dataclass
class Objects:
    """n things. Pixel coordinates are those of edges: a picture of width W spans x from 0 to W."""

    classes: np.ndarray  # (n,) float32
    boxes: np.ndarray  # (n, 4) float64 xyxy pixels
    points: np.ndarray  # (K, 2) float64 x, y: the corners of all polygons, one after the other
    lengths: np.ndarray  # (n,) int64: corners of each thing's polygon, 0 where there is only a box

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def from_labels(
        cls, labels: np.ndarray, size: tuple[int, int], polygons: Sequence[np.ndarray] = ()
    ) -> Objects:
        """From (n, 5) class, xc, yc, w, h and n polygons, normalised, in a picture of `size` (h, w)."""
        scale = np.array([size[1], size[0]], np.float64)
        centre, half = labels[:, 1:3] * scale, labels[:, 3:5] * scale / 2
        points = np.concatenate([np.zeros((0, 2)), *polygons]) * scale
        lengths = np.array([len(polygon) for polygon in polygons] or np.zeros(len(labels)), np.int64)
        return cls(labels[:, 0], np.concatenate([centre - half, centre + half], axis=1), points, lengths)

    @classmethod
    def concatenate(cls, parts: Sequence[Objects]) -> Objects:
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))

    def to_labels(self, size: tuple[int, int]) -> np.ndarray:
        """(n, 5) float32 class, xc, yc, w, h, normalised by `size` (height, width)."""
        scale = np.array([size[1], size[0]], np.float64)
        low, high = self.boxes[:, :2] / scale, self.boxes[:, 2:] / scale
        return np.concatenate([self.classes[:, None], (low + high) / 2, high - low], axis=1).astype(
            np.float32
        )

    def select(self, keep: np.ndarray) -> Objects:
        """Those where `keep` (n,) bool is true."""
        return Objects(
            self.classes[keep],
            self.boxes[keep],
            self.points[np.repeat(keep, self.lengths)],
            self.lengths[keep],
        )

    def shifted(self, dx: float, dy: float) -> Objects:
        move = np.array([dx, dy])
        return Objects(self.classes, self.boxes + np.tile(move, 2), self.points + move, self.lengths)

    def clipped(self, size: tuple[int, int]) -> Objects:
        """Cut off at the borders of a picture of `size` (height, width); what lies outside gets no extent."""
        limit = np.array([size[1], size[0]], np.float64)
        boxes = self.boxes.clip(0, np.tile(limit, 2))
        return Objects(self.classes, boxes, self.points.clip(0, limit), self.lengths)

    def warped(self, matrix: np.ndarray, size: tuple[int, int]) -> Objects:
        """Carried through a 3x3 transform into a picture of `size` (height, width), clipped to it.

        The box of a thing with a polygon is that of the visible part of the polygon, of another thing that of
        the visible part of the quadrilateral that its box becomes.
        """
        points = project(self.points, matrix)
        if keeps_boxes(matrix):
            moved = project(self.boxes.reshape(-1, 2), matrix).reshape(-1, 2, 2)
            boxes = np.concatenate([moved.min(1), moved.max(1)], axis=1).reshape(-1, 4)
            boxes = boxes.clip(0, [size[1], size[0], size[1], size[0]])
        else:
            boxes, _ = visible_quads(self.boxes, matrix, size)
        drawn = self.lengths > 0
        if drawn.any():
            depth = self.points @ matrix[2, :2] + matrix[2, 2]
            bounds = visible_bounds(points, self.lengths[drawn], size)
            starts = np.cumsum(self.lengths[drawn]) - self.lengths[drawn]
            before_us = np.minimum.reduceat(depth, starts) > 0  # else it has no outline in the picture
            boxes[drawn] = np.where(before_us[:, None], bounds, boxes[drawn])
        return Objects(self.classes, boxes, points, self.lengths)


def project(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(K, 2) points through a 3x3 transform, perspective division included."""
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    if matrix[2, 0] or matrix[2, 1]:
        moved /= (points @ matrix[2, :2] + matrix[2, 2])[:, None]
    return moved


def keeps_boxes(matrix: np.ndarray) -> bool:
    """Whether a 3x3 transform makes boxes of boxes: it neither turns nor shears nor tilts them."""
    return not (matrix[0, 1] or matrix[1, 0] or matrix[2, 0] or matrix[2, 1])


def visible_quads(
    boxes: np.ndarray, matrix: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What is seen of boxes (n, 4) xyxy that a 3x3 transform carries into a picture of `size` (h, w).

    They are cut in homogeneous coordinates: a perspective may carry a part behind the viewer, from where
    `paint` shows it upside down.

    Returns:
        (n, 4) xyxy bounds of the part in the picture, zeros where there is none, and its area (n,).
    """
    corners = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    quads = np.concatenate([corners, np.ones((len(boxes), 4, 1))], axis=2) @ matrix.T
    low, high = np.full((len(boxes), 2), np.inf), np.full((len(boxes), 2), -np.inf)
    area = np.zeros(len(boxes))
    for side in (quads, -quads) if matrix[2, 0] or matrix[2, 1] else (quads,):
        reached = ((side @ _borders(size).T) >= 0).any(1).all(1)  # no border has all of it beyond
        for number in np.flatnonzero(reached):
            points = _cut(side[number], size)
            if len(points) > 2:
                low[number] = np.minimum(low[number], points.min(0))
                high[number] = np.maximum(high[number], points.max(0))
                x, y = (points - points[0]).T
                area[number] += abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2
    bounds = np.concatenate([low, high], axis=1)
    bounds[~np.isfinite(low).all(1)] = 0
    return bounds.clip(0, [size[1], size[0], size[1], size[0]]), area


def _borders(size: tuple[int, int]) -> np.ndarray:
    """(4, 3) lines: a homogeneous point (x, y, w), w positive, lies in the picture when no product with them
    is negative."""
    return np.array([[1, 0, 0], [-1, 0, size[1]], [0, 1, 0], [0, -1, size[0]]], np.float64)


def _cut(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A convex polygon (k, 3) of homogeneous points, cut at the borders of a picture after Sutherland and
    Hodgman, as (k', 2) points of it; k' is 0 when nothing lies in it."""
    for border in _borders(size):
        distance = polygon @ border
        if (distance >= 0).all():
            continue
        following, beyond = np.roll(polygon, -1, axis=0), np.roll(distance, -1)
        share = distance / np.where(distance == beyond, 1.0, distance - beyond)
        crossing = polygon + share[:, None] * (following - polygon)
        kept = np.stack([distance >= 0, (distance >= 0) != (beyond >= 0)], axis=1)  # a corner, a crossing
        polygon = np.stack([polygon, crossing], axis=1)[kept]
    polygon = polygon[polygon[:, 2] > 0]
    return polygon[:, :2] / polygon[:, 2:]


def still_useful(
    before: np.ndarray, after: np.ndarray, scale: float, smallest_part: float | np.ndarray
) -> np.ndarray:
    """(n,) bool: which boxes (n, 4) xyxy are worth learning from after a warp.

    Args:
        before, after: the same boxes in the pixels of the source and of the output.
        scale: by how much the warp enlarges lengths.
        smallest_part: the least part of the area that must be left, one for all or (n,).
    """
    width, height = (after[:, 2:] - after[:, :2]).T
    area = (before[:, 2:] - before[:, :2]).prod(1) * scale**2
    wide_enough = (width > SMALLEST) & (height > SMALLEST)
    aspect = np.maximum(width / np.maximum(height, 1e-9), height / np.maximum(width, 1e-9))
    return wide_enough & (aspect < LARGEST_ASPECT) & (width * height > smallest_part * np.maximum(area, 1e-9))


def really_seen(
    objects: Objects, matrix: np.ndarray, size: tuple[int, int], scale: float, smallest_part: float
) -> np.ndarray:
    """(n,) bool: which things are in the picture after a transform that turns boxes, whose bounds say little:
    a line that is turned has some width, and a corner of a box reaches further than the box.

    Args:
        objects: before the transform; of one with a polygon the bounds are exact.
        matrix, size: as in `Objects.warped`; the others as in `still_useful`.
    """
    sides = (objects.boxes[:, 2:] - objects.boxes[:, :2]) * scale
    _, area = visible_quads(objects.boxes, matrix, size)
    return (sides > SMALLEST).all(1) & ((objects.lengths > 0) | (area > smallest_part * sides.prod(1)))


def visible_bounds(points: np.ndarray, lengths: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The box of the part of each polygon that lies in the picture; zeros where nothing does.

    The bounds of the cut polygon come from its edges, cut at the borders after Liang and Barsky, and from
    the picture's own corners where they lie inside the polygon.

    Args:
        points: (K, 2) corners of n polygons, one polygon after the other.
        lengths: (n,) corners of each, all positive.
        size: height and width of the picture.

    Returns:
        (n, 4) xyxy.
    """
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    following = np.arange(1, len(points) + 1)
    following[starts + lengths - 1] = starts
    limit = np.array([size[1], size[0]], np.float64)
    a, b = points, points[following]
    direction = b - a
    direction = np.where(np.abs(direction) < 1e-9, 1e-9, direction)
    first, second = -a / direction, (limit - a) / direction
    enter = np.minimum(first, second).max(1).clip(0)
    leave = np.maximum(first, second).min(1).clip(None, 1)
    ends = np.stack([a + enter[:, None] * direction, a + leave[:, None] * direction])
    seen = (enter <= leave)[:, None]
    low = np.minimum.reduceat(np.where(seen, ends.min(0), np.inf), starts)
    high = np.maximum.reduceat(np.where(seen, ends.max(0), -np.inf), starts)
    for corner in (np.zeros(2), limit * [1, 0], limit * [0, 1], limit):
        inside = np.add.reduceat(_crossed(a, direction, corner), starts) % 2 == 1
        low[inside], high[inside] = np.minimum(low[inside], corner), np.maximum(high[inside], corner)
    bounds = np.concatenate([low, high], axis=1).clip(0, np.tile(limit, 2))
    bounds[~np.isfinite(low).all(1)] = 0
    return bounds


def _crossed(a: np.ndarray, direction: np.ndarray, corner: np.ndarray) -> np.ndarray:
    """(K,) int: whether a ray from `corner` to the right crosses the edge from `a` along `direction`."""
    spans = (a[:, 1] > corner[1]) != (a[:, 1] + direction[:, 1] > corner[1])
    x = a[:, 0] + direction[:, 0] * (corner[1] - a[:, 1]) / direction[:, 1]
    return (spans & (x > corner[0])).astype(np.int64)
