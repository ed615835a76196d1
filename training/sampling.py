"""Which images to show more often (`--image-weights`)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def image_weights(
    classes: NDArray[np.floating], offsets: NDArray[np.integer], maps: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Probability of each image: the sum over its labels of (rarity of the class) * (1 - mAP of the class)^2.

    Args:
        classes: (M,) class of each label.
        offsets: (N + 1,) the labels of image i are rows offsets[i]:offsets[i + 1].
        maps: (nc,) mAP50-95 of each class, 0 where unknown.

    Returns:
        (N,) probabilities; images without labels share the smallest weight of the others.
    """
    counts = np.bincount(classes.astype(np.int64), minlength=len(maps))
    class_weights = (1 - maps) ** 2 / np.maximum(counts, 1)
    running = np.concatenate([[0.0], np.cumsum(class_weights[classes.astype(np.int64)])])
    weights = running[offsets[1:]] - running[offsets[:-1]]
    positive = weights[weights > 0]
    weights = np.maximum(weights, positive.min() if len(positive) else 1.0)
    return weights / weights.sum()
