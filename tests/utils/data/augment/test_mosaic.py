"""Mosaics and single images, warped: what is seen has its label where it is seen."""

from __future__ import annotations

import numpy as np
import pytest

from tests.utils.data.augment.pictures import (
    LIVELY,
    STILL,
    check_labels,
    objects_of,
    painted,
    warped_alone,
    warped_mosaic,
)
from utils.data.augment.picture import Picture, blank
from utils.data.augment.warp import draw_transform, paint
from utils.data.letterbox import BACKGROUND
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for


@pytest.mark.parametrize(
    ("hyp", "polygon", "exact"),
    [
        (Hyperparameters(), False, True),  # scale, translation and flips keep boxes tight
        (Hyperparameters(flipud=0.5), True, True),
        (LIVELY, False, True),  # and a turned box that of what is seen of it
        (LIVELY, True, True),  # a warped polygon gives the exact extent
    ],
)
def test_mosaic_labels_enclose_what_they_name(hyp: Hyperparameters, polygon: bool, exact: bool) -> None:
    boxes = 0
    for number in range(25):
        rng = generator_for(5, number)
        classes = ([0, 1], [2], [3], [4, 5])
        tiles = [painted(rng, chosen, 128, polygon) for chosen in classes]
        picture = warped_mosaic(rng, tiles, 128, hyp)
        assert picture.image.shape == (128, 128, 3)
        assert (picture.objects.boxes >= 0).all()
        assert (picture.objects.boxes <= 128).all()
        boxes += check_labels(picture, exact)
    assert boxes > 50


@pytest.mark.parametrize("polygon", [False, True])
def test_single_labels_enclose_what_they_name(polygon: bool) -> None:
    boxes = 0
    for number in range(20):
        rng = generator_for(6, number)
        size = 64 if number % 2 else 128  # half of them are enlarged by the letterbox
        picture = warped_alone(rng, painted(rng, [0, 1, 2], size, polygon), 128, LIVELY)
        boxes += check_labels(picture, exact=polygon)
    assert boxes > 25


def test_most_things_keep_their_label() -> None:
    """What is seen in full without rotation is never dropped."""
    for number in range(10):
        rng = generator_for(7, number)
        picture = warped_alone(rng, painted(rng, [0, 1, 2, 3], 128), 128, STILL)
        assert sorted(picture.objects.classes) == [0, 1, 2, 3]


def test_mosaic_equals_a_canvas_that_is_warped_whole() -> None:
    """The tiles painted on a canvas of 2S and that warped at once: the same but for the seams."""
    size, hyp = 96, Hyperparameters(degrees=10, scale=0.3, fliplr=0)
    rng = generator_for(8)
    y, x = np.mgrid[0:size, 0 : size - 10]
    images = [np.stack([x + 20 * k, 2 * y, x + y], -1).astype(np.uint8) for k in range(4)]
    tiles = [Picture.of(image, objects_of()) for image in images]
    result = warped_mosaic(generator_for(8, 1), tiles, size, hyp).image

    rng = generator_for(8, 1)
    order = rng.permutation(np.arange(4))
    cx, cy = (int(rng.uniform(size / 2, 3 * size / 2)) for _ in range(2))
    canvas = np.full((2 * size, 2 * size, 3), BACKGROUND, np.uint8)
    for number, image in enumerate(images[k] for k in order):
        height, width = image.shape[:2]
        left, top = cx - width * (number % 2 == 0), cy - height * (number < 2)
        for row in range(max(top, 0), min(top + height, 2 * size)):
            columns = slice(max(left, 0), min(left + width, 2 * size))
            canvas[row, columns] = image[row - top, columns.start - left : columns.stop - left]
    matrix, _ = draw_transform(rng, hyp, (2 * size, 2 * size), (size, size))
    expected = blank((size, size))
    paint(canvas, matrix, expected)
    difference = np.abs(result.astype(int) - expected).max(-1)
    assert (difference > 4).mean() < 0.03
    assert np.median(difference) <= 1


def test_mosaic_without_warp_shows_its_tiles_around_the_centre() -> None:
    tiles = [Picture.of(np.full((64, 64, 3), 50 * k, np.uint8), objects_of()) for k in range(1, 5)]
    image = warped_mosaic(generator_for(9), tiles, 64, STILL).image[..., 0]
    seen = set(np.unique(image).tolist())
    assert {50, 100, 150, 200} & seen
    assert seen <= {50, 100, 150, 200, BACKGROUND}
