"""Training pictures: four images around a point, or one alone, warped straight into the network's input.

A mosaic is defined on a canvas of twice the input's side. Here the canvas is never painted: each tile knows
its place on it and is warped from there into the output, which costs a quarter and looks the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from utils.data.augmentations import blank, draw_transform, paint
from utils.data.letterbox import fit
from utils.data.objects import VISIBLE_BOX, VISIBLE_POLYGON, Objects, still_useful
from utils.hyperparameters import Hyperparameters


class Picture(NamedTuple):
    """An image (h, w, 3) uint8 BGR and what is on it, in its pixels."""

    image: np.ndarray
    objects: Objects


class Placed(NamedTuple):
    """A part of an image with its place on the canvas."""

    image: np.ndarray  # (h, w, 3) uint8 BGR, possibly a view
    x: int
    y: int


def mosaic(rng: np.random.Generator, pictures: Sequence[Picture], size: int, hyp: Hyperparameters) -> Picture:
    """Four pictures of at most `size` a side -> one of `size` x `size`.

    The first lies left above the centre, then right above, left below and right below; each touches the
    centre with a corner and is cut off at the border of the canvas.
    """
    side = 2 * size
    centre_x, centre_y = (int(rng.uniform(size / 2, 3 * size / 2)) for _ in range(2))
    tiles, objects = [], []
    for number, (image, things) in enumerate(pictures):
        height, width = image.shape[:2]
        x = centre_x - width if number % 2 == 0 else centre_x
        y = centre_y - height if number < 2 else centre_y
        tiles.append(_cut(image, x, y, side))
        objects.append(things.shifted(x, y))
    matrix, scale = draw_transform(rng, hyp, (side, side), (size, size))
    everything = Objects.concatenate(objects).clipped((side, side))
    return _warp(tiles, everything, matrix, scale, (size, size))


def single(
    rng: np.random.Generator, picture: Picture, size: tuple[int, int], hyp: Hyperparameters
) -> Picture:
    """One picture, letterboxed to `size` (height, width) and warped."""
    height, width = picture.image.shape[:2]
    plan = fit((height, width), size, auto=False)
    top, _, left, _ = plan.borders
    image, objects = picture
    if plan.inner != (height, width):
        image = cv2.resize(image, plan.inner[::-1], interpolation=cv2.INTER_LINEAR)
        objects = objects.warped(np.diag([plan.inner[1] / width, plan.inner[0] / height, 1.0]), plan.inner)
    matrix, scale = draw_transform(rng, hyp, size, size)
    return _warp([Placed(image, left, top)], objects.shifted(left, top), matrix, scale, size)


def mixup(rng: np.random.Generator, one: Picture, other: Picture) -> Picture:
    """Blend two pictures of equal size with a weight from Beta(32, 32) and keep the things of both."""
    weight = float(rng.beta(32, 32))
    image = cv2.addWeighted(one.image, weight, other.image, 1 - weight, 0)
    return Picture(image, Objects.concatenate([one.objects, other.objects]))


def _cut(image: np.ndarray, x: int, y: int, side: int) -> Placed:
    """The part of an image put at (x, y) that lies on a canvas of `side` x `side`."""
    height, width = image.shape[:2]
    return Placed(
        image[max(-y, 0) : min(height, side - y), max(-x, 0) : min(width, side - x)], max(x, 0), max(y, 0)
    )


def _warp(
    tiles: Sequence[Placed], objects: Objects, matrix: np.ndarray, scale: float, size: tuple[int, int]
) -> Picture:
    canvas = blank(size)
    for tile in tiles:
        paint(tile.image, matrix @ np.array([[1, 0, tile.x], [0, 1, tile.y], [0, 0, 1]]), canvas)
    moved = objects.warped(matrix, size)
    # Polygons say exactly what is left of a thing; a carried box is larger than that, hence the two limits.
    part = np.where(objects.lengths > 0, VISIBLE_POLYGON, VISIBLE_BOX)
    return Picture(canvas, moved.select(still_useful(objects.boxes, moved.boxes, scale, part)))
