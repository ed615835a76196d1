"""The transform that moves pixels, and how it is painted."""

from __future__ import annotations

import numpy as np
import pytest

from tests.utils.data.augment.pictures import (
    STILL,
)
from utils.data.augment.objects import project
from utils.data.augment.picture import blank
from utils.data.augment.warp import draw_transform, paint
from utils.data.letterbox import BACKGROUND
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for


def test_transform_without_strength_is_the_centre_crop() -> None:
    matrix, scale = draw_transform(generator_for(1), STILL, (200, 200), (100, 100))
    assert scale == 1
    np.testing.assert_allclose(matrix, [[1, 0, -50], [0, 1, -50], [0, 0, 1]])


def test_flips() -> None:
    matrix, _ = draw_transform(
        generator_for(1), Hyperparameters(translate=0, scale=0, fliplr=1, flipud=1), (10, 20), (10, 20)
    )
    np.testing.assert_allclose(project(np.array([[0.0, 0.0], [20.0, 10.0]]), matrix), [[20, 10], [0, 0]])


def test_draws_stay_in_their_ranges() -> None:
    hyp = Hyperparameters(scale=0.4, translate=0.1, degrees=5, fliplr=0.5)
    scales, centres, mirrored = [], [], 0
    for number in range(300):
        matrix, scale = draw_transform(generator_for(2, number), hyp, (100, 100), (100, 100))
        scales.append(scale)
        centres.append(project(np.array([[50.0, 50.0]]), matrix)[0])
        mirrored += int(np.linalg.det(matrix[:2, :2]) < 0)
    assert 0.6 <= min(scales) < 0.65
    assert 1.35 < max(scales) <= 1.4
    assert (np.abs(np.array(centres) - 50) <= 10 + 1e-9).all()
    assert np.abs(np.array(centres) - 50).max() > 9
    assert 110 < mirrored < 190


def test_paint_agrees_with_edge_coordinates() -> None:
    """Enlarged twice, pixels 4 to 7 cover 8 to 15; a transform of pixel centres would be half a pixel off."""
    image = np.zeros((16, 16, 3), np.uint8)
    image[4:8, 4:8] = 255
    canvas = blank((32, 32))
    paint(image, np.diag([2.0, 2.0, 1.0]), canvas)
    lit = canvas[2:30, 2:30, 0].astype(float)  # the border is blended with the background
    assert lit[6:14, 6:14].min() > 127 > lit[:5].max()
    centre = (lit.sum(0) * (np.arange(2, 30) + 0.5)).sum() / lit.sum()
    assert centre == pytest.approx(12, abs=0.05)


def test_paint_outside_touches_nothing() -> None:
    canvas = blank((8, 8))
    paint(np.zeros((4, 4, 3), np.uint8), np.array([[1, 0, 50], [0, 1, 0], [0, 0, 1.0]]), canvas)
    assert (canvas == BACKGROUND).all()


def test_tiles_are_painted_up_to_the_border_and_not_beside_it() -> None:
    tile, flat = np.full((8, 8, 3), 200, np.uint8), np.eye(3)
    tilted = flat.copy()
    tilted[2, 0] = 1e-7
    for matrix in (flat, tilted):
        canvas = blank((8, 8))
        paint(tile, matrix, canvas)
        assert (canvas == 200).all()
    for x, y in ((8, 0), (-8, 0), (0, 8), (0, -8), (20, 3), (3, -20)):
        canvas = blank((8, 8))
        paint(tile, np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]]), canvas)
        assert (canvas == BACKGROUND).all()
