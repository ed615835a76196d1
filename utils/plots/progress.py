"""Losses and metrics by epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
    figure = new_figure(16, 6)
    epochs = table["epoch"].to_numpy(float) if "epoch" in table else np.arange(len(table), dtype=float)
    for axes, (title, column) in zip(figure.subplots(2, 5).flat, PANELS):
        values = pd.to_numeric(table[column], errors="coerce").to_numpy(float)
        smooth = len(values) > 2 * WINDOW
        axes.plot(
            epochs,
            values,
            color=FAINT if smooth else ACCENT,
            linewidth=1.2 if smooth else 2,
            marker="o" if len(values) <= 2 * WINDOW else None,
            markersize=4,
        )
        if smooth:
            axes.plot(epochs, _running_mean(values), color=ACCENT, linewidth=2.2)
        style_axes(axes, title)
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.supxlabel("epoch", fontsize=10)
    save_figure(figure, path)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean of `WINDOW` values; at the ends and beside gaps, of those that exist."""
    known = np.isfinite(values)
    kernel = np.ones(WINDOW)
    total = np.convolve(np.where(known, values, 0.0), kernel, mode="same")
    count = np.convolve(known.astype(float), kernel, mode="same")
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
