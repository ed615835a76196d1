"""One image alone: scaled to fit the network's input, centred on grey."""

from __future__ import annotations

import cv2
import numpy as np

from utils.data.augment.picture import Draw, Picture, Tile
from utils.data.channels import keep_axis
from utils.data.letterbox import fit


def fit_whole(draw: Draw, picture: Picture) -> Picture:
    """The picture on a canvas of `draw.size`, whole."""
    height, width = picture.size
    plan = fit(picture.size, draw.size, auto=False)
    top, _, left, _ = plan.borders
    image, objects = picture.image, picture.objects
    if plan.inner != picture.size:
        image = keep_axis(cv2.resize(image, plan.inner[::-1], interpolation=cv2.INTER_LINEAR))
        objects = objects.warped(np.diag([plan.inner[1] / width, plan.inner[0] / height, 1.0]), plan.inner)
    return Picture(draw.size, (Tile(image, left, top),), objects.shifted(left, top))
