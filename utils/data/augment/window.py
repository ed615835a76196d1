"""A window: a part of a picture at its full scale, in place of all of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.data.augment.objects import VISIBLE_BOX, still_useful
from utils.data.augment.picture import Draw, Maker, Picture
from utils.data.channels import keep_axis

WHOLE = 0.15  # of the pictures are shown whole, but small: what fills a picture fits into no window


@dataclass(frozen=True)
class Window:
    """A part of `draw.size` of a picture of `side` x `side`, drawn at random, or all of it in that size.

    Who learns from what another network says of a place, and not from labels, learns as much in a part as in
    the whole, and of more pictures in the same time.
    """

    make: Maker
    side: int

    def __call__(self, draw: Draw) -> Picture:
        whole = draw.rng.random() < WHOLE
        picture = self.make(draw._replace(size=(self.side, self.side)))
        height, width = draw.size
        if whole:
            image = keep_axis(cv2.resize(picture.image, (width, height), interpolation=cv2.INTER_AREA))
            scale, y, x = width / self.side, 0, 0
        else:
            scale, (y, x) = 1.0, (int(draw.rng.integers(self.side - side + 1)) for side in draw.size)
            image = picture.image[y : y + height, x : x + width]
        before = picture.objects
        moved = before.warped(np.array([[scale, 0, -x], [0, scale, -y], [0, 0, 1]]), draw.size)
        return Picture.of(image, moved.select(still_useful(before.boxes, moved.boxes, scale, VISIBLE_BOX)))
