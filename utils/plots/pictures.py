"""Pictures of a run that are drawn beside it, in a thread of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.data.batch import Batch
from utils.pipeline import JobQueue
from utils.plots.batches import plot_batch
from utils.plots.labels import plot_labels

BATCHES = 3  # of training, and of validation, that a picture is drawn of


class RunPictures:
    """Draws label statistics and the first batches into a run folder.

    Args:
        names: class index to name.
        enabled: without it nothing is drawn.
    """

    def __init__(self, folder: Path, names: dict[int, str], enabled: bool = True) -> None:
        self._folder, self._names, self._jobs = folder, names, JobQueue() if enabled else None

    def labels(self, boxes: np.ndarray) -> None:
        """Draw how labels (M, 5), class and xywh as fractions of the image, are distributed."""
        self._submit(plot_labels, boxes, self._names, self._folder / "labels.jpg")

    def training_batch(self, number: int, batch: Batch) -> None:
        """Draw one of the first batches, as it is fed to the network."""
        if number < BATCHES:
            self._draw(f"train_batch{number}", batch, batch.targets)

    def validation_batch(self, number: int, batch: Batch, detections: list[Tensor]) -> None:
        """Draw one of the first batches twice, with labels and with detections (n, 6) in pixels of it."""
        if number < BATCHES:
            self._draw(f"val_batch{number}_labels", batch, batch.targets)
            self._draw(f"val_batch{number}_pred", batch, detections)

    def close(self) -> None:
        """Wait until everything is drawn."""
        if self._jobs is not None:
            self._jobs.close()

    def _draw(self, stem: str, batch: Batch, boxes: Tensor | list[Tensor]) -> None:
        path = self._folder / f"{stem}.jpg"
        self._submit(plot_batch, path, batch.images, batch.paths, self._names, boxes)

    def _submit(self, plot: Callable[..., None], *args: Any) -> None:
        if self._jobs is not None:
            self._jobs.submit(partial(plot, *args))
