"""Placing, cutting and blending pictures, each on a case small enough for paper."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.utils.data.augment.pictures import draw_of, objects_of
from utils.data.augment.copy_paste import covered_part
from utils.data.augment.fit import fit_whole
from utils.data.augment.mixup import MixUp
from utils.data.augment.mosaic import _cut
from utils.data.augment.picture import Picture
from utils.seeding import generator_for


def test_a_picture_is_scaled_to_fit_and_put_in_the_middle() -> None:
    # 20 high and 40 wide in 64 x 64: 32 x 64, with 16 rows above; everything is 1.6 times as large
    image = np.full((20, 40, 3), 9, np.uint8)
    fitted = fit_whole(draw_of(generator_for(0)), Picture.of(image, objects_of((0, 10, 5, 30, 15))))
    assert fitted.size == (64, 64)
    assert fitted.image[:, 7, 0].tolist() == [114] * 16 + [9] * 32 + [114] * 16
    np.testing.assert_allclose(fitted.objects.boxes, [[16, 24, 48, 40]])


def test_a_picture_that_fits_is_not_resampled() -> None:
    image = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3)
    picture = Picture.of(image, objects_of((0, 10, 5, 30, 15)))
    fitted = fit_whole(draw_of(generator_for(0)), picture)
    assert fitted.image is image and fitted.objects.boxes.tolist() == [[10, 5, 30, 15]]


def test_two_pictures_are_blended_by_their_weights() -> None:
    asked: list[tuple[float, float]] = []

    def beta(a: float, b: float) -> float:
        asked.append((a, b))
        return 0.25

    rng: Any = SimpleNamespace(random=lambda: 0.5, beta=beta)
    levels = iter((100, 200, 100))
    make = MixUp(0.6, lambda draw: Picture.of(np.full((2, 2, 3), next(levels), np.uint8), objects_of()))
    assert make(draw_of(rng)).image[0, 0, 0] == 175  # 0.25 * 100 + 0.75 * 200
    assert asked == [(32, 32)]
    assert MixUp(0.4, make.of)(draw_of(rng)).image[0, 0, 0] == 100


@pytest.mark.parametrize(
    ("x", "y", "place", "columns", "rows"),
    [
        (0, 0, (0, 0), (0, 6), (0, 4)),
        (-2, -1, (0, 0), (2, 6), (1, 4)),  # reaches over the left and the upper border
        (7, 8, (7, 8), (0, 3), (0, 2)),  # over the others, of a canvas of 10
        (-20, 3, (0, 3), (20, 6), (0, 4)),  # nothing of it
    ],
)
def test_tiles_are_cut_at_the_border(
    x: int, y: int, place: tuple[int, int], columns: tuple[int, int], rows: tuple[int, int]
) -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    tile = _cut(image, x, y, 10)
    assert (tile.x, tile.y) == place
    assert np.array_equal(tile.image, image[slice(*rows), slice(*columns)])


def test_things_are_clipped_to_the_picture() -> None:
    # 20 high and 30 wide
    things = objects_of((0, -9, -8, 5, 6), (1, 25, 15, 40, 50), (2, -5, -5, -1, -1), polygon=True)
    clipped = things.clipped((20, 30))
    assert clipped.boxes.tolist() == [[0, 0, 5, 6], [25, 15, 30, 20], [0, 0, 0, 0]]
    assert clipped.points[:4].tolist() == [[0, 0], [5, 0], [5, 6], [0, 6]]
    assert things.boxes[0].tolist() == [-9, -8, 5, 6]


def test_the_covered_part_is_that_of_the_other_box() -> None:
    others = np.array([[0, 0, 10, 10], [5, 0, 25, 10], [20, 20, 30, 30], [3, 3, 3, 3]], float)
    # all of the first; 5 of 20 columns; nothing; nothing of a point
    assert covered_part(np.array([0.0, 0, 10, 10]), others).tolist() == [1, 0.25, 0, 0]
