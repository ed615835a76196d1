"""What objectness and classes cost: binary cross-entropy, and what changes it element by element.

Both are stated by logits. What is wanted of a class is 0 or 1, of objectness the overlap of box and label.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.losses.grammar import Bound, Number, Part, read

MARGIN = 0.1  # of Slide: how far below the mean overlap a pair counts as being near it


class Scores(NamedTuple):
    """Logits and what they should say; all of one shape.

    Attributes:
        wanted: 0–1.
        positive: whether a label stands behind an element: bool.
        quality: overlap of the element's box and label, 0–1; 0 where there is no label.
    """

    logits: Tensor
    wanted: Tensor
    positive: Tensor
    quality: Tensor


def _bce(plain: Tensor, scores: Scores) -> Tensor:
    """-y log p - (1 - y) log(1 - p)."""
    return plain


def _focal(plain: Tensor, scores: Scores, gamma: float, alpha: float) -> Tensor:
    """Weight alpha (1 - p)^gamma for positives, (1 - alpha) p^gamma for the rest (Lin et al., 2017,
    arXiv:1708.02002, eq. 5), and between them in between where what is wanted is neither 0 nor 1."""
    wanted, probability = scores.wanted, scores.logits.sigmoid()
    miss = wanted + probability - 2 * wanted * probability  # 1 - p for positives, p for negatives
    side = 1 - alpha + (2 * alpha - 1) * wanted
    return plain * side * miss.clamp(min=1e-12) ** gamma


def _quality_focal(plain: Tensor, scores: Scores, beta: float) -> Tensor:
    """Weight |y - p|^beta (Li et al., Generalized Focal Loss, 2020, arXiv:2006.04388).

    The paper's y is the overlap at the label's class. Here objectness states that; classes keep 0 and 1.
    """
    return plain * (scores.wanted - scores.logits.sigmoid()).abs() ** beta


def _varifocal(plain: Tensor, scores: Scores, alpha: float, gamma: float) -> Tensor:
    """Weight y for positives, alpha p^gamma for the rest (Zhang et al., VarifocalNet, 2021,
    arXiv:2008.13367).

    The paper's y is the overlap at the label's class. Here objectness states that; classes keep 0 and 1.
    """
    return plain * torch.where(scores.positive, scores.wanted, alpha * scores.logits.sigmoid() ** gamma)


def _slide(plain: Tensor, scores: Scores) -> Tensor:
    """Weight by the overlap x and its mean μ over positives: 1 up to μ - 0.1, e^(1 - μ) up to μ, e^(1 - x)
    above (Yu et al., YOLO-FaceV2, 2022, arXiv:2208.02019): pairs of about the mean overlap teach most.

    Here μ is that of one level's pairs in one batch; without any the weight is 1.
    """
    if not scores.positive.any():
        return plain
    mean, quality = scores.quality[scores.positive].mean(), scores.quality
    weight = torch.exp(1 - torch.maximum(quality, mean))
    return plain * torch.where(quality > mean - MARGIN, weight, 1.0)


SCORE_LOSSES = {
    part.name: part
    for part in (
        Part("BCE", _bce),
        Part("Focal", _focal, {"gamma": Number(1.5, 0, 10), "alpha": Number(0.25, 0, 1)}),
        Part("QFL", _quality_focal, {"beta": Number(2, 1, 10)}),
        Part("VFL", _varifocal, {"alpha": Number(0.75, 0, 10), "gamma": Number(2, 1, 10)}),
        Part("Slide", _slide),
    )
}


class ScoreLoss:
    """The objectness or class loss of a text such as `VFL(alpha=0.75, gamma=2)`; `str` gives it canonically.

    Args:
        positive_weight: of the part of the cross-entropy that positives bring.
        gamma: above 0 it makes BCE a Focal of that exponent, as the hyper-parameter `fl_gamma` does.

    Raises:
        ValueError: the text names none.
    """

    def __init__(self, text: object, positive_weight: float = 1.0, gamma: float = 0.0) -> None:
        bound: Bound = read(text, SCORE_LOSSES, {}).base
        if bound.part.name == "BCE" and gamma > 0:
            bound = Bound(SCORE_LOSSES["Focal"], {"gamma": gamma, "alpha": 0.25})
        self.plain = bound.part.name == "BCE"
        self.positive_weight = positive_weight
        self._bound = bound

    def __str__(self) -> str:
        return str(self._bound)

    def __call__(self, scores: Scores, weights: Tensor | None = None) -> Tensor:
        """The mean, a scalar; each element times `weights`, which broadcast, where there are any."""
        logits, wanted = scores.logits, scores.wanted
        weight = None if self.positive_weight == 1 else logits.new_tensor(self.positive_weight)
        if self.plain and weights is None:
            return F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight)
        plain = F.binary_cross_entropy_with_logits(logits, wanted, pos_weight=weight, reduction="none")
        each = self._bound.function(plain, scores)
        return (each if weights is None else each * weights).mean()


def _effective(counts: Tensor, beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^n), one over the effective number of n labels (Cui et al., 2019,
    arXiv:1901.05555)."""
    return (1 - beta) / (1 - beta**counts)


# How much a label of a class counts, from the number of labels (nc,) of each; up to a factor.
CLASS_WEIGHTS = {
    part.name: part
    for part in (
        Part("none", torch.ones_like),
        Part("inverse", lambda counts: 1 / counts),
        Part("sqrt", lambda counts: 1 / counts.sqrt()),
        Part("effective", _effective, {"beta": Number(0.999, 0, 0.999999)}),
    )
}


def class_weights(text: object, counts: Tensor) -> Tensor:
    """How much a label of each class counts in the class loss.

    Args:
        text: one of `CLASS_WEIGHTS`, such as `inverse` or `effective(beta=0.999)`.
        counts: (nc,) labels of each class in the training data.

    Returns:
        (nc,) float32 with a mean of 1 over the labels, so that the loss keeps its size. The paper of
        `effective` has a mean of 1 over the classes.

    Raises:
        ValueError: the text names none.
    """
    weights = read(text, CLASS_WEIGHTS, {}).base.function(counts.double().clamp(min=1))
    return (weights * counts.sum() / (weights * counts).sum().clamp(min=1e-12)).float()
