"""Windows: parts of pictures at their full scale, and when whole pictures come instead."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.data.augment.objects import VISIBLE_BOX, still_useful
from utils.data.augment.picture import Draw, Maker, Picture
from utils.data.batch import BatchKey
from utils.data.channels import keep_axis

SHOWN_SMALL = 0.15  # of the pictures are shown whole, but small: what fills a picture fits into no window
WHOLE_EVERY = 3  # of so many batches one has whole pictures at full scale, as many as cost the same


@dataclass(frozen=True)
class Window:
    """A part of `draw.size` of a picture of `side` x `side`, drawn at random, or all of it in that size; with
    `draw.size` of (side, side) the picture itself.

    Who learns from what another network says of a place, and not from labels, learns as much in a part as in
    the whole, and of more pictures in the same time.
    """

    make: Maker
    side: int

    def __call__(self, draw: Draw) -> Picture:
        if draw.size == (self.side, self.side):
            return self.make(draw)
        small = draw.rng.random() < SHOWN_SMALL
        picture = self.make(draw._replace(size=(self.side, self.side)))
        height, width = draw.size
        if small:
            image = keep_axis(cv2.resize(picture.image, (width, height), interpolation=cv2.INTER_AREA))
            scale, y, x = width / self.side, 0, 0
        else:
            scale, (y, x) = 1.0, (int(draw.rng.integers(self.side - side + 1)) for side in draw.size)
            image = picture.image[y : y + height, x : x + width]
        before = picture.objects
        moved = before.warped(np.array([[scale, 0, -x], [0, scale, -y], [0, 0, 1]]), draw.size)
        return Picture.of(image, moved.select(still_useful(before.boxes, moved.boxes, scale, VISIBLE_BOX)))


def whole_ones(key: BatchKey, window: int, side: int) -> BatchKey | None:
    """The first pictures of a batch, to be shown whole in place of all its windows; None where its turn has
    not come, or where its windows have fewer pixels than one whole picture.

    They cost no more than the windows. Layers that look far, at what fills a picture, learn more from them.
    """
    count = whole_count(len(key.positions), window, side)
    if not count or (key.epoch + key.number) % WHOLE_EVERY != WHOLE_EVERY - 1:
        return None
    return key._replace(positions=key.positions[:count], images=key.images[:count])


def whole_count(pictures: int, window: int, side: int) -> int:
    """How many whole pictures of `side` x `side` have no more pixels than so many windows."""
    return pictures * window**2 // side**2
