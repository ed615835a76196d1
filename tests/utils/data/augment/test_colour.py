"""Colour jitter by hand; OpenCV's hue is an angle in steps of two degrees."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from tests.utils.data.augment.pictures import draw_of, objects_of
from utils.data.augment.colour import Colour
from utils.data.augment.picture import Draw, Picture
from utils.seeding import generator_for


def drawing(*values: float) -> Draw:
    """For draws between -1 and 1 that are known."""
    rng: Any = SimpleNamespace(uniform=lambda low, high, count: np.array(values))
    return draw_of(rng)


def hsv(*values: int) -> Picture:
    image = cv2.cvtColor(np.full((4, 4, 3), values, np.uint8), cv2.COLOR_HSV2BGR)
    return Picture.of(image, objects_of((0, 1, 1, 3, 3)))


def hsv_of(picture: Picture) -> list[int]:
    return cv2.cvtColor(picture.image, cv2.COLOR_BGR2HSV)[0, 0].tolist()


@pytest.mark.parametrize(
    ("draws", "colour", "before", "after"),
    [
        ((1, 1, 1), Colour(0, 0.5, 0), (60, 100, 200), (60, 150, 200)),  # 100 * 1.5
        ((1, -1, 0.5), Colour(0.2, 0.4, 0.5), (60, 100, 160), (72, 60, 200)),  # * 1.2, * 0.6, * 1.25
        ((1, 1, 1), Colour(0, 0, 0.5), (60, 255, 240), (60, 255, 255)),  # 240 * 1.5 = 360 is not there
        ((1, 0, 0), Colour(0.6, 0, 0), (120, 255, 255), (12, 255, 255)),  # 192 is 12 a turn later
        ((1, 0, 0), Colour(0.6, 0, 0), (170, 255, 255), (92, 255, 255)),  # 272 as well, which no byte holds
    ],
)
def test_by_hand(
    draws: tuple[float, ...], colour: Colour, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    picture = hsv(*before)
    changed = colour(drawing(*draws), picture)
    assert hsv_of(changed) == pytest.approx(after, abs=2)  # bytes lose a little on the way
    assert changed.objects is picture.objects


def test_without_strength_the_picture_is_left_alone_but_draws_go_on() -> None:
    picture, rng = hsv(60, 100, 200), generator_for(3)
    assert Colour(0, 0, 0)(draw_of(rng), picture) is picture
    other = generator_for(3)
    other.uniform(-1, 1, 3)
    assert rng.random() == other.random()
