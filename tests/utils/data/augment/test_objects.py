"""Labelled things under geometry."""

from __future__ import annotations

import cv2
import numpy as np

from utils.data.augment.objects import Objects, still_useful, visible_bounds
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
