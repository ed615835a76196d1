"""Batches: what they are made from, how they are made, and what the network is fed with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:  # worker processes do without it
    from torch import Tensor

Shapes: TypeAlias = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]]
"""Source (height, width); then output per source pixel (height, width) and padding (left, top)"""


class Batch(NamedTuple):
    """What the network is fed with."""

    images: Tensor  # (B, C, H, W) uint8, red first
    targets: Tensor  # (M, 6) float32: image number in the batch, class, xc, yc, w, h normalised to H, W
    paths: list[str]
    shapes: list[Shapes | None]  # None where a picture could not be read; it is grey then


class BatchArrays(NamedTuple):
    """The same before it has become tensors."""

    images: np.ndarray
    targets: np.ndarray
    paths: list[str]
    shapes: list[Shapes | None]


class BatchKey(NamedTuple):
    """All that a batch depends on, besides the data set: worker processes keep no state of their own."""

    epoch: int
    number: int  # of the batch in the epoch, or among the rectangular ones; its shape depends on it
    positions: np.ndarray  # (B,) int64: place of each sample in the order of the epoch
    images: np.ndarray  # (B, 1 + PARTNERS) int64: image numbers, the sample's own first


class Sample(NamedTuple):
    """Labels and origin of a picture that has been written into a batch."""

    labels: np.ndarray  # (n, 5) float32 class, xc, yc, w, h
    shapes: Shapes | None
