"""The plot of accuracy against GFLOPs: numbered points, and a list of their names beside them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.comparison import Comparison, Variant
from utils.plots.canvas import ACCENT, FAINT, INK, literal, new_figure, save_figure, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches; 990 pixels
MARKER = 9.0  # diameter of a point in pixels
LABEL = (19.0, 15.0)  # width and height of a number in pixels
ROW = 0.205  # inches a line of the list

Point = tuple[float, float]  # x, y in pixels from the lower left
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


def plot_comparison(comparison: Comparison, imgsz: int, path: Path) -> None:
    """Draw mAP50-95, with its sd where there are several seeds, against GFLOPs at `imgsz` pixels, as a png.

    The file at `path` is replaced when the picture is complete.
    """
    variants = comparison.variants
    height = max(5.4, 1.0 + ROW * len(variants))
    figure = new_figure(WIDTH, height, automatic=False)
    axes = figure.add_axes((0.085, 0.55 / height, 0.565, 1 - 1.0 / height))
    for variant in variants:
        _draw_point(axes, variant, ACCENT if variant == comparison.baseline else INK)
    axes.axhline(comparison.baseline.map50_95.mean, color=FAINT, linewidth=1, linestyle="--", zorder=1)
    axes.margins(0.07)
    style_axes(axes, "Accuracy against operations", f"GFLOPs at {imgsz} px", "mAP50-95 at the best epoch")
    _number_points(axes, variants)
    for rank, variant in enumerate(variants, start=1):
        baseline = variant == comparison.baseline
        figure.text(
            *(0.665, 1 - (0.5 + ROW * rank) / height),
            f"{rank:>2}  {variant.map50_95.mean:.3f}  {literal(shorten(variant.name, 32))}",
            color=ACCENT if baseline else INK,
            fontweight="bold" if baseline else "normal",
            fontsize=8.5,
            family="monospace",
        )
    _save(figure, path)


def _draw_point(axes: Axes, variant: Variant, color: str) -> None:
    score = variant.map50_95
    axes.errorbar(
        variant.facts.gflops,
        score.mean,
        yerr=score.sd,
        color=color,
        marker="o",
        markersize=MARKER * 72 / axes.figure.dpi,
        elinewidth=1,
        capsize=3,
        zorder=3,
    )


def _number_points(axes: Axes, variants: tuple[Variant, ...]) -> None:
    """Write the rank of every variant beside its point, with a line to it when there was no room near."""
    axes.autoscale_view()  # which would otherwise wait for the drawing, and move the points

    def pixels(variant: Variant, sds: int = 0) -> Point:
        score = variant.map50_95
        x, y = axes.transData.transform((variant.facts.gflops, score.mean + sds * (score.sd or 0.0)))
        return float(x), float(y)

    points = [pixels(variant) for variant in variants]
    bars = [(x - 3, pixels(v, -1)[1], x + 3, pixels(v, 1)[1]) for v, (x, _) in zip(variants, points)]
    x1, y1, x2, y2 = axes.get_window_extent().extents
    labels = place_labels(points, (float(x1), float(y1), float(x2), float(y2)), bars)
    for rank, (point, label) in enumerate(zip(points, labels), start=1):
        axes.annotate(
            str(rank),
            point,
            label,
            xycoords="figure pixels",
            textcoords="figure pixels",
            ha="center",
            va="center",
            fontsize=8.5,
            color=INK,
            arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3}
            if math.dist(point, label) > 20
            else None,
        )


def place_labels(points: Sequence[Point], area: Box, bars: Sequence[Box] = ()) -> list[Point]:
    """Centres of labels of size `LABEL` beside `points`, all in pixels, that hide nothing if possible.

    One after the other, every label takes the nearest place, on rings of twelve around its point, that is
    free of points, bars and earlier labels and inside `area`; where there is none, the least covered one.

    Args:
        points: (x, y) of each.
        bars: what else should stay visible.
    """
    taken: list[Box] = [*bars, *(_box(point, (MARKER, MARKER)) for point in points)]
    labels: list[Point] = []
    for x, y in points:
        candidates = [
            (x + radius * math.cos(angle), y + radius * math.sin(angle))
            for radius in (16.0, 23.0, 32.0, 43.0, 55.0, 70.0)
            for angle in (math.tau * step / 12 for step in range(12))
        ]
        boxes = [_box(candidate, LABEL) for candidate in candidates]
        costs = [sum(_overlap(b, other) for other in taken) + _outside(b, area) for b in boxes]
        choice = costs.index(min(costs))  # the first of equals is the nearest
        labels.append(candidates[choice])
        taken.append(boxes[choice])
    return labels


def _box(centre: Point, size: tuple[float, float]) -> Box:
    (x, y), (w, h) = centre, size
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def _overlap(a: Box, b: Box) -> float:
    """Area in pixels that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(width, 0.0) * max(height, 0.0)


def _outside(box: Box, area: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, area)


def _save(figure: Figure, path: Path) -> None:
    """Write the picture beside `path` and then in its place."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        whole = Path(folder) / path.name
        save_figure(figure, whole)
        whole.replace(path)
