"""Copy-paste (Ghiasi et al., arXiv 2012.07177): things with outlines appear once more, mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.data.augment.objects import Objects
from utils.data.augment.picture import Draw, Picture

CROWDED = 0.30  # part of a present box that a pasted one may cover


@dataclass(frozen=True)
class CopyPaste:
    """Each thing with a polygon is pasted, with this probability, where it hides little else."""

    probability: float

    def __call__(self, draw: Draw, picture: Picture) -> Picture:
        objects, (height, width) = picture.objects, picture.size
        if not self.probability:
            return picture
        chosen = (objects.lengths > 0) & (draw.rng.random(len(objects)) < self.probability)
        mirror = np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]], np.float64)
        present = objects.boxes
        mask = np.zeros((height, width), np.uint8)
        pasted = []
        for i in np.flatnonzero(chosen):
            copy = objects.select(np.arange(len(objects)) == i).warped(mirror, picture.size)
            if (covered_part(copy.boxes[0], present) < CROWDED).all():
                present = np.concatenate([present, copy.boxes])
                pasted.append(copy)
                corners = np.round((copy.points - 0.5) * 16).astype(np.int32)  # in sixteenths of a pixel
                cv2.fillPoly(mask, [corners], 1, shift=4)
        if not pasted:
            return picture
        mixed = np.where(mask[..., None] > 0, picture.image[:, ::-1], picture.image)
        return Picture.of(mixed, Objects.concatenate([objects, *pasted]))


def covered_part(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) float: how much of the area of each of `others` (n, 4) xyxy is covered by `box` (4,)."""
    overlap = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])).clip(0).prod(1)
    return overlap / np.maximum((others[:, 2:] - others[:, :2]).prod(1), 1e-9)
