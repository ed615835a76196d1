"""Parts of pictures, and whole ones in small, in the place of pictures."""

from __future__ import annotations

import numpy as np
import pytest

from tests.utils.data.augment.pictures import STILL, check_labels, draw_of, painted
from utils.data.augment.fit import fit_whole
from utils.data.augment.picture import Draw, Picture
from utils.data.augment.recipe import recipe
from utils.data.augment.window import SHOWN_SMALL, Window
from utils.seeding import generator_for

SIDE, SMALL = 128, 64


def windows(count: int, polygon: bool = False) -> list[tuple[Picture, Picture]]:
    """Pictures, and what a window makes of each."""
    pairs = []
    for number in range(count):
        rng = generator_for(8, number)
        whole = fit_whole(draw_of(rng, SIDE), painted(rng, [0, 1, 2, 3], SIDE, polygon))

        def make(draw: Draw, whole: Picture = whole) -> Picture:
            assert draw.size == (SIDE, SIDE)
            return whole

        pairs.append((whole, Window(make, SIDE)(draw_of(rng, SMALL))))
    return pairs


@pytest.mark.parametrize("polygon", [False, True])
def test_labels_enclose_what_they_name(polygon: bool) -> None:
    boxes = 0
    for _, shown in windows(40, polygon):
        assert shown.image.shape == (SMALL, SMALL, 3)
        assert (shown.objects.boxes >= 0).all()
        assert (shown.objects.boxes <= SMALL).all()
        boxes += check_labels(shown, exact=True)
    assert boxes > 60


def test_most_are_parts_and_some_are_whole() -> None:
    small = 0
    pairs = windows(60)
    for whole, shown in pairs:
        parts = np.lib.stride_tricks.sliding_window_view(whole.image, (SMALL, SMALL, 3))
        part = (parts[:, :, 0] == shown.image).all(axis=(2, 3, 4)).any()
        small += not part
        if not part:
            assert sorted(shown.objects.classes) == [0, 1, 2, 3]
            np.testing.assert_allclose(shown.objects.boxes, whole.objects.boxes / 2)
    assert small == pytest.approx(SHOWN_SMALL * len(pairs), abs=5) and small > 1


def test_the_recipe_gives_windows_where_a_side_is_named() -> None:
    """Of the picture that fills the side: the same scale, where the recipe without one would shrink it."""
    picture = painted(generator_for(9), [0, 1], SIDE)
    image = fit_whole(draw_of(generator_for(9), SIDE), picture).image
    make = recipe(STILL, lambda draw: picture, mosaics=False, polygons=False, side=SIDE)
    shown = [make(draw_of(generator_for(9, number), SMALL)).image for number in range(8)]
    places = np.lib.stride_tricks.sliding_window_view(image, (SMALL, SMALL, 3))[:, :, 0]
    parts = sum(bool((places == one).all(axis=(2, 3, 4)).any()) for one in shown)
    assert parts >= 5 and all(one.shape == (SMALL, SMALL, 3) for one in shown)


def test_the_size_of_the_picture_gives_all_of_it() -> None:
    rng = generator_for(10)
    whole = fit_whole(draw_of(rng, SIDE), painted(rng, [0, 1], SIDE))
    shown = Window(lambda draw: whole, SIDE)(draw_of(rng, SIDE))
    assert shown is whole
