"""Fitting an image of any shape into the network's input: one scale for both axes, grey around it.

`fit` says where the image goes, for all. `letterbox` puts one there for detection and validation; for
training `augment/fit.py` does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np

from utils.console import LOGGER
from utils.data.channels import keep_axis

BACKGROUND = 114  # level, in every channel, of everything that is not image


def round_up(side: float, stride: int, least: int = 1) -> int:
    """A side in pixels as a multiple of `stride`, at least `least` strides."""
    return max(math.ceil(side / stride), least) * stride


def rounded_size(imgsz: int, stride: int, least: int = 2, *, flag: str = "--imgsz") -> int:
    """What a flag says by `round_up`, with a notice when it changes."""
    size = round_up(imgsz, stride, least)
    if size != imgsz:
        LOGGER.warning(f"{flag} {imgsz} is not a multiple of the stride {stride}: using {size}")
    return size


class Fit(NamedTuple):
    """Where a letterboxed image lies; all sizes in pixels of the output."""

    scale: float  # output pixels per source pixel
    inner: tuple[int, int]  # height, width of the resized image
    pad: tuple[float, float]  # half of the padding: (left and right, top and bottom), may end in .5

    @property
    def borders(self) -> tuple[int, int, int, int]:
        """Top, bottom, left, right padding; an odd pixel goes to the bottom or to the right."""
        (left, right), (top, bottom) = (_split(half) for half in self.pad)
        return top, bottom, left, right


def _split(half: float) -> tuple[int, int]:
    return round(half - 0.1), round(half + 0.1)


def fit(
    shape: tuple[int, int],
    target: tuple[int, int],
    *,
    stride: int = 32,
    auto: bool = True,
    scaleup: bool = True,
) -> Fit:
    """How an image of `shape` goes into `target`, both (height, width).

    `auto` pads only to the next multiple of `stride` not to the whole of `target`; without `scaleup` a small
    image keeps its size.
    """
    height, width = shape
    scale = min(target[0] / height, target[1] / width)
    if not scaleup:
        scale = min(scale, 1.0)
    inner = (max(round(height * scale), 1), max(round(width * scale), 1))
    spare_h, spare_w = target[0] - inner[0], target[1] - inner[1]
    if auto:
        spare_h, spare_w = spare_h % stride, spare_w % stride
    return Fit(scale, inner, (spare_w / 2, spare_h / 2))


def letterbox(
    image: np.ndarray,
    target: tuple[int, int],
    *,
    stride: int = 32,
    auto: bool = True,
    scaleup: bool = True,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Resize (bilinear) and pad an image; see `fit` for the arguments.

    Args:
        image: (H, W, C) uint8.
        target: (height, width) in pixels.

    Returns:
        The (H', W', C) uint8 image, contiguous; the ratio (width, height) of output to source pixels; and the
        padding (left, top) before rounding, as boxes need it: `x' = x * ratio[0] + pad[0]`.
    """
    plan = fit((image.shape[0], image.shape[1]), target, stride=stride, auto=auto, scaleup=scaleup)
    inner_h, inner_w = plan.inner
    if (inner_h, inner_w) != image.shape[:2]:
        image = keep_axis(cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR))
    ratio = (plan.scale, plan.scale)
    top, bottom, left, right = plan.borders
    if not any(plan.borders):
        return np.ascontiguousarray(image), ratio, plan.pad
    canvas = np.full((top + inner_h + bottom, left + inner_w + right, image.shape[2]), BACKGROUND, np.uint8)
    canvas[top : top + inner_h, left : left + inner_w] = image
    return canvas, ratio, plan.pad
