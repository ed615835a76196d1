"""Precision, recall and F1 by confidence, and precision by recall."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.evaluation.metrics import GRID, ClassMetrics
from utils.plots.canvas import (
    FAINT,
    INK,
    class_label,
    hex_color,
    literal,
    new_figure,
    save_figure,
    style_axes,
)

NAMED_CLASSES = 20  # up to this many classes have a colour and a line in the legend
STEP = 4  # of the 1000 points of a curve, every fourth is drawn: a pixel apart


def plot_curves(metrics: ClassMetrics, folder: Path) -> None:
    """Draw `PR_curve.png`, `F1_curve.png`, `P_curve.png` and `R_curve.png`."""
    curves = metrics.curves
    titles = ("Precision by recall", "recall", "precision")
    labels = [f"{value:.3f}" for value in metrics.ap[:, 0]]
    summary = f"{metrics.means()['mAP50']:.3f} mAP at IoU 0.5"
    _plot(metrics, curves["precision_by_recall"], labels, summary, titles, folder / "PR_curve.png")
    for letter, name in (("F1", "F1"), ("P", "precision"), ("R", "recall")):
        values = curves[name.lower()]
        titles = (f"{name.capitalize()} by confidence", "confidence", name)
        labels = [f"{value:.2f}" for value in values.max(axis=1)]
        mean = _mean(values)
        summary = f"{mean.max():.2f} at {GRID[mean.argmax()]:.3f}"
        _plot(metrics, values, labels, summary, titles, folder / f"{letter}_curve.png")


def _plot(
    metrics: ClassMetrics,
    values: np.ndarray,
    labels: list[str],
    summary: str,
    titles: tuple[str, str, str],
    path: Path,
) -> None:
    """One curve for each class and a bold mean.

    Args:
        values: (C, 1000) over `GRID`.
        labels: what the legend says after a class's name.
        summary: the same for the mean.
        titles: of the figure, the horizontal and the vertical axis.
    """
    named = len(values) <= NAMED_CLASSES
    figure = new_figure(9, 5, automatic=False)
    axes = figure.add_axes((0.075, 0.11, 0.62 if named else 0.895, 0.8))
    if named:
        for row, label in enumerate(labels):
            number = int(metrics.classes[row])
            color, name = hex_color(number), class_label(metrics.name(row), number)
            text = f"{literal(name)}  {label}"
            axes.plot(GRID[::STEP], values[row, ::STEP], color=color, linewidth=1.2, alpha=0.85, label=text)
    else:
        lines = axes.plot(GRID[::STEP], values[:, ::STEP].T, color=FAINT, linewidth=0.6, alpha=0.7)
        lines[0].set_label(f"{len(values)} classes")
    axes.plot(GRID, _mean(values), color=INK, linewidth=3, label=f"all classes  {summary}")
    style_axes(axes, *titles)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    if named:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.01), fontsize=9, frameon=False)
    else:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.99), ncols=2, fontsize=9, frameon=False)
    save_figure(figure, path)


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=0) if len(values) else np.zeros(len(GRID))
