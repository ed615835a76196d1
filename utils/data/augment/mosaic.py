"""Mosaic: four images around a point, so that things are seen small, cut off and in strange company."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.data.augment.objects import Objects
from utils.data.augment.picture import Draw, Maker, Picture, Tile

IMAGES = 4


@dataclass(frozen=True)
class Mosaic:
    """Four images of at most the output's side, in random order, on a canvas of twice that side.

    The first lies left above the centre, then right above, left below and right below; each touches the
    centre with a corner and is cut off at the border of the canvas.
    """

    tile: Maker  # makes each of the four

    def __call__(self, draw: Draw) -> Picture:
        rng, size = draw.rng, draw.size[0]
        numbers = rng.permutation(draw.images[:IMAGES])
        pictures = [self.tile(draw._replace(images=numbers[i : i + 1])) for i in range(IMAGES)]
        side = 2 * size
        centre_x, centre_y = (int(rng.uniform(size / 2, 3 * size / 2)) for _ in range(2))
        tiles, objects = [], []
        for place, picture in enumerate(pictures):
            height, width = picture.size
            x = centre_x - width if place % 2 == 0 else centre_x
            y = centre_y - height if place < 2 else centre_y
            tiles.append(_cut(picture.image, x, y, side))
            objects.append(picture.objects.shifted(x, y))
        return Picture((side, side), tuple(tiles), Objects.concatenate(objects).clipped((side, side)))


def _cut(image: np.ndarray, x: int, y: int, side: int) -> Tile:
    """The part of an image put at (x, y) that lies on a canvas of `side` x `side`."""
    height, width = image.shape[:2]
    part = image[max(-y, 0) : min(height, side - y), max(-x, 0) : min(width, side - x)]
    return Tile(part, max(x, 0), max(y, 0))
