"""Pictures of what the network learns from."""

from __future__ import annotations

from pathlib import Path

from utils.data.batch import Batch
from utils.data.index import DatasetIndex
from utils.evaluation.report import PICTURES
from utils.pipeline import JobQueue
from utils.plots import plot_batch, plot_labels


class TrainingPictures:
    """Draws what the network learns from: label statistics and the first batches."""

    def __init__(self, folder: Path, names: dict[int, str], enabled: bool = True) -> None:
        self._folder, self._names, self._jobs = folder, names, JobQueue() if enabled else None

    def labels(self, index: DatasetIndex) -> None:
        """Draw how labels are distributed."""
        if self._jobs is not None:
            boxes = index.boxes
            self._jobs.submit(lambda: plot_labels(boxes, self._names, self._folder / "labels.jpg"))

    def batch(self, number: int, batch: Batch) -> None:
        """Draw one of the first batches, as it is fed to the network."""
        if self._jobs is not None and number < PICTURES:
            path = self._folder / f"train_batch{number}.jpg"
            self._jobs.submit(
                lambda: plot_batch(path, batch.images, batch.paths, self._names, targets=batch.targets)
            )

    def close(self) -> None:
        """Wait until everything is drawn."""
        if self._jobs is not None:
            self._jobs.close()
