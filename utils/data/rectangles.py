"""Rectangular batches: images of like shape together, so that little of a batch is padding."""

from __future__ import annotations

import numpy as np

from utils.errors import UserError


def plan_rectangles(
    shapes: np.ndarray, size: int, batch_size: int, stride: int, pad: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Sort images by aspect ratio and find the shape of each batch.

    Args:
        shapes: (N, 2) height and width of the sources.
        pad: in strides.

    Returns:
        The image numbers (N,) from wide to tall, and (height, width) for each batch of them.

    Raises:
        UserError: `size` is too small for the stride.
    """
    if size < stride:
        raise UserError(f"image size {size} is below the stride {stride} of the model")
    aspect = shapes[:, 0] / shapes[:, 1]
    order = np.argsort(aspect)  # YOLOv5 breaks ties like this, and a batch's members decide its padding
    batches = []
    for start in range(0, len(order), batch_size):
        ratios = aspect[order[start : start + batch_size]]
        # Only when all images of a batch are wide (or all are tall) can it be less than a square.
        sides = np.array([min(ratios.max(), 1.0), min(1 / ratios.min(), 1.0)])
        height, width = np.ceil(sides * size / stride + pad).astype(int) * stride
        batches.append((int(height), int(width)))
    return order, batches
