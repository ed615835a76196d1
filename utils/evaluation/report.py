"""What validation leaves: the class table, `metrics.json`, label files and plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.console import LOGGER
from utils.detections.saving import NamesApart, label_rows
from utils.evaluation.evaluate import Evaluation, ImageResult
from utils.evaluation.metrics import SUMMARY
from utils.files import atomic_write, write_text
from utils.plots.canvas import new_figure, save_figure, style_axes
from utils.plots.confusion import plot_confusion_matrix
from utils.plots.curves import plot_curves

MANY_CLASSES = 50  # beyond that the table has its own row for a class only with --verbose


def class_table(result: Evaluation, verbose: bool = False) -> str:
    """A line for all classes together and one for each class that has labels."""
    rows = [("all", result.report)]
    if verbose or 1 < len(result.metrics.names) <= MANY_CLASSES:
        rows += result.report["classes"].items()
    lines = [f"{'Class':>22}{'Images':>11}{'Instances':>11}{'P':>11}{'R':>11}{'mAP50':>11}{'mAP50-95':>11}"]
    for name, numbers in rows:
        values = "".join(f"{numbers[key]:>11.3g}" for key in SUMMARY)
        lines.append(f"{name:>22}{result.report['images']:>11}{numbers['labels']:>11}{values}")
    return "\n".join(lines)


def report_validation(result: Evaluation, folder: Path, plots: bool = True, verbose: bool = False) -> None:
    """Print the class table and the speeds, write `metrics.json`, and draw curves and confusion matrix."""
    LOGGER.info(class_table(result, verbose))
    speeds = ", ".join(f"{ms:.1f} ms {stage}" for stage, ms in result.report["speed_ms_per_image"].items())
    LOGGER.info(f"speed: {speeds} per image")
    with atomic_write(folder / "metrics.json") as file:
        file.write(json.dumps(result.report, indent=1).encode())
    if plots:
        plot_curves(result.metrics, folder)
        plot_confusion_matrix(result.confusion, result.metrics.names, folder / "confusion_matrix.png")


class LabelFiles:
    """Writes the detections on each image as a label file, an empty one when nothing was found.

    Args:
        folder: is created.
        paths: of all images; `a_2.txt` belongs to the second of them with the name `a`.
    """

    def __init__(self, folder: Path, paths: Sequence[str], confidences: bool) -> None:
        names = NamesApart()
        self._names = {path: names.take(Path(path).stem) for path in paths}
        self._folder, self._confidences = folder, confidences
        folder.mkdir(exist_ok=True)

    def write(self, result: ImageResult) -> None:
        rows = label_rows(result.detections.numpy(), result.shape, confidences=self._confidences)
        write_text(self._folder / f"{self._names[result.path]}.txt", rows, durable=False)


def plot_study(rows: NDArray[np.floating], folder: Path) -> None:
    """Write and draw accuracy and speed over image sizes.

    Args:
        rows: (n, 8): image size, P, R, mAP50, mAP50-95, then milliseconds of pre-processing, inference, NMS.
    """
    header = "imgsz,P,R,mAP50,mAP50-95,preprocess_ms,inference_ms,nms_ms"
    lines = (",".join(f"{value:.6g}" for value in row) for row in rows)
    write_text(folder / "study.csv", "\n".join((header, *lines, "")))
    figure = new_figure(8, 5)
    axes = figure.add_subplot()
    style_axes(axes, "Accuracy against speed", "ms per image, inference", "mAP50-95")
    axes.plot(rows[:, 6], rows[:, 4], marker="o")
    for size, accuracy, milliseconds in rows[:, [0, 4, 6]]:
        axes.annotate(f"{size:.0f}", (milliseconds, accuracy), textcoords="offset points", xytext=(4, -10))
    save_figure(figure, folder / "study.png")
