"""Pictures made of tiles, by hand."""

from __future__ import annotations

import numpy as np

from tests.utils.data.augment.pictures import objects_of
from utils.data.augment.picture import Picture, Tile, blank
from utils.data.letterbox import BACKGROUND


def test_tiles_are_painted_at_their_places_on_grey() -> None:
    wide, high = np.full((1, 3, 3), 10, np.uint8), np.full((2, 1, 3), 20, np.uint8)
    picture = Picture((4, 5), (Tile(wide, 1, 0), Tile(high, 4, 2)), objects_of())
    grey = BACKGROUND
    assert picture.image[..., 1].tolist() == [
        [grey, 10, 10, 10, grey],
        [grey, grey, grey, grey, grey],
        [grey, grey, grey, grey, 20],
        [grey, grey, grey, grey, 20],
    ]


def test_a_whole_image_is_shared_and_lies_in_the_corner() -> None:
    image = np.zeros((4, 5, 3), np.uint8)
    picture = Picture.of(image, objects_of())
    assert picture.image is image
    assert (picture.size, picture.tiles[0].x, picture.tiles[0].y) == ((4, 5), 0, 0)


def test_a_tile_of_another_size_is_put_on_a_canvas() -> None:
    for shape in ((4, 4, 3), (3, 5, 3)):
        small = np.zeros(shape, np.uint8)
        image = Picture((4, 5), (Tile(small, 0, 0),), objects_of()).image
        assert image.shape == (4, 5, 3) and image[-1, -1].tolist() == [BACKGROUND] * 3
    whole = np.zeros((4, 5, 3), np.uint8)
    twice = Picture((4, 5), (Tile(whole, 0, 0), Tile(whole[:1] + np.uint8(7), 0, 0)), objects_of()).image
    assert twice[:, 0, 0].tolist() == [7, 0, 0, 0]


def test_blank() -> None:
    assert blank((2, 3)).shape == (2, 3, 3) and (blank((2, 3)) == BACKGROUND).all()
