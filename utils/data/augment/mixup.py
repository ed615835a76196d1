"""MixUp (Zhang et al., arXiv 1710.09412): two pictures shine through each other."""

from __future__ import annotations

from dataclasses import dataclass

import cv2

from utils.data.augment.mosaic import IMAGES
from utils.data.augment.objects import Objects
from utils.data.augment.picture import Draw, Maker, Picture
from utils.data.channels import keep_axis


@dataclass(frozen=True)
class MixUp:
    """With this probability two pictures blended with a weight from Beta(32, 32), and the things of both."""

    probability: float
    of: Maker  # makes each of the two

    def __call__(self, draw: Draw) -> Picture:
        one = self.of(draw)
        if draw.rng.random() >= self.probability:
            return one
        other = self.of(draw._replace(images=draw.images[IMAGES:]))
        weight = float(draw.rng.beta(32, 32))
        image = keep_axis(cv2.addWeighted(one.image, weight, other.image, 1 - weight, 0))
        return Picture.of(image, Objects.concatenate([one.objects, other.objects]))
