"""A training picture on its way: parts of images with their places, and what is on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from utils.data.augment.objects import Objects
from utils.data.letterbox import BACKGROUND


class Tile(NamedTuple):
    """A part of an image with the place of its corner on the canvas, which it may reach over."""

    image: np.ndarray  # (h, w, C) uint8, blue first, possibly a view
    x: int
    y: int


@dataclass(frozen=True)
class Picture:
    """Tiles on a grey canvas of `size` (height, width), and the things on it in its pixels.

    The canvas is not painted until somebody needs it: a mosaic is warped from its tiles straight into the
    network's input, which costs a quarter of painting it first and looks the same.
    """

    size: tuple[int, int]
    tiles: tuple[Tile, ...]
    objects: Objects

    @classmethod
    def of(cls, image: np.ndarray, objects: Objects) -> Picture:
        """A whole image (h, w, C) uint8, blue first."""
        return cls((image.shape[0], image.shape[1]), (Tile(image, 0, 0),), objects)

    @property
    def image(self) -> np.ndarray:
        """(height, width, C) uint8, blue first; do not write to it, it may be shared."""
        if len(self.tiles) == 1 and self.tiles[0].image.shape[:2] == self.size:
            return self.tiles[0].image
        canvas = self.blank(self.size)
        for image, x, y in self.tiles:
            canvas[y : y + image.shape[0], x : x + image.shape[1]] = image
        return canvas

    def blank(self, size: tuple[int, int]) -> np.ndarray:
        """A canvas of `size` (height, width) and of as many channels."""
        return blank(size, self.tiles[0].image.shape[2])


class Draw(NamedTuple):
    """What one training picture depends on.

    Attributes:
        rng: draws that depend on (seed, epoch, position, image) and on nothing else.
        images: (n,) int64 image numbers: the sample's own, then others that it may show.
        size: (height, width) of the result.
    """

    rng: np.random.Generator
    images: np.ndarray
    size: tuple[int, int]


Maker: TypeAlias = Callable[[Draw], Picture]  # makes a picture, from one image or several
Transform: TypeAlias = Callable[[Draw, Picture], Picture]  # changes one


def blank(size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """(height, width, channels) uint8 of the background's grey."""
    return np.full((*size, channels), BACKGROUND, np.uint8)
