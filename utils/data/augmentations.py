"""Random changes of a picture: one transform for everything that moves pixels, look-up tables for colour.

Every draw comes from a generator that the caller derives from (seed, epoch, position), never from global
state.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from utils.data.letterbox import BACKGROUND
from utils.data.objects import Objects
from utils.hyperparameters import Hyperparameters

CROWDED = 0.30  # copy-paste: part of a present box that a pasted one may cover


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
    """Draw `image` (h, w, 3) through a 3x3 transform onto `canvas` (H, W, 3), which shows elsewhere.

    Only the part of the canvas that the image reaches is touched, so that four tiles of a mosaic cost about
    as much as one whole picture.
    """
    height, width = image.shape[:2]
    limit_h, limit_w = canvas.shape[:2]
    left, top, right, bottom = 0, 0, limit_w, limit_h
    flat = not (matrix[2, 0] or matrix[2, 1])
    if flat:
        corners = (
            np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ matrix[:2, :2].T + matrix[:2, 2]
        )
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


def blank(size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 of the background's grey."""
    return np.full((*size, 3), BACKGROUND, np.uint8)


def jitter_colour(rng: np.random.Generator, image: np.ndarray, hyp: Hyperparameters) -> np.ndarray:
    """(H, W, 3) uint8 BGR -> RGB, with hue, saturation and value multiplied by `1 + U(-1, 1) * gain`."""
    gains = 1 + rng.uniform(-1, 1, 3) * (hyp.hsv_h, hyp.hsv_s, hyp.hsv_v)
    if not (hyp.hsv_h or hyp.hsv_s or hyp.hsv_v):
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    curves = np.arange(256)[:, None] * gains
    curves[:, 0] %= 180  # hue is an angle in steps of two degrees
    table = curves.clip(0, 255).astype(np.uint8)[None]
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB)


def copy_paste(
    rng: np.random.Generator, image: np.ndarray, objects: Objects, probability: float
) -> tuple[np.ndarray, Objects]:
    """Paste mirrored copies of things with polygons (Ghiasi et al. 2021) where they hide little else.

    Returns:
        A new image and all things, or the same ones when nothing was pasted.
    """
    height, width = image.shape[:2]
    chosen = (objects.lengths > 0) & (rng.random(len(objects)) < probability)
    if not chosen.any():
        return image, objects
    mirror = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]], np.float64)
    present = objects.boxes
    mask = np.zeros((height, width), np.uint8)
    pasted = []
    for i in np.flatnonzero(chosen):
        copy = objects.select(np.arange(len(objects)) == i).warped(mirror, (height, width))
        if (covered_part(copy.boxes[0], present) < CROWDED).all():
            present = np.concatenate([present, copy.boxes])
            pasted.append(copy)
            corners = np.round((copy.points - 0.5) * 16).astype(np.int32)  # in sixteenths of a pixel
            cv2.fillPoly(mask, [corners], 1, shift=4)
    if not pasted:
        return image, objects
    mixed = np.where(mask[..., None] > 0, image[:, ::-1], image)
    return mixed, Objects.concatenate([objects, *pasted])


def covered_part(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) float: how much of the area of each of `others` (n, 4) xyxy is covered by `box` (4,)."""
    overlap = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0).prod(1)
    return overlap / np.maximum((others[:, 2:] - others[:, :2]).prod(1), 1e-9)
