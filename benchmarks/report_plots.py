"""Plots as SVG inside HTML: they take their colours from the page, so that they suit light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 640, 420
LEFT, RIGHT, TOP, BOTTOM = 62, 150, 14, 46  # margins; names stand to the right of their points
LINE = 24  # height of a bar with its gap


@dataclass(frozen=True)
class Point:
    """A named point; hollow ones are drawn as rings, without their name."""

    name: str
    x: float
    y: float
    marked: bool = False
    hollow: bool = False


@dataclass(frozen=True)
class Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis, about five."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [round(n * step, 10) for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def spanning(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis that holds the values with some room at both ends."""
    low, high = min(values), max(values)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, end)


def scatter(
    points: Sequence[Point], x_title: str, y_title: str, *, frontier: bool = False, diagonal: bool = False
) -> str:
    """A scatter plot.

    Args:
        frontier: join the points that no other beats in both directions (small x, large y).
        diagonal: draw y = x.
    """
    xs, ys = [p.x for p in points], [p.y for p in points]
    x_axis = spanning(xs, LEFT, WIDTH - RIGHT)
    y_axis = spanning(ys, HEIGHT - BOTTOM, TOP)
    parts = [*_grid(x_axis, y_axis), *_titles(x_title, y_title)]
    if diagonal:
        low, high = max(x_axis.low, y_axis.low), min(x_axis.high, y_axis.high)
        parts.append(_line(x_axis(low), y_axis(low), x_axis(high), y_axis(high), "guide"))
    if frontier:
        best = pareto(points)
        path = " ".join(f"{x_axis(p.x):.1f},{y_axis(p.y):.1f}" for p in best)
        parts.append(f'<polyline class="guide" points="{path}"/>')
    named = [point for point in points if not point.hollow]
    heights = apart([y_axis(point.y) for point in named])
    for point in points:
        kind = "ring" if point.hollow else "marked dot" if point.marked else "dot"
        hint = f"<title>{escape(point.name)}: {point.x:.3f}, {point.y:.3f}</title>"
        place = f'cx="{x_axis(point.x):.1f}" cy="{y_axis(point.y):.1f}"'
        parts.append(f'<circle class="{kind}" {place} r="4.5">{hint}</circle>')
    edge = WIDTH - RIGHT + 6
    for point, height in zip(named, heights):
        parts.append(_line(x_axis(point.x) + 5, y_axis(point.y), edge, height, "leader"))
        parts.append(f'<text x="{edge + 3}" y="{height + 4:.1f}">{escape(short(point.name))}</text>')
    return _svg(parts, WIDTH, HEIGHT, f"{y_title} against {x_title}")


def bars(values: Mapping[str, float], title: str) -> str:
    """Horizontal bars, longest first."""
    height = len(values) * LINE + BOTTOM
    axis = Axis(0, max(values.values()) * 1.12, 190, WIDTH - 10)
    parts = []
    for number, (name, value) in enumerate(sorted(values.items(), key=lambda item: -item[1])):
        top = number * LINE + 4
        parts.append(f'<text x="184" y="{top + 14}" text-anchor="end">{escape(short(name))}</text>')
        parts.append(
            f'<rect class="bar" x="190" y="{top}" width="{axis(value) - 190:.1f}" height="{LINE - 6}"/>'
        )
        parts.append(f'<text x="{axis(value) + 4:.1f}" y="{top + 14}">{value:.2f}</text>')
    parts.append(f'<text class="title" x="190" y="{height - 12}">{escape(title)}</text>')
    return _svg(parts, WIDTH, height, title)


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats with a smaller x and a larger y, from left to right."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.x, -p.y)):
        if not best or point.y > best[-1].y:
            best.append(point)
    return best


def apart(heights: Sequence[float], gap: float = 15) -> list[float]:
    """The heights, moved so that no two are closer than `gap`, in the same order and within the plot."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = list(heights)
    for before, after in pairwise(order):
        moved[after] = max(moved[after], moved[before] + gap)
    floor: float = HEIGHT - BOTTOM
    for index in reversed(order):
        moved[index] = min(moved[index], floor)
        floor = moved[index] - gap
    return moved


def short(name: str) -> str:
    """A variant's name without what most of them share."""
    return name.removeprefix("yolov5n-")


def _grid(x_axis: Axis, y_axis: Axis) -> list[str]:
    parts = []
    for value in x_axis.ticks():
        x = x_axis(value)
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM, "grid"))
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{value:g}</text>')
    for value in y_axis.ticks():
        y = y_axis(value)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "grid"))
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    return parts


def _titles(x_title: str, y_title: str) -> list[str]:
    x, y = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    below, beside = f'x="{x}" y="{HEIGHT - 8}"', f'transform="translate(14 {y}) rotate(-90)"'
    titles = ((below, x_title), (beside, y_title))
    return [
        f'<text class="title" {place} text-anchor="middle">{escape(title)}</text>' for place, title in titles
    ]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _svg(parts: Sequence[str], width: int, height: int, label: str) -> str:
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">\n{body}\n</svg>'
