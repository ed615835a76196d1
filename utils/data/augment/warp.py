"""One transform for everything that moves pixels: rotation, scale, shear, shift, perspective and flips."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from utils.data.augment.objects import (
    VISIBLE_BOX,
    VISIBLE_POLYGON,
    keeps_boxes,
    project,
    really_seen,
    still_useful,
)
from utils.data.augment.picture import Draw, Picture
from utils.hyperparameters import Hyperparameters


@dataclass(frozen=True)
class Warp:
    """From the canvas into a picture of `draw.size`; what is hardly seen any more is no label.

    Strengths are `degrees`, `translate`, `scale`, `shear` and `perspective`, probabilities `flipud` and
    `fliplr`.
    """

    hyp: Hyperparameters

    def __call__(self, draw: Draw, picture: Picture) -> Picture:
        matrix, scale = draw_transform(draw.rng, self.hyp, picture.size, draw.size)
        canvas = picture.blank(draw.size)
        for image, x, y in picture.tiles:
            paint(image, matrix @ np.array([[1, 0, x], [0, 1, y], [0, 0, 1]]), canvas)
        before = picture.objects
        moved = before.warped(matrix, draw.size)
        # Polygons say exactly what is left of a thing; a carried box is larger, hence two limits.
        part = np.where(before.lengths > 0, VISIBLE_POLYGON, VISIBLE_BOX)
        useful = still_useful(before.boxes, moved.boxes, scale, part)
        if not keeps_boxes(matrix):
            useful[useful] = really_seen(before.select(useful), matrix, draw.size, scale, VISIBLE_BOX)
        return Picture.of(canvas, moved.select(useful))


def draw_transform(
    rng: np.random.Generator, hyp: Hyperparameters, source: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, float]:
    """Draw the transform of one training picture, flips included.

    The centre of the source is put at the origin, seen in perspective, turned and scaled, sheared, put near
    the centre of the output and perhaps mirrored.

    Args:
        source, size: height and width of what is transformed and of the output, in pixels.

    Returns:
        The 3x3 matrix from source to output pixels (edge coordinates) and the scale that was drawn.
    """

    def spread(limit: float) -> float:
        return rng.uniform(-limit, limit)

    angle, scale = math.radians(spread(hyp.degrees)), 1 + spread(hyp.scale)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    shear_x, shear_y = (math.tan(math.radians(spread(hyp.shear))) for _ in range(2))
    to_x, to_y = ((0.5 + spread(hyp.translate)) * side for side in (size[1], size[0]))
    tilt_x, tilt_y = spread(hyp.perspective), spread(hyp.perspective)
    turn_over, mirror = rng.random() < hyp.flipud, rng.random() < hyp.fliplr

    matrix = np.array([[1, 0, -source[1] / 2], [0, 1, -source[0] / 2], [0, 0, 1]], np.float64)
    matrix = np.array([[1, 0, 0], [0, 1, 0], [tilt_x, tilt_y, 1]]) @ matrix
    matrix = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ matrix
    matrix = np.array([[1, shear_x, to_x], [shear_y, 1, to_y], [0, 0, 1]]) @ matrix
    if mirror:
        matrix = np.array([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1]]) @ matrix
    if turn_over:
        matrix = np.array([[1, 0, 0], [0, -1, size[0]], [0, 0, 1]]) @ matrix
    return matrix, scale


def paint(image: np.ndarray, matrix: np.ndarray, canvas: np.ndarray) -> None:
    """Draw `image` (h, w, C) through a 3x3 transform onto `canvas` (H, W, C), which shows elsewhere.

    Only the part of the canvas that the image reaches is touched, so that four tiles of a mosaic cost about
    as much as one whole picture.
    """
    height, width = image.shape[:2]
    limit_h, limit_w = canvas.shape[:2]
    left, top, right, bottom = 0, 0, limit_w, limit_h
    flat = not (matrix[2, 0] or matrix[2, 1])
    if flat:
        corners = project(np.array([[0, 0], [width, 0], [width, height], [0, height]]), matrix)
        left, top = np.floor(corners.min(0)).astype(int).clip(0, (limit_w, limit_h))
        right, bottom = np.ceil(corners.max(0)).astype(int).clip(0, (limit_w, limit_h))
        if left >= right or top >= bottom:
            return
    # OpenCV's coordinates are those of pixel centres, half a pixel off the edge coordinates of boxes.
    to_pixels = np.array([[1, 0, -left - 0.5], [0, 1, -top - 0.5], [0, 0, 1]])
    local = to_pixels @ matrix @ np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    part = canvas[top:bottom, left:right]
    size = (int(right - left), int(bottom - top))
    if flat:
        cv2.warpAffine(image, local[:2], size, dst=part, borderMode=cv2.BORDER_TRANSPARENT)
    else:
        cv2.warpPerspective(image, local, size, dst=part, borderMode=cv2.BORDER_TRANSPARENT)
