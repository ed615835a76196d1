"""Colour, blending and pasting."""

from __future__ import annotations

import numpy as np
import pytest

from tests.utils.data.augment.pictures import (
    colour_of,
    draw_of,
    objects_of,
)
from utils.data.augment.colour import Colour
from utils.data.augment.copy_paste import CopyPaste
from utils.data.augment.mixup import MixUp
from utils.data.augment.objects import Objects
from utils.data.augment.picture import Picture
from utils.seeding import generator_for


def jittered(seed: int, image: np.ndarray, *gains: float) -> np.ndarray:
    return Colour(*gains)(draw_of(generator_for(seed)), Picture.of(image, objects_of())).image


def test_colour_jitter() -> None:
    image = generator_for(3).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    still = jittered(3, image, 0, 0, 0)
    assert np.array_equal(still, image)
    moved = jittered(3, image, 0.015, 0.7, 0.4)
    assert moved.shape == image.shape
    assert not np.array_equal(moved, still)
    grey = np.full((4, 4, 3), 100, np.uint8)
    for number in range(50):  # grey has no hue: only the value changes, by 1 +- 0.4
        out = jittered(number, grey, 0.015, 0.7, 0.4)
        assert (out == out[..., :1]).all()
        assert 59 <= out.min() <= out.max() <= 140


def test_mixup_blends_and_keeps_both() -> None:
    one = Picture.of(np.full((8, 8, 3), 0, np.uint8), objects_of((0, 1, 1, 4, 4)))
    other = Picture.of(np.full((8, 8, 3), 200, np.uint8), objects_of((1, 2, 2, 6, 6), (2, 0, 0, 3, 3)))
    levels = []
    for number in range(50):
        mixed = MixUp(1.0, of=lambda draw: other if draw.images[0] else one)(
            draw_of(generator_for(12, number))
        )
        assert mixed.objects.classes.tolist() == [0, 1, 2]
        levels.append(mixed.image[0, 0, 0] / 200)
    # Beta(32, 32) has mean 0.5 and standard deviation sqrt(1 / (4 * 65)) = 0.062
    assert np.mean(levels) == pytest.approx(0.5, abs=0.03)
    assert 0.03 < np.std(levels) < 0.09


def pasted(image: np.ndarray, objects: Objects, probability: float = 1.0) -> tuple[np.ndarray, Objects]:
    picture = CopyPaste(probability)(draw_of(generator_for(1)), Picture.of(image, objects))
    return picture.image, picture.objects


def test_copy_paste_mirrors_things_with_polygons() -> None:
    image = np.full((40, 100, 3), 30, np.uint8)
    image[10:20, 5:25] = colour_of(1)
    objects = objects_of((1, 5, 10, 25, 20), polygon=True)
    out, more = pasted(image, objects)
    np.testing.assert_allclose(more.boxes, [[5, 10, 25, 20], [75, 10, 95, 20]], atol=1e-6)
    assert np.array_equal(out[:, 50:], image[:, :50][:, ::-1])
    assert np.array_equal(out[:, :50], image[:, :50])
    assert (image[:, 50:] == 30).all()  # the picture that was given is untouched


def test_copy_paste_does_not_hide_others() -> None:
    image = np.full((40, 100, 3), 30, np.uint8)
    crowded = objects_of((1, 5, 10, 25, 20), (2, 80, 8, 90, 22), polygon=True)
    crowded = Objects.concatenate([crowded.select(np.array([True, False])), objects_of((2, 80, 8, 90, 22))])
    out, more = pasted(image, crowded)
    assert len(more) == 2
    assert out is image
    boxes = objects_of((1, 5, 10, 25, 20))
    assert pasted(image, boxes)[0] is image
