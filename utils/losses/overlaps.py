"""How much a predicted box and its label overlap, by ten measures: the bases of box losses.

A measure is a likeness of the two, at most 1, less some penalties, each at least 0. Its function returns
these terms one by one, as some of what is done to a loss (`composition.py`) is done to each of them. Every
measure is 1 for equal boxes, and the loss is 1 - measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import sub

import torch
from torch import Tensor

from utils.boxes import EPS
from utils.losses.grammar import Number, Part

SHAPE_EXPONENT = 4  # of SIoU and Shape-IoU: how steeply differing sides are punished; both advise 4
Terms = tuple[Tensor, ...]  # the likeness, then the penalties


@dataclass(frozen=True)
class PairGeometry:
    """What is measured of a predicted box, the first of a pair, and its label. Tensors are (...,).

    `image` is the width and height of the image in the unit of the boxes, which MPDIoU needs, and `pixels`
    how many pixels that unit is, which NWD needs.
    """

    w1: Tensor
    h1: Tensor
    w2: Tensor
    h2: Tensor
    iou: Tensor
    union: Tensor
    dx: Tensor  # centre of the second box minus centre of the first
    dy: Tensor
    hull_w: Tensor  # sides of the smallest box around both
    hull_h: Tensor
    image: tuple[float, float] | None = None
    pixels: float | None = None

    @classmethod
    def of(
        cls,
        box1: Tensor,
        box2: Tensor,
        image: tuple[float, float] | None = None,
        pixels: float | None = None,
    ) -> PairGeometry:
        """Measure xywh boxes (..., 4) pair by pair, in any unit; they broadcast."""
        x1, y1, w1, h1 = box1.unbind(-1)
        x2, y2, w2, h2 = box2.unbind(-1)
        return cls._of_sides(x2 - x1, y2 - y1, (w1, h1, w2, h2), image, pixels)

    def inner(self, ratio: float) -> PairGeometry:
        """The pair with all sides times `ratio` around the same centres."""
        sides = (self.w1 * ratio, self.h1 * ratio, self.w2 * ratio, self.h2 * ratio)
        return self._of_sides(self.dx, self.dy, sides, self.image, self.pixels)

    @classmethod
    def _of_sides(
        cls,
        dx: Tensor,
        dy: Tensor,
        sides: tuple[Tensor, Tensor, Tensor, Tensor],
        image: tuple[float, float] | None,
        pixels: float | None,
    ) -> PairGeometry:
        w1, h1, w2, h2 = sides
        shared_w, hull_w = _span(dx, w1, w2)
        shared_h, hull_h = _span(dy, h1, h2)
        shared = shared_w.clamp(min=0) * shared_h.clamp(min=0)
        union = w1 * h1 + w2 * h2 - shared + EPS
        return cls(w1, h1, w2, h2, shared / union, union, dx, dy, hull_w, hull_h, image, pixels)


def _span(offset: Tensor, side1: Tensor, side2: Tensor) -> tuple[Tensor, Tensor]:
    """Along one axis: length shared by two intervals (negative when apart) and length that covers both."""
    half1, half2 = side1 / 2, side2 / 2
    shared = torch.minimum(half1, offset + half2) - torch.maximum(-half1, offset - half2)
    hull = torch.maximum(half1, offset + half2) - torch.minimum(-half1, offset - half2)
    return shared, hull


BASES: dict[str, Part] = {}


def base(name: str, **numbers: Number) -> Callable[[Callable[..., Terms]], Callable[..., Terms]]:
    """Make a measure known by its name: a function of a `PairGeometry` and its numbers."""

    def known(function: Callable[..., Terms]) -> Callable[..., Terms]:
        BASES[name] = Part(name, function, numbers)
        return function

    return known


def measure(terms: Sequence[Tensor]) -> Tensor:
    """The likeness less the penalties, (...,)."""
    return reduce(sub, terms)


@base("IoU")
def _iou(pair: PairGeometry) -> Terms:
    """Shared area over united area (Yu et al., UnitBox, 2016, arXiv:1608.01471, whose loss is its -log).

    Boxes that do not touch have no gradient: it says nothing of where the label is.
    """
    return (pair.iou,)


@base("GIoU")
def _giou(pair: PairGeometry) -> Terms:
    """IoU - |hull without both| / |hull| (Rezatofighi et al., 2019, arXiv:1902.09630)."""
    hull = pair.hull_w * pair.hull_h + EPS
    return pair.iou, (hull - pair.union) / hull


@base("DIoU")
def _diou(pair: PairGeometry) -> Terms:
    """IoU - centre distance² / hull diagonal² (Zheng et al., 2020, arXiv:1911.08287)."""
    distance = pair.dx.square() + pair.dy.square()
    return pair.iou, distance / (pair.hull_w.square() + pair.hull_h.square() + EPS)


@base("CIoU")
def _ciou(pair: PairGeometry) -> Terms:
    """DIoU - a v, v = (2/π difference of the angles of the diagonals)², a = v / (1 - IoU + v) (same paper).

    The weight a carries no gradient, as the paper has it.
    """
    angle = torch.atan(pair.w2 / (pair.h2 + EPS)) - torch.atan(pair.w1 / (pair.h1 + EPS))
    aspect = (2 / math.pi * angle).square()
    weight = (aspect / (aspect - pair.iou + 1 + EPS)).detach()
    return *_diou(pair), weight * aspect


@base("EIoU")
def _eiou(pair: PairGeometry) -> Terms:
    """DIoU - (Δw / hull width)² - (Δh / hull height)² (Zhang et al., 2021, arXiv:2101.08158)."""
    width = (pair.w2 - pair.w1).square() / (pair.hull_w.square() + EPS)
    height = (pair.h2 - pair.h1).square() / (pair.hull_h.square() + EPS)
    return *_diou(pair), width, height


@base("SIoU")
def _siou(pair: PairGeometry) -> Terms:
    """IoU - (distance cost + shape cost) / 2 (Gevorgyan, 2022, arXiv:2205.12740).

    The paper's angle cost, 1 - 2 sin²(arcsin(sin a) - 45°) for the angle a between the line of centres and an
    axis, is sin 2a = 2 sin a cos a; so written it needs no arcsin, whose slope is infinite at 90°. All three
    costs carry gradients.
    """
    dx2, dy2 = pair.dx.square(), pair.dy.square()
    angle = 2 * (pair.dx * pair.dy).abs() / (dx2 + dy2 + EPS)
    sharpness = 2 - angle
    distance = -torch.expm1(-sharpness * dx2 / (pair.hull_w.square() + EPS))
    distance = distance - torch.expm1(-sharpness * dy2 / (pair.hull_h.square() + EPS))
    return pair.iou, (distance + _shape_cost(pair, 1, False) + _shape_cost(pair, 1, True)) / 2


def _shape_cost(pair: PairGeometry, weight: Tensor | float, upright: bool) -> Tensor:
    """(1 - e^(-weight |difference| / larger side))^4, of the widths or of the heights."""
    side1, side2 = (pair.h1, pair.h2) if upright else (pair.w1, pair.w2)
    differing = (side1 - side2).abs() / (torch.maximum(side1, side2) + EPS)
    return (-torch.expm1(-weight * differing)) ** SHAPE_EXPONENT


@base("MPDIoU")
def _mpdiou(pair: PairGeometry) -> Terms:
    """IoU - (distance² of the top-left corners + of the bottom-right ones) / image diagonal² (Ma and Xu,
    2023, arXiv:2307.07662).

    With centres dx, dy and half sides dw, dh apart, the corners are (dx - dw, dy - dh) and (dx + dw, dy + dh)
    apart; the squares add up to 2 (dx² + dy² + dw² + dh²).
    """
    if pair.image is None:
        raise ValueError("MPDIoU needs the image's width and height")
    width, height = pair.image
    half_w, half_h = (pair.w2 - pair.w1) / 2, (pair.h2 - pair.h1) / 2
    apart = 2 * (pair.dx.square() + pair.dy.square() + half_w.square() + half_h.square())
    return pair.iou, apart / (width**2 + height**2)


@base("Shape-IoU", scale=Number(0.0, 0.0, 3.0))
def _shape_iou(pair: PairGeometry, scale: float) -> Terms:
    """IoU - distance - shape / 2, weighted by the label's sides (Zhang and Zhang, 2023, arXiv:2312.17663).

    With W = 2 w^scale / (w^scale + h^scale) and H likewise of the label, distance = (H dx² + W dy²) / hull
    diagonal², shape = Σ (1 - e^-ω)^4, ω = H |Δw| / larger width and W |Δh| / larger height. `scale` is the
    paper's factor that follows the size of a data set's objects; at 0 both weights are 1.
    """
    w, h = pair.w2**scale, pair.h2**scale
    wide, high = 2 * w / (w + h + EPS), 2 * h / (w + h + EPS)
    distance = high * pair.dx.square() + wide * pair.dy.square()
    distance = distance / (pair.hull_w.square() + pair.hull_h.square() + EPS)
    return pair.iou, distance, (_shape_cost(pair, high, False) + _shape_cost(pair, wide, True)) / 2


@base("PIoU")
def _piou(pair: PairGeometry) -> Terms:
    """Powerful-IoU: IoU - (1 - e^(-P²)) (Liu et al., 2024, doi:10.1016/j.neunet.2023.11.041)."""
    return pair.iou, -torch.expm1(-edge_distance(pair).square())


def edge_distance(pair: PairGeometry) -> Tensor:
    """P of Powerful-IoU: the mean distance of the four edges from the label's, in sides of the label."""
    half_w, half_h = (pair.w2 - pair.w1) / 2, (pair.h2 - pair.h1) / 2
    across = ((pair.dx - half_w).abs() + (pair.dx + half_w).abs()) / (pair.w2 + EPS)
    down = ((pair.dy - half_h).abs() + (pair.dy + half_h).abs()) / (pair.h2 + EPS)
    return (across + down) / 4


@base("NWD", c=Number(12.8, 0.1, 10_000.0))
def nwd(pair: PairGeometry, c: float) -> Terms:
    """e^(-W / c), W² = dx² + dy² + (Δw² + Δh²) / 4, in pixels (Wang et al., 2021, arXiv:2110.13389).

    W is the Wasserstein distance of the normal distributions that boxes stand for. `c` is to be near the mean
    size of a data set's objects, in pixels of the picture as the network sees it; 12.8 is that of AI-TOD.
    """
    if pair.pixels is None:
        raise ValueError("NWD needs to know how many pixels the unit of the boxes is")
    apart = torch.stack((pair.dx, pair.dy, (pair.w2 - pair.w1) / 2, (pair.h2 - pair.h1) / 2))
    return (torch.exp(-pair.pixels / c * torch.linalg.vector_norm(apart, dim=0)),)


def overlap(
    box1: Tensor,
    box2: Tensor,
    kind: str = "IoU",
    image: tuple[float, float] | None = None,
    pixels: float | None = None,
) -> Tensor:
    """Overlap of boxes pair by pair by a base with its own numbers, differentiable in both.

    Args:
        box1: (..., 4) float, xywh in any unit; the predicted box.
        box2: the same, broadcastable to `box1`; its label.
        kind: a key of `BASES`.
        image: width and height of the image in the unit of the boxes, for MPDIoU.
        pixels: how many pixels that unit is, for NWD.

    Returns:
        (...,) at most 1; the kinds other than IoU and NWD go below 0.

    Raises:
        ValueError: an unknown kind, or one that lacks what it is measured by.
    """
    if kind not in BASES:
        raise ValueError(f"unknown overlap measure {kind!r}; known: {', '.join(BASES)}")
    part = BASES[kind]
    numbers = {name: number.default for name, number in part.numbers.items()}
    return measure(part.function(PairGeometry.of(box1, box2, image, pixels), **numbers))
