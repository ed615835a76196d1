"""What the labels of a data set look like."""

from __future__ import annotations

from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from utils.palette import class_color
from utils.plots.canvas import (
    ACCENT,
    FAINT,
    class_label,
    hex_color,
    literal,
    new_figure,
    save_figure,
    style_axes,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

SHOWN_BOXES = 800
BOX_CANVAS = 700  # pixels
BINS = 40
NAMED_CLASSES = 80


def plot_labels(boxes: np.ndarray, names: dict[int, str], path: Path) -> None:
    """Draw how many labels each class has, boxes on top of each other, and how x, y, w, h go together.

    Args:
        boxes: (M, 5) class, cx, cy, w, h as fractions of the image; M may be 0.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 5)
    figure = new_figure(14, 7)
    outer = figure.add_gridspec(1, 2)
    left = outer[0].subgridspec(2, 1, height_ratios=(1, 1.3))
    _draw_counts(figure.add_subplot(left[0]), boxes[:, 0].astype(int), names)
    _draw_boxes(figure.add_subplot(left[1]), boxes)
    _draw_relations(figure, outer[1], boxes[:, 1:])
    save_figure(figure, path)


def _draw_counts(axes: Axes, classes: np.ndarray, names: dict[int, str]) -> None:
    count = max([*names, classes.max(initial=-1)], default=0) + 1
    heights = np.bincount(classes, minlength=count)
    axes.bar(range(count), heights, width=0.85, color=[hex_color(i) for i in range(count)])
    style_axes(axes, f"{len(classes):,} labels in {np.count_nonzero(heights)} of {count} classes", y="labels")
    axes.grid(visible=False, axis="x")
    axes.set_xlim(-0.7, count - 0.3)
    axes.set_ylim(0, max(heights.max(initial=0) * 1.05, 1))
    if count <= NAMED_CLASSES:
        labels = [literal(class_label(names.get(i, str(i)), i, 14)) for i in range(count)]
        axes.set_xticks(range(count), labels, rotation=90 if count > 6 else 0, fontsize=min(8, 480 / count))
    else:
        axes.set_xlabel("class")


def _draw_boxes(axes: Axes, boxes: np.ndarray) -> None:
    """Boxes around one common centre, so that shapes and sizes show; evenly picked when there are many."""
    canvas = np.full((BOX_CANVAS, BOX_CANVAS, 3), 255, dtype=np.uint8)
    chosen = boxes[np.linspace(0, len(boxes) - 1, min(len(boxes), SHOWN_BOXES)).astype(int)]
    large_first = np.argsort(-chosen[:, 3] * chosen[:, 4], kind="stable")
    for cls, _, _, width, height in chosen[large_first]:
        half = np.array([width, height]) * BOX_CANVAS / 2
        low, high = (BOX_CANVAS / 2 - half).astype(int), (BOX_CANVAS / 2 + half).astype(int)
        cv2.rectangle(canvas, low.tolist(), high.tolist(), class_color(int(cls)), 1, cv2.LINE_AA)
    axes.imshow(canvas[..., ::-1], extent=(-0.5, 0.5, 0.5, -0.5), interpolation="antialiased")
    style_axes(axes, f"Shapes of {len(chosen):,} labels, share of the image", grid=False)
    axes.set_xticks([-0.5, -0.25, 0, 0.25, 0.5], ["", "½", "0", "½", ""])
    axes.set_yticks([])


def _draw_relations(figure: Figure, place: SubplotSpec, values: np.ndarray) -> None:
    """Histograms of x, y, w, h on the diagonal, the density of each pair below it."""
    grid = place.subgridspec(4, 4, wspace=0.05, hspace=0.05)
    edges = np.linspace(0, 1, BINS + 1)
    names, ticks, texts = ("centre x", "centre y", "width", "height"), [0, 0.5, 1], ["0", "½", "1"]
    for column, row in combinations_with_replacement(range(4), 2):
        axes = figure.add_subplot(grid[row, column])
        if row == column:
            heights, _ = np.histogram(values[:, row], edges)
            axes.stairs(heights, edges, fill=True, color=ACCENT, alpha=0.8)
            axes.set_yticks([])
        else:
            density, _, _ = np.histogram2d(values[:, row], values[:, column], bins=(edges, edges))
            shade = np.sqrt(density)  # keeps the sparse parts visible
            axes.imshow(shade, cmap="Blues", origin="lower", extent=(0, 1, 0, 1), aspect="auto")
            axes.set_yticks(ticks, texts if column == 0 else [])
        axes.set_xlim(0, 1)
        axes.set_xticks(ticks, texts if row == 3 else [])
        x, y = names[column] if row == 3 else "", names[row] if column == 0 < row else ""
        style_axes(axes, x=x, y=y, grid=False)
        axes.tick_params(color=FAINT, length=3)
