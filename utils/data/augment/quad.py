"""Quad collate: four pictures of a batch become one of twice the side."""

from __future__ import annotations

import cv2
import numpy as np

from utils.data.batch import BatchArrays


def quadruple(batch: BatchArrays, rng: np.random.Generator) -> BatchArrays:
    """Make each four pictures of a batch into one of twice the side: all four, or the first one enlarged.

    A remainder of one to three pictures is dropped, or enlarged when there is nothing else.
    """
    count, channels, height, width = batch.images.shape
    groups = max(count // 4, 1)
    images = np.empty((groups, channels, 2 * height, 2 * width), np.uint8)
    targets = []
    for group in range(groups):
        members = range(4 * group, min(4 * group + 4, count))
        if len(members) < 4 or rng.random() < 0.5:
            for source, plane in zip(batch.images[members[0]], images[group]):
                plane[:] = cv2.resize(source.astype(np.float32), (2 * width, 2 * height))
            targets.append(_relabelled(batch.targets, members[0], group, 1.0, (0.0, 0.0)))
            continue
        for place, member in enumerate(members):
            row, column = divmod(place, 2)
            top, left = row * height, column * width
            images[group, :, top : top + height, left : left + width] = batch.images[member]
            targets.append(_relabelled(batch.targets, member, group, 0.5, (column / 2, row / 2)))
    firsts = slice(0, 4 * groups, 4)
    return BatchArrays(images, np.concatenate(targets), batch.paths[firsts], batch.shapes[firsts])


def _relabelled(
    targets: np.ndarray, member: int, group: int, scale: float, shift: tuple[float, float]
) -> np.ndarray:
    """The targets of picture `member`, scaled and moved, as those of picture `group`."""
    rows = targets[targets[:, 0] == member]
    rows[:, 0] = group
    rows[:, 2:] *= np.float32(scale)
    rows[:, 2:4] += np.array(shift, np.float32)
    return rows
