"""The drawings of the page of `dataset.py check`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from curation.survey import Survey
from utils.plots.canvas import ACCENT, FAINT, INK, class_label, hex_color, literal, new_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = ("o", "D", "^")  # of the splits
NAMED = 60  # classes that a drawing names; of more, the most frequent and the rarest
CELLS = 48  # of a map
WIDTH = 4.8  # inches: as wide as a telephone, so that letters keep their size there


def class_balance(survey: Survey) -> Figure:
    """Boxes of each class, a mark for each split."""
    counts = survey.counts
    order = np.argsort(counts.sum(axis=0), kind="stable")
    if len(order) > NAMED:
        order = np.concatenate([order[: NAMED // 2], order[-NAMED // 2 :]])
    figure = new_figure(WIDTH, 1.1 + 0.18 * len(order))
    axes = figure.add_subplot()
    rows = np.arange(len(order))
    axes.hlines(rows, 0, counts[:, order].max(axis=0), color=FAINT, linewidth=0.6)
    for split, marker, color, row in zip(survey.splits, MARKERS, (INK, ACCENT, FAINT), counts):
        axes.plot(row[order], rows, marker, color=color, markersize=4.5, label=split, clip_on=False, zorder=3)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(left=0)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    labels = [literal(class_label(survey.names[int(number)], int(number))) for number in order]
    axes.set_yticks(rows, labels, fontsize=8)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=len(survey.splits),
        frameon=False,
        fontsize=8,
        labelcolor=INK,
    )
    style_axes(axes, "", "boxes")
    axes.grid(visible=False, axis="y")
    return figure


def box_sizes(survey: Survey) -> Figure:
    """Widths and heights at the size of training, with anchors and the cells of each stride."""
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    sizes = np.maximum(survey.trained_sizes, 0.5)
    edges = np.geomspace(1, max(survey.imgsz * 1.1, sizes.max(initial=1)), CELLS + 1)
    density, _, _ = np.histogram2d(
        sizes[:, 1].clip(edges[0]), sizes[:, 0].clip(edges[0]), bins=(edges, edges)
    )
    axes.pcolormesh(edges, edges, _veil(density), shading="flat", rasterized=True)
    for level, (stride, anchors) in enumerate(zip(survey.geometry.strides, survey.geometry.anchors)):
        color = hex_color(level)
        label = f"stride {stride:g}"
        axes.plot(anchors[:, 0], anchors[:, 1], "x", color=color, markersize=7, label=label, zorder=3)
        axes.plot([1, stride, stride], [stride, stride, 1], color=color, linewidth=1, linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.0f}")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(edges[0], edges[-1])
    if len(survey.geometry.strides):
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="upper left")
    style_axes(axes, "", f"width, px at {survey.imgsz}", "height, px")
    return figure


def positions(survey: Survey) -> Figure:
    """Where the centres of the boxes lie, in shares of the picture."""
    figure = new_figure(WIDTH, 4.2)
    axes = figure.add_subplot()
    edges = np.linspace(0, 1, CELLS + 1)
    density, _, _ = np.histogram2d(survey.boxes[:, 2], survey.boxes[:, 1], bins=(edges, edges))
    axes.pcolormesh(edges, edges, _veil(density), shading="flat", rasterized=True)
    axes.invert_yaxis()
    style_axes(axes, "", "across", "down")
    return figure


def levels(survey: Survey, level: np.ndarray) -> Figure:
    """Share of the boxes on each level.

    Args:
        level: (M,) int, that of each box's best anchor.
    """
    shares = np.bincount(level, minlength=len(survey.geometry.strides)) * (100 / max(len(level), 1))
    figure = new_figure(WIDTH, 0.9 + 0.34 * len(shares))
    axes = figure.add_subplot()
    names = [f"stride {stride:g}" for stride in survey.geometry.strides]
    drawn = axes.barh(names, shares, color=FAINT)
    axes.bar_label(drawn, fmt="%.1f %%", padding=4, color=INK, fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    style_axes(axes, "", "% of the boxes", grid=False)
    return figure


def _veil(density: np.ndarray) -> np.ndarray:
    """(h, w) counts as (h, w, 4) colours that show on light and dark ground: one hue, more or less of it."""
    share = np.log1p(density) / max(np.log1p(density.max(initial=0)), 1e-9)
    colors = np.empty((*density.shape, 4))
    colors[..., :3] = (0.24, 0.49, 0.93)
    colors[..., 3] = np.where(density > 0, 0.15 + 0.85 * share, 0)
    return colors
