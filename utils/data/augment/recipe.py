"""The recipe of training pictures: which transforms, in which order, with whose hyper-parameters."""

from __future__ import annotations

from dataclasses import dataclass

from utils.data.augment.colour import Colour
from utils.data.augment.copy_paste import CopyPaste
from utils.data.augment.fit import fit_whole
from utils.data.augment.mixup import MixUp
from utils.data.augment.mosaic import Mosaic
from utils.data.augment.picture import Draw, Maker, Picture, Transform
from utils.data.augment.warp import Warp
from utils.data.augment.window import Window
from utils.hyperparameters import Hyperparameters


def recipe(
    hyp: Hyperparameters, load: Maker, *, mosaics: bool, polygons: bool, side: int | None = None
) -> Maker:
    """All augmentations in the order in which they act. A new one is a line here.

    Args:
        hyp: strengths and probabilities.
        load: gives the first of the images that are drawn, with what is on it.
        mosaics: whether several images may share a picture; not with rectangular batches.
        polygons: whether there are outlines to cut things out by.
        side: of the pictures that windows are cut from; None where pictures are shown whole.
    """
    tile = Chain(load, CopyPaste(hyp.copy_paste if polygons else 0.0))
    picture: Maker = Chain(tile, fit_whole, Warp(hyp))
    if mosaics:
        mosaic = MixUp(hyp.mixup, of=Chain(Mosaic(tile), Warp(hyp)))
        picture = Either(hyp.mosaic, mosaic, picture)
    if side is not None:
        picture = Window(picture, side)
    return Chain(picture, Colour(hyp.hsv_h, hyp.hsv_s, hyp.hsv_v))


class Chain:
    """Makes a picture, then changes it step by step."""

    def __init__(self, make: Maker, *transforms: Transform) -> None:
        self.make, self.transforms = make, transforms

    def __call__(self, draw: Draw) -> Picture:
        picture = self.make(draw)
        for transform in self.transforms:
            picture = transform(draw, picture)
        return picture


@dataclass(frozen=True)
class Either:
    """One of two ways to make a picture: `first` with this probability."""

    probability: float
    first: Maker
    second: Maker

    def __call__(self, draw: Draw) -> Picture:
        return self.first(draw) if draw.rng.random() < self.probability else self.second(draw)
