"""Plots of pages: points with their names in the right margin, and bars."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.plots.canvas import ACCENT, FAINT, INK, literal, new_figure, shorten, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT, BOTTOM = 0.75, 0.5  # margins in inches; the names stand in the right one
LINE, LETTER = 0.17, 0.075  # inches of a line and of a letter of the names
NAME = 44  # letters of a name
# of curves, to be told apart by everyone: M. Okabe and K. Ito, Color universal design, 2008
COLORS = (ACCENT, "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", INK)


@dataclass(frozen=True)
class Point:
    """A named point; hollow ones are drawn as rings, without their name.

    Attributes:
        spread: of y, drawn to both sides; None: unknown.
        color: of the point and its name; empty: by `marked`.
    """

    name: str
    x: float
    y: float
    spread: float | None = None
    marked: bool = False
    hollow: bool = False
    color: str = ""


def scatter(
    points: Sequence[Point],
    title: str,
    x: str,
    y: str,
    *,
    width: float = 6.4,
    frontier: bool = False,
    diagonal: bool = False,
    level: float | None = None,
) -> Figure:
    """A scatter plot.

    Args:
        x, y: titles of the axes.
        width: of the figure in inches; it is high enough for the names.
        frontier: join the points that no other beats in both directions (small x, large y).
        diagonal: draw y = x.
        level: draw y = level.
    """
    named = [point for point in points if not point.hollow]
    figure, axes, height = _axes(named, title, width)
    for point in points:
        color = ACCENT if point.marked else FAINT if point.hollow else INK
        (dot, *_) = axes.errorbar(
            point.x, point.y, yerr=point.spread, fmt="o", color=color, elinewidth=1, capsize=3, zorder=3,
            fillstyle="none" if point.hollow else "full",
        )  # fmt: skip
        dot.set_gid(f"{point.name}: {point.x:.3f}, {point.y:.3f}")
    axes.margins(0.07)
    if frontier:
        best = pareto(points)
        axes.plot([p.x for p in best], [p.y for p in best], color=ACCENT, linestyle="--", linewidth=1)
    if diagonal:
        axes.axline((1, 1), slope=1, color=ACCENT, linestyle="--", linewidth=1)
    _finish(axes, named, (title, x, y), height, level)
    return figure


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x: str,
    y: str,
    *,
    width: float = 6.4,
    level: float | None = None,
) -> Figure:
    """Curves from (x, y) points, each with its name at its end; neighbours there have other colours.

    Args:
        x, y, width, level: as in `scatter`.
    """
    ranked = sorted(series, key=lambda name: -series[name][-1][1])
    colors = dict(zip(ranked, itertools.cycle(COLORS)))
    ends = [Point(name, *points[-1], color=colors[name]) for name, points in series.items()]
    figure, axes, height = _axes(ends, title, width)
    for end, points in zip(ends, series.values()):
        (drawn,) = axes.plot(
            *zip(*points), color=end.color, marker="o", linewidth=1.6, markersize=4, zorder=3
        )
        drawn.set_gid(f"{end.name}: {end.x:.0f}, {end.y:.3f}")
    axes.margins(0.07)
    _finish(axes, ends, (title, x, y), height, level)
    return figure


def _axes(named: Sequence[Point], title: str, width: float) -> tuple[Figure, Axes, float]:
    """A figure with empty axes, room for the names on their right, high enough for these; axes' height."""
    top = 0.4 if title else 0.1
    right = 0.3 + LETTER * max(len(shorten(point.name, NAME)) for point in named)
    height = max(4.2, top + BOTTOM + LINE * len(named))
    figure = new_figure(width, height, automatic=False)
    size = (1 - (LEFT + right) / width, 1 - (top + BOTTOM) / height)
    return figure, figure.add_axes((LEFT / width, BOTTOM / height, *size)), height - top - BOTTOM


def _finish(
    axes: Axes, named: Sequence[Point], titles: tuple[str, str, str], height: float, level: float | None
) -> None:
    if level is not None:
        axes.axhline(level, color=FAINT, linestyle="--", linewidth=1, zorder=1)
    style_axes(axes, *titles)
    _name(axes, named, LINE / height)


def _name(axes: Axes, points: Sequence[Point], gap: float) -> None:
    """Write the names into the right margin, each as near to the height of its point as the others allow."""
    axes.autoscale_view()  # which would otherwise wait for the drawing, and move the points
    low, high = axes.get_ylim()
    for point, height in zip(points, apart([(p.y - low) / (high - low) for p in points], gap)):
        axes.annotate(
            literal(shorten(point.name, NAME)),
            (point.x, point.y),
            (1.03, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=point.color or (ACCENT if point.marked else INK),
            arrowprops={
                "arrowstyle": "-",
                "color": FAINT,
                "linewidth": 0.5,
                "alpha": 0.7,
                "shrinkA": 2,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def bars(values: Mapping[str, float], title: str, x: str) -> Figure:
    """Horizontal bars, longest first."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure = new_figure(6.4, 0.9 + 0.24 * len(values))
    axes = figure.add_subplot()
    drawn = axes.barh(
        [literal(shorten(name, NAME)) for name, _ in ordered], [v for _, v in ordered], color=FAINT
    )
    axes.bar_label(drawn, fmt="%.2f", padding=4, color=INK, fontsize=9)
    axes.margins(x=0.12)
    style_axes(axes, title, x, grid=False)
    return figure


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats with a smaller x and a larger y, from left to right."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Heights from 0 to 1, moved so that no two are closer than `gap`, in the same order, none below 0."""
    order = sorted(range(len(heights)), key=lambda index: -heights[index])
    moved = list(heights)
    ceiling = 1.0
    for index in order:
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    floor = 0.0
    for index in reversed(order):
        moved[index] = max(moved[index], floor)
        floor = moved[index] + gap
    return moved
