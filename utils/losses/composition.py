"""What a predicted box costs beside its label: a base (`overlaps.py`) and what is done to it.

Two things can be done. A shape changes the terms of the measure before the loss, 1 - measure, is made of
them. A price changes the loss, most of them by a weight, so that some qualities of answers teach more than
others. Each is a short function in one of two registries, and `BoxLoss` runs those that a text names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.boxes import EPS
from utils.losses.grammar import Formula, Number, Part, read
from utils.losses.overlaps import BASES, PairGeometry, Terms, edge_distance, measure, nwd

# The authors of WIoU advise a momentum of 1 - 0.05^(1 / batches), with more than 7000 batches, after which
# the start of the running mean counts for 5 %.
BATCHES = Number(7000, 1, 10_000_000)
FOCUS = Number(0.5, 0, 5)
Mean = float | Tensor  # of the IoU loss in training so far, one for all pairs or one for each


@dataclass
class RunningMean:
    """Running mean of the IoU loss, 1 - IoU, over the matched pairs of training: WIoU's measure of quality.

    It starts at 1, as the paper has it: then poor boxes learn most while most boxes are poor, and it is slow
    to change that. In a run of much less than 7000 batches it therefore stays near 1. It is part of the
    training state.
    """

    value: float = 1.0

    def update(self, losses: Tensor, average: Callable[[Tensor], Tensor], batches: float = 7000) -> None:
        """Move towards the mean of a batch; a batch without pairs moves nothing.

        Args:
            losses: (K,) 1 - IoU of this process's pairs, without gradient; K may be 0.
            average: element-wise mean of a tensor over the processes that train together. It is called once
                on each of them, so that all hold the same value, that of all their pairs.
            batches: after how many the start counts for 5 %.
        """
        total = torch.stack((losses.sum(), losses.new_tensor(len(losses))))
        loss_sum, pairs = average(total).tolist()
        if pairs:
            self.value += (1 - 0.05 ** (1 / batches)) * (loss_sum / pairs - self.value)


def _mix_nwd(loss: Tensor, pair: PairGeometry, mean: Mean, share: float, c: float) -> Tensor:
    """share (1 - NWD) + (1 - share) loss: what YOLO-FaceV2 (2022, arXiv:2208.02019) does for tiny objects."""
    return share * (1 - measure(nwd(pair, c))) + (1 - share) * loss


def _wiou_v1(loss: Tensor, pair: PairGeometry, mean: Mean) -> Tensor:
    """R loss, R = e^(centre distance² / hull diagonal²) (Tong et al., Wise-IoU, 2023, arXiv:2301.10051).

    As in the paper, the hull carries no gradient, which would hinder convergence: a larger hull costs less.
    The paper's loss is 1 - IoU; here any may stand in its place.
    """
    return _attention(pair) * loss


def _wiou_v2(loss: Tensor, pair: PairGeometry, mean: Mean, gamma: float, batches: float) -> Tensor:
    """b^gamma R loss (same paper), b = (1 - IoU) / its mean, without gradient: poor boxes teach most."""
    outlier = (1 - pair.iou).detach().clamp(min=0) / mean  # IoU is above 1 by rounding
    return outlier**gamma * _attention(pair) * loss


def _wiou_v3(
    loss: Tensor, pair: PairGeometry, mean: Mean, alpha: float, delta: float, batches: float
) -> Tensor:
    """b / (delta alpha^(b - delta)) R loss (same paper), b as in version 2: ordinary boxes teach most.

    The paper tries alpha of 1.4 to 2.5 and delta of 2 to 5; beyond, alpha^delta knows no end.
    """
    outlier = (1 - pair.iou).detach() / mean
    focus = outlier / (delta * alpha ** (outlier - delta))
    return focus * _attention(pair) * loss


def _attention(pair: PairGeometry) -> Tensor:
    diagonal = (pair.hull_w.square() + pair.hull_h.square() + EPS).detach()
    return torch.exp((pair.dx.square() + pair.dy.square()) / diagonal)


def _focal(loss: Tensor, pair: PairGeometry, mean: Mean, gamma: float) -> Tensor:
    """IoU^gamma loss (Zhang et al., Focal-EIoU, 2021, arXiv:2101.08158): good boxes teach most.

    The weight carries no gradient: it is there to weight pairs. As a factor that is learned it would reward
    less overlap where IoU is small, as IoU^0.5 (1 - IoU) rises up to 1/3, and its slope is infinite at 0. A
    box that does not touch its label weighs nothing and does not learn.
    """
    return pair.iou.detach() ** gamma * loss


def _piou2(loss: Tensor, pair: PairGeometry, mean: Mean, lam: float) -> Tensor:
    """3 λq e^(-(λq)²) loss, q = e^-P of PIoU (Liu et al., 2024, doi:10.1016/j.neunet.2023.11.041).

    The paper's loss is that of PIoU; here any may stand in its place. Here the weight carries no gradient: as
    a factor that is learned it would reward boxes for being far away, where it is small.
    """
    quality = lam * torch.exp(-edge_distance(pair)).detach()
    return 3 * quality * torch.exp(-quality.square()) * loss


def _alpha(terms: Terms, pair: PairGeometry, alpha: float) -> Terms:
    """Each term to the power of alpha (He et al., Alpha-IoU, 2021, arXiv:2110.13675)."""
    return tuple(term.clamp(min=0) ** alpha for term in terms)


def _focaler(terms: Terms, pair: PairGeometry, d: float, u: float) -> Terms:
    """The likeness stretched from [d, u] to [0, 1] and cut off there (Zhang and Zhang, Focaler-IoU, 2024,
    arXiv:2401.10525): only the boxes between have its slope."""
    likeness, *penalties = terms
    return ((likeness - d) / (u - d)).clamp(0, 1), *penalties


def _inner(terms: Terms, pair: PairGeometry, ratio: float) -> Terms:
    """The IoU of both boxes scaled by ratio around their centres, the penalties as they are (Zhang et al.,
    Inner-IoU, 2023, arXiv:2311.02877); above 1 it reaches boxes that do not touch, below 1 it is steeper."""
    return pair.inner(ratio).iou, *terms[1:]


# What is done, in the order in which a canonical text has it: the last is done first.
# functions (loss, pair, mean, **numbers) -> loss
PRICES = {
    part.name: part
    for part in (
        Part("NWD", _mix_nwd, {"share": Number(0.5, 0, 1), **BASES["NWD"].numbers}, not_with=("NWD",)),
        Part("WIoU-v1", _wiou_v1, alone="IoU"),
        Part("WIoU-v2", _wiou_v2, {"gamma": FOCUS, "batches": BATCHES}, alone="IoU"),
        Part(
            "WIoU-v3",
            _wiou_v3,
            {"alpha": Number(1.9, 1.01, 3), "delta": Number(3, 0.1, 6), "batches": BATCHES},
            alone="IoU",
        ),
        Part("Focal", _focal, {"gamma": FOCUS}),
        Part("PIoU2", _piou2, {"lam": Number(1.3, 0.1, 10)}, alone="PIoU"),
    )
}
# functions (terms, pair, **numbers) -> terms
SHAPES = {
    part.name: part
    for part in (
        Part("Alpha", _alpha, {"alpha": Number(3, 1, 10)}),
        Part(
            "Focaler",
            _focaler,
            {"d": Number(0.0, 0, 0.99), "u": Number(0.95, 0.01, 1)},
            fault=lambda d, u: "" if d < u else f"d must be below u, found {d:g} and {u:g}",
        ),
        Part("Inner", _inner, {"ratio": Number(0.75, 0.1, 3)}, not_with=("NWD",)),
    )
}
MODIFIERS = {**PRICES, "WIoU": PRICES["WIoU-v3"], **SHAPES}  # WIoU alone is its third version


@dataclass(frozen=True)
class Cost:
    """What boxes cost, pair by pair, (K,).

    Attributes:
        loss: with gradient.
        overlap: the measure of the base, at most 1, without gradient, whatever is done to the loss.
        iou: plain IoU, 0–1, without gradient.
    """

    loss: Tensor
    overlap: Tensor
    iou: Tensor


class BoxLoss:
    """The box loss of a text such as `Focal-Inner-EIoU(gamma=0.5, ratio=0.8)`; `str` gives it canonically.

    Attributes:
        batches: how slowly the running mean follows; None where the loss does not look at it.

    Raises:
        ValueError: the text names none.
    """

    def __init__(self, text: object) -> None:
        self.formula: Formula = read(text, BASES, MODIFIERS)
        inside_out = self.formula.modifiers[::-1]
        self._base = self.formula.base.function
        self._shapes = [bound.function for bound in inside_out if bound.part.name in SHAPES]
        self._prices = [bound.function for bound in inside_out if bound.part.name in PRICES]
        self.batches = next((b.numbers["batches"] for b in inside_out if "batches" in b.numbers), None)

    def __str__(self) -> str:
        return str(self.formula)

    def __call__(self, pair: PairGeometry, mean: Mean = 1.0) -> Cost:
        """Cost of predicted boxes beside their labels.

        Args:
            pair: their geometry, float32 or float64.
            mean: of the IoU loss in training so far (`RunningMean`), above 0; or one for each pair.

        Raises:
            ValueError: the pair does not know what a part needs, the image or the pixels of a unit.
        """
        terms = self._base(pair)
        overlap = measure(terms)
        for shape in self._shapes:
            terms = shape(terms, pair)
        loss = 1 - (measure(terms) if self._shapes else overlap)
        for price in self._prices:
            loss = price(loss, pair, mean)
        return Cost(loss, overlap.detach(), pair.iou.detach())
