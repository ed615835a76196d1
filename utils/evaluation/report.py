"""What people look at after training and validation: the class table, `metrics.json` and the plots."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from utils.boxes import xyxy_to_xywh
from utils.console import LOGGER
from utils.data.batch import Batch
from utils.evaluation.evaluate import Evaluation, ImageResult
from utils.files import atomic_write
from utils.pipeline import JobQueue
from utils.plots import plot_batch, plot_confusion_matrix, plot_curves
from utils.plots.canvas import new_figure, save_figure, style_axes

PICTURES = 3  # batches of which a picture is drawn
MANY_CLASSES = 50  # beyond that the table has its own row for a class only with --verbose


def class_table(result: Evaluation, verbose: bool = False) -> str:
    """A line for all classes together and one for each class that has labels."""
    metrics = result.metrics
    header = f"{'Class':>22}{'Images':>11}{'Instances':>11}{'P':>11}{'R':>11}{'mAP50':>11}{'mAP50-95':>11}"
    rows = [("all", int(metrics.labels.sum()), result.summary())]
    if verbose or 1 < len(result.names) <= MANY_CLASSES:
        rows += [
            (
                metrics.name(row),
                int(metrics.labels[row]),
                [metrics.precision[row], metrics.recall[row], metrics.ap[row, 0], metrics.ap[row].mean()],
            )
            for row in range(len(metrics.classes))
        ]
    lines = [
        f"{name:>22}{result.images:>11}{labels:>11}" + "".join(f"{value:>11.3g}" for value in values)
        for name, labels, values in rows
    ]
    return "\n".join([header, *lines])


def report_validation(result: Evaluation, folder: Path, plots: bool = True, verbose: bool = False) -> None:
    """Print the class table and the speeds, write `metrics.json`, and draw curves and confusion matrix."""
    LOGGER.info(class_table(result, verbose))
    speeds = ", ".join(f"{milliseconds:.1f} ms {stage}" for stage, milliseconds in result.speeds.items())
    LOGGER.info(f"speed: {speeds} per image")
    with atomic_write(folder / "metrics.json") as file:
        file.write(json.dumps(result.report, indent=1).encode())
    if plots:
        plot_curves(result.metrics, folder)
        plot_confusion_matrix(result.confusion, result.names, folder / "confusion_matrix.png")


class BatchPictures:
    """Draws the first validation batches, labels and detections, in a thread of its own."""

    def __init__(self, folder: Path, names: dict[int, str], enabled: bool = True) -> None:
        self._folder, self._names, self._jobs = folder, names, JobQueue() if enabled else None

    def add(self, number: int, batch: Batch, detections: list[Tensor]) -> None:
        """Take note of a batch; `detections` are (n, 6) in pixels of the batch."""
        if self._jobs is None or number >= PICTURES:
            return
        picture = functools.partial(
            plot_batch, images=batch.images, file_names=batch.paths, names=self._names
        )
        stem = f"val_batch{number}"
        self._jobs.submit(
            functools.partial(picture, self._folder / f"{stem}_labels.jpg", targets=batch.targets)
        )
        self._jobs.submit(
            functools.partial(picture, self._folder / f"{stem}_pred.jpg", detections=detections)
        )

    def close(self) -> None:
        """Wait until everything is drawn."""
        if self._jobs is not None:
            self._jobs.close()


class LabelFiles:
    """Writes detections as label files: `class xc yc w h [conf]`, normalised to the source image."""

    def __init__(self, folder: Path, confidence: bool) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.count, self._confidence = folder, 0, confidence

    def add(self, result: ImageResult) -> None:
        """Write the file of one image, also when nothing was found."""
        height, width = result.shape
        boxes = xyxy_to_xywh(result.detections[:, :4]) / Tensor([width, height, width, height])
        lines = []
        for box, (confidence, category) in zip(boxes.tolist(), result.detections[:, 4:].tolist()):
            values = [*box, confidence] if self._confidence else box
            lines.append(f"{int(category)} " + " ".join(f"{value:g}" for value in values) + "\n")
        (self.folder / f"{Path(result.path).stem}.txt").write_text("".join(lines), encoding="utf-8")
        self.count += 1


def plot_study(rows: NDArray[np.floating], folder: Path) -> None:
    """Write and draw accuracy and speed over image sizes.

    Args:
        rows: (n, 8): image size, P, R, mAP50, mAP50-95, then milliseconds of pre-processing, inference, NMS.
    """
    header = "imgsz,P,R,mAP50,mAP50-95,preprocess_ms,inference_ms,nms_ms"
    np.savetxt(folder / "study.csv", rows, fmt="%.6g", delimiter=",", header=header, comments="")
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    style_axes(axes, "Accuracy against speed", "ms per image, inference", "mAP50-95")
    axes.plot(rows[:, 6], rows[:, 4], marker="o")
    for size, accuracy, milliseconds in rows[:, [0, 4, 6]]:
        axes.annotate(f"{size:.0f}", (milliseconds, accuracy), textcoords="offset points", xytext=(4, -10))
    save_figure(figure, folder / "study.png")
