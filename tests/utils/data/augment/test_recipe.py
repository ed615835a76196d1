"""The order of the augmentations, and which images a picture is made of."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tests.utils.data.augment.pictures import STILL, draw_of, objects_of
from utils.data.augment.picture import Draw, Maker, Picture
from utils.data.augment.recipe import Chain, recipe
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for

SIZE = 32


class Loading:
    """Gives plain pictures whose number can be told by their colour, and notes which were asked for."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, draw: Draw) -> Picture:
        number = int(draw.images[0])
        self.numbers.append(number)
        return Picture.of(np.full((SIZE, SIZE, 3), 20 * number, np.uint8), objects_of((number, 4, 4, 28, 28)))


def made(hyp: Hyperparameters, *, mosaics: bool = True, seed: int = 0) -> tuple[list[int], Picture]:
    load = Loading()
    picture = recipe(hyp, load, mosaics=mosaics, polygons=False)(draw_of(generator_for(seed), SIZE))
    return load.numbers, picture


def changed(**values: float) -> Hyperparameters:
    return Hyperparameters(**{**vars(STILL), **values})


@pytest.mark.parametrize(
    ("hyp", "mosaics", "numbers"),
    [
        (changed(mosaic=0), True, [[0]]),
        (changed(mosaic=1), True, [[0, 1, 2, 3]]),
        (changed(mosaic=1), False, [[0]]),  # rectangular batches
        (changed(mosaic=1, mixup=1), True, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (changed(mosaic=0, mixup=1), True, [[0]]),  # only mosaics are blended
    ],
)
def test_which_images_are_loaded(hyp: Hyperparameters, mosaics: bool, numbers: list[list[int]]) -> None:
    loaded, picture = made(hyp, mosaics=mosaics)
    groups = [sorted(loaded[start : start + 4]) for start in range(0, len(loaded), 4)]
    assert groups == numbers
    assert picture.size == picture.image.shape[:2] == (SIZE, SIZE)


def test_one_image_without_strength_stays_as_it_is() -> None:
    _, picture = made(changed(mosaic=0))
    assert (picture.image == 0).all()
    np.testing.assert_allclose(picture.objects.boxes, [[4, 4, 28, 28]])


def test_a_picture_depends_on_its_seed_alone() -> None:
    hyp = Hyperparameters(mixup=0.5, degrees=10, mosaic=0.5)
    for seed in range(8):
        (first, one), (second, other) = made(hyp, seed=seed), made(hyp, seed=seed)
        assert first == second
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.objects.boxes, other.objects.boxes)


def darker(draw: Draw, picture: Picture) -> Picture:
    """As CONTRIBUTING has it: a transform is any callable that gives a picture for a picture."""
    return Picture.of(picture.image // 2, picture.objects)


def test_transforms_act_in_the_order_of_the_chain() -> None:
    def bright(draw: Draw, picture: Picture) -> Picture:
        return Picture.of(picture.image + np.uint8(100), picture.objects)

    load: Maker = Loading()
    draw = draw_of(generator_for(0), SIZE)._replace(images=np.array([2]))  # grey 40
    assert Chain(load, darker, bright)(draw).image[0, 0, 0] == 40 // 2 + 100
    assert Chain(load, bright, darker)(draw).image[0, 0, 0] == (40 + 100) // 2


@pytest.mark.parametrize("polygons", [False, True])
def test_things_are_pasted_only_where_outlines_are_used(polygons: bool) -> None:
    def load(draw: Draw) -> Picture:
        return Picture.of(np.zeros((SIZE, SIZE, 3), np.uint8), objects_of((0, 4, 4, 12, 12), polygon=True))

    make = recipe(changed(mosaic=0, copy_paste=1), load, mosaics=False, polygons=polygons)
    assert len(make(draw_of(generator_for(0), SIZE)).objects) == (2 if polygons else 1)


def test_a_recipe_travels_to_worker_processes() -> None:
    make = pickle.loads(pickle.dumps(recipe(Hyperparameters(), Loading(), mosaics=True, polygons=True)))
    assert make(draw_of(generator_for(0), SIZE)).size == (SIZE, SIZE)
