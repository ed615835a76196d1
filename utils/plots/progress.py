"""Losses and metrics by epoch."""

from __future__ import annotations

import math
from pathlib import Path

from utils.plots.canvas import ACCENT, FAINT, new_figure, save_figure, style_axes

# (title, column) of each panel, row by row
PANELS = (
    ("box loss, training", "train/box_loss"),
    ("objectness loss, training", "train/obj_loss"),
    ("class loss, training", "train/cls_loss"),
    ("precision", "metrics/precision"),
    ("recall", "metrics/recall"),
    ("box loss, validation", "val/box_loss"),
    ("objectness loss, validation", "val/obj_loss"),
    ("class loss, validation", "val/cls_loss"),
    ("mAP at IoU 0.5", "metrics/mAP_0.5"),
    ("mAP at IoU 0.5:0.95", "metrics/mAP_0.5:0.95"),
)
OF_TEACHER = ("the teacher's error, training", "train/teacher_error")  # of runs with a teacher
WINDOW = 5  # epochs in the running mean


def plot_results(results: Path, path: Path) -> None:
    """Draw the columns of a run's `results.csv`.

    Raises:
        ValueError: a column is missing, or there is no row.
    """
    import pandas as pd

    table = pd.read_csv(results, skipinitialspace=True)
    missing = [column for _, column in PANELS if column not in table]
    if missing or table.empty:
        raise ValueError(f"{results}: " + (f"no column {missing[0]!r}" if missing else "no epochs"))
    panels = [*PANELS[:5], OF_TEACHER, *PANELS[5:]] if OF_TEACHER[1] in table else PANELS
    columns = math.ceil(len(panels) / 2)
    figure = new_figure(3.2 * columns, 6)
    epochs = table.get("epoch", table.index)
    smooth = len(table) > 2 * WINDOW
    look = {"color": FAINT, "linewidth": 1.2} if smooth else {"color": ACCENT, "linewidth": 2, "marker": "o"}
    grid = list(figure.subplots(2, columns).flat)
    for axes in grid[len(panels) :]:
        axes.remove()
    for axes, (title, column) in zip(grid, panels):
        values = pd.to_numeric(table[column], errors="coerce")
        axes.plot(epochs, values, markersize=4, **look)
        if smooth:
            mean = values.rolling(WINDOW, center=True, min_periods=1).mean()
            axes.plot(epochs, mean, color=ACCENT, linewidth=2.2)
        style_axes(axes, title)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel("epoch", fontsize=10)
    save_figure(figure, path)
