"""Labelled things under geometry."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.utils.data.augment.pictures import draw_of, objects_of
from utils.data.augment.objects import (
    Objects,
    keeps_boxes,
    really_seen,
    still_useful,
    visible_bounds,
    visible_quads,
)
from utils.data.augment.picture import Picture
from utils.data.augment.warp import Warp, draw_transform
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for


def test_useful_boxes() -> None:
    before = np.array([[0, 0, 10, 10]] * 5, np.float64)
    after = np.array(
        [
            [0, 0, 10, 10],  # all there
            [0, 0, 2, 10],  # 2 wide: too narrow
            [0, 0, 3, 3],  # 9 % of 100
            [0, 0, 4, 3],  # 12 %
            [0, 0, 0, 0],
        ],
        np.float64,
    )
    assert still_useful(before, after, 1.0, 0.1).tolist() == [True, False, False, True, False]
    assert still_useful(before, after, 1.0, 0.01).tolist() == [True, False, True, True, False]
    assert still_useful(before, after, 0.5, 0.1).tolist() == [True, False, True, True, False]
    assert not still_useful(np.array([[0, 0, 400, 3.0]]), np.array([[0, 0, 400, 3.0]]), 1.0, 0.1)[
        0
    ]  # aspect 133


def test_labels_round_trip() -> None:
    labels = np.array([[3, 0.5, 0.25, 0.2, 0.1], [1, 0.1, 0.9, 0.1, 0.1]], np.float32)
    objects = Objects.from_labels(labels, (100, 200))
    np.testing.assert_allclose(objects.boxes[0], [80, 20, 120, 30], rtol=1e-5)
    np.testing.assert_allclose(objects.to_labels((100, 200)), labels, rtol=1e-5)


def test_visible_part_of_polygons() -> None:
    square = [[-10, -10], [10, -10], [10, 10], [-10, 10]]  # a quarter lies in the picture
    around = [[-50, -50], [150, -50], [150, 150], [-50, 150]]  # the whole picture lies inside
    beside = [[200, 200], [210, 200], [205, 220]]
    # the edge from (50, -50) to (150, 50) cuts the corner of the picture at (100, 0): it touches in a point
    slanted = [[50, -50], [150, 50], [150, -50]]
    triangle = [[20, 20], [60, 20], [20, 70]]
    polygons = [square, around, beside, slanted, triangle]
    points = np.concatenate([np.array(p, np.float64) for p in polygons])
    bounds = visible_bounds(points, np.array([len(p) for p in polygons]), (100, 100))
    np.testing.assert_allclose(
        bounds,
        [[0, 0, 10, 10], [0, 0, 100, 100], [0, 0, 0, 0], [100, 0, 100, 0], [20, 20, 60, 70]],
        atol=1e-6,
    )


def test_visible_part_agrees_with_rasterised_polygons() -> None:
    for number in range(40):
        rng = generator_for(11, number)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 12))))
        radii = rng.uniform(10, 90, len(angles))
        points = np.round(
            rng.uniform(0, 100, 2) + np.stack([np.cos(angles), np.sin(angles)], 1) * radii[:, None]
        )
        shift = 150
        mask = np.zeros((400, 400), np.uint8)
        cv2.fillPoly(mask, [(points + shift).astype(np.int32)], 1)
        mask = mask[shift : shift + 101, shift : shift + 101]
        box = visible_bounds(points, np.array([len(points)]), (100, 100))[0]
        if mask.sum() < 20:
            continue
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        np.testing.assert_allclose(box, [columns[0], rows[0], columns[-1], rows[-1]], atol=1.01)


TURN = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1.0]])  # by 53.13 degrees


def test_a_quadrilateral_whose_bounds_alone_reach_the_picture_is_not_seen() -> None:
    """(20, -45) (40, -45) (40, -25) (20, -25) turns to (48, -11) (60, 5) (44, 17) (32, 1); a shift by -58 and
    -7 leaves (-10, -18) (2, -2) (-14, 10) (-26, -6): its bounds, not itself, hold the corner (0, 0)."""
    matrix = np.array([[1, 0, -58], [0, 1, -7], [0, 0, 1.0]]) @ TURN
    objects = objects_of((0, 20, -45, 40, -25))
    np.testing.assert_allclose(visible_quads(objects.boxes, matrix, (100, 100))[1], 0)
    assert objects.warped(matrix, (100, 100)).boxes.tolist() == [[0, 0, 0, 0]]


def test_the_visible_part_of_a_turned_box() -> None:
    """Turned by 45 degrees around (0, 50), a square of 20 is a diamond of 14.14 each way, halved by x = 0."""
    half = 0.5**0.5
    matrix = np.array([[half, -half, 0], [half, half, 50], [0, 0, 1.0]])
    bounds, area = visible_quads(np.array([[-10, -10, 10, 10.0]]), matrix, (100, 100))
    reach = 200**0.5
    np.testing.assert_allclose(bounds, [[0, 50 - reach, reach, 50 + reach]])
    np.testing.assert_allclose(area, [200])


@pytest.mark.parametrize(
    "hyp",
    [
        Hyperparameters(degrees=45, translate=0.4, scale=0.5),
        Hyperparameters(shear=40, translate=0.4),
        Hyperparameters(perspective=0.01, translate=0.2, flipud=0.5),  # parts lie behind the viewer
        Hyperparameters(degrees=180, shear=20, perspective=0.004, scale=0.9),
    ],
)
def test_visible_quads_agree_with_painted_ones(hyp: Hyperparameters) -> None:
    some = 0
    for number in range(60):
        rng = generator_for(12, number)
        matrix, _ = draw_transform(rng, hyp, (200, 200), (100, 100))
        assert not keeps_boxes(matrix)
        low = rng.integers(0, 150, 2)
        high = low + rng.integers(5, 50, 2)
        bounds, area = visible_quads(np.array([[*low, *high]], np.float64), matrix, (100, 100))
        y, x = np.mgrid[0:400, 0:400] / 4 + 0.125  # sixteen points a pixel
        source = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(matrix).T
        place = source[..., :2] / source[..., 2:]
        mask = ((place >= low) & (place <= high)).all(-1)
        assert area[0] == pytest.approx(mask.sum() / 16, abs=4 + 0.02 * mask.sum() / 16)
        if mask.sum() > 800:  # of which the tips show
            some += 1
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) / 4
            np.testing.assert_allclose(bounds[0], found, atol=2)
    assert some > 10


@pytest.mark.parametrize("polygon", [False, True])
def test_what_a_mosaic_cuts_to_a_line_is_no_label_after_a_turn(polygon: bool) -> None:
    line = objects_of((0, 0, 20, 0, 90), polygon=polygon)  # what `clipped` leaves of a box beyond the border
    moved = line.warped(TURN.T, (100, 100))
    np.testing.assert_allclose(moved.boxes, [[16, 12, 72, 54]], atol=1e-6)  # 0.8 and 0.6 times 20 and 90
    assert not really_seen(line, TURN.T, (100, 100), 1.0, 0.1).any()


def test_an_outline_that_goes_behind_the_viewer() -> None:
    tilt = np.array([[1, 0, 0], [0, 1, 0], [0.01, 0, 1.0]])
    box = objects_of((0, -150, 20, 50, 60), polygon=True)  # x = -100 is the horizon
    expected, _ = visible_quads(box.boxes, tilt, (100, 100))
    np.testing.assert_allclose(box.warped(tilt, (100, 100)).boxes, expected)


def test_no_label_without_area_after_a_warp() -> None:
    """Boxes all over a canvas of twice the side; what is kept covers a part of the picture."""
    hyp, kept = Hyperparameters(degrees=45, shear=10, translate=0.3), 0
    for number in range(40):
        rng = generator_for(13, number)
        low = rng.uniform(0, 190, (30, 2))
        rows = np.concatenate([np.zeros((30, 1)), low, (low + rng.uniform(0, 40, (30, 2))).clip(0, 200)], 1)
        before = objects_of(*rows.tolist())
        before.classes[:] = np.arange(30)
        draw = draw_of(generator_for(14, number), 100)
        matrix, scale = draw_transform(generator_for(14, number), hyp, (200, 200), (100, 100))
        after = Warp(hyp)(draw, Picture.of(np.zeros((200, 200, 3), np.uint8), before)).objects
        _, area = visible_quads(before.boxes, matrix, (100, 100))
        sides = before.boxes[:, 2:] - before.boxes[:, :2]
        for cls in after.classes.astype(int):
            kept += 1
            assert area[cls] > 0.1 * sides[cls].prod() * scale**2
        for cls in set(range(30)) - set(after.classes.astype(int)):  # nor is one dropped that is seen
            assert area[cls] < 0.11 * sides[cls].prod() * scale**2 or sides[cls].min() * scale < 2.1
    assert kept > 200
