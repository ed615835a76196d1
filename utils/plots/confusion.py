"""The confusion matrix as a heat map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.evaluation.metrics import ConfusionMatrix
from utils.plots.canvas import INK, class_label, new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERED_CLASSES = 30  # with more classes the cells are too small for numbers
LABELLED_CLASSES = 100  # with more classes their names would overlap


def plot_confusion_matrix(confusion: ConfusionMatrix, names: dict[int, str], path: Path) -> None:
    """Draw which share of each true class (a column) was predicted as which class (a row)."""
    matrix = confusion.matrix
    share = matrix / np.maximum(matrix.sum(axis=0, keepdims=True), 1)
    labels = [class_label(names.get(i, str(i)), i, 20) for i in range(confusion.nc)] + ["background"]
    side = min(max(3.0, 0.45 * len(labels)), 11.0)  # inches of the map itself
    fontsize = min(9.0, 50 * side / len(labels))  # the height of a row in points, less a gap
    labelled = len(labels) <= LABELLED_CLASSES + 1
    margin = 0.55 + (max(map(len, labels)) * fontsize * 0.6 / 72 if labelled else 0.1)
    width, height = margin + side + 1.1, margin + side + 0.45
    figure = new_figure(width, height, dpi=100, automatic=False)
    axes = figure.add_axes((margin / width, margin / height, side / width, side / height))
    image = axes.imshow(np.where(share > 0, share, np.nan), cmap="Blues", vmin=0, vmax=1)
    style_axes(axes, "Predictions of each true class", grid=False)
    axes.set_xticks([])
    axes.set_yticks([])
    middle = (margin + side / 2) / width, (margin + side / 2) / height
    figure.text(middle[0], 0.2 / height, "true class", ha="center", color=INK)
    figure.text(0.2 / width, middle[1], "predicted class", va="center", rotation=90, color=INK)
    if labelled:
        _label(axes, labels, fontsize)
    if confusion.nc <= NUMBERED_CLASSES:
        _number(axes, share, fontsize=min(10.0, 20 * side / len(labels)))
    bar_place = ((margin + side + 0.2) / width, (margin + side / 4) / height, 0.15 / width, side / 2 / height)
    bar = figure.colorbar(image, cax=figure.add_axes(bar_place))
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=INK, labelsize=9)
    save_figure(figure, path)


def _label(axes: Axes, labels: list[str], fontsize: float) -> None:
    """Names beside rows and columns, as plain texts: ticks take five times as long to draw."""
    edge = len(labels) - 0.5
    for place, label in enumerate(labels):
        row = axes.text(-0.5, place, f"{label} ", ha="right", va="center_baseline")
        column = axes.text(place, edge, f"{label} ", ha="center", va="top", rotation=90)
        for text in (row, column):
            text.set(fontsize=fontsize, color=INK, parse_math=False)


def _number(axes: Axes, share: np.ndarray, fontsize: float) -> None:
    for row, column in np.argwhere(share >= 0.005):
        value = share[row, column]
        color = "white" if value > 0.5 else INK
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=fontsize, color=color)
