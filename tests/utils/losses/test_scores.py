"""Objectness and class losses: by hand, by numeric differentiation, at extremes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.losses.scores import CLASS_WEIGHTS, SCORE_LOSSES, ScoreLoss, Scores, class_weights

# p = 1/2 throughout at logit 0: each cross-entropy is log 2, whatever is wanted
LOG2 = math.log(2)


def scores(wanted: list[float], quality: list[float] | None = None, logit: float = 0.0) -> Scores:
    target = torch.tensor(wanted, dtype=torch.float64)
    known = target if quality is None else torch.tensor(quality, dtype=torch.float64)
    return Scores(torch.full_like(target, logit), target, target > 0, known)


@pytest.mark.parametrize(
    ("text", "given", "weights"),
    [
        ("BCE", scores([1, 0]), [1, 1]),
        ("Focal(gamma=2, alpha=0.25)", scores([1, 0]), [0.25 * 0.25, 0.75 * 0.25]),
        # halfway between 0 and 1: the miss is 0.5 + 0.5 - 2 * 0.25, the side halfway between 0.25 and 0.75
        ("Focal(gamma=1, alpha=0.25)", scores([0.5]), [0.5 * 0.5]),
        ("QFL(beta=2)", scores([1, 0, 0.8]), [0.25, 0.25, 0.3**2]),
        ("VFL(alpha=0.75, gamma=2)", scores([1, 0, 0.8]), [1, 0.75 * 0.25, 0.8]),
        # the mean of positives is 0.6: 0.2 lies below 0.5, 0.55 below the mean, 0.75 and 0.9 above
        (
            "Slide",
            scores([0.2, 0.55, 0.75, 0.9, 0]),
            [1, math.exp(0.4), math.exp(0.25), math.exp(0.1), 1],
        ),
        ("Slide", scores([0, 0]), [1, 1]),
        # classes: 1 is wanted, and the overlap of the pair is 0.8, of which the mean is
        ("Slide", scores([1, 0], [0.8, 0]), [math.exp(0.2), 1]),
    ],
)
def test_weights_by_hand(text: str, given: Scores, weights: list[float]) -> None:
    assert ScoreLoss(text)(given).item() == pytest.approx(LOG2 * sum(weights) / len(weights), abs=1e-9)


def test_quality_focal_is_least_where_the_score_is_the_overlap() -> None:
    logits = torch.linspace(-4, 4, 801, dtype=torch.float64)
    wanted = torch.full_like(logits, 0.7)
    losses = [ScoreLoss("QFL")(Scores(x, y, y > 0, y)).item() for x, y in zip(logits, wanted)]
    assert logits[losses.index(min(losses))].sigmoid().item() == pytest.approx(0.7, abs=2e-3)


def test_the_focal_exponent_makes_bce_focal() -> None:
    given = scores([1, 0, 0.3], logit=0.7)
    assert str(ScoreLoss("BCE", gamma=1.5)) == "Focal(gamma=1.5, alpha=0.25)"
    assert torch.equal(ScoreLoss("BCE", gamma=1.5)(given), ScoreLoss("Focal")(given))
    assert str(ScoreLoss("BCE", gamma=0.5)) == "Focal(gamma=0.5, alpha=0.25)"
    assert torch.equal(ScoreLoss("QFL", gamma=1.5)(given), ScoreLoss("QFL")(given))


def test_bce_is_that_of_pytorch_and_positives_may_count_more() -> None:
    given = scores([1, 0, 0.3], logit=0.7)
    plain = F.binary_cross_entropy_with_logits(given.logits, given.wanted)
    assert torch.equal(ScoreLoss("BCE")(given), plain)
    assert torch.equal(ScoreLoss("BCE")(given, torch.ones(3)), plain)
    weighted = F.binary_cross_entropy_with_logits(given.logits, given.wanted, pos_weight=torch.tensor(2.0))
    assert torch.equal(ScoreLoss("BCE", 2)(given), weighted)


@pytest.mark.parametrize("name", SCORE_LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_numerically(name: str, weighted: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=draw, dtype=torch.float64, requires_grad=True)
    positive = torch.rand(6, 3, generator=draw) > 0.5
    quality = torch.rand(6, 3, generator=draw, dtype=torch.float64) * positive
    weights = torch.rand(6, 1, generator=draw, dtype=torch.float64) if weighted else None
    loss = ScoreLoss(name, positive_weight=1.5)
    assert torch.autograd.gradcheck(lambda x: loss(Scores(x, quality, positive, quality), weights), logits)


@pytest.mark.parametrize("name", SCORE_LOSSES)
@pytest.mark.parametrize("wanted", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("logit", [-200.0, 0.0, 200.0])
def test_extremes_stay_finite(name: str, wanted: float, logit: float) -> None:
    logits = torch.tensor([logit], requires_grad=True)
    target = torch.tensor([wanted])
    value = ScoreLoss(name)(Scores(logits, target, target > 0, target))
    value.backward()
    assert value.isfinite() and logits.grad is not None and logits.grad.isfinite().all()
    if logit == 200 and wanted == 1:
        assert value.item() == pytest.approx(0, abs=1e-6)


COUNTS = torch.tensor([100.0, 25.0, 0.0])


@pytest.mark.parametrize(
    ("text", "ratio"),
    [
        ("none", 1),
        ("inverse", 100 / 25),
        ("sqrt", 2),
        ("effective(beta=0.9)", (1 - 0.9**100) / (1 - 0.9**25)),
        ("effective(beta=0)", 1),
    ],
)
def test_class_weights_by_hand(text: str, ratio: float) -> None:
    found = class_weights(text, COUNTS)
    assert (found[1] / found[0]).item() == pytest.approx(ratio, rel=1e-5)
    assert (found * COUNTS).sum().item() / 125 == pytest.approx(1, rel=1e-6)  # the mean over labels
    assert found.isfinite().all() and found.dtype == torch.float32


def test_a_class_of_one_label_weighs_as_such() -> None:
    found = class_weights("inverse", torch.tensor([1.0, 4.0]))
    assert (found[0] / found[1]).item() == pytest.approx(4)


def test_numbers_are_those_that_runs_were_made_with() -> None:
    assert {name: dict(part.numbers) for name, part in SCORE_LOSSES.items() if part.numbers} == {
        "Focal": {"gamma": (1.5, 0, 10), "alpha": (0.25, 0, 1)},
        "QFL": {"beta": (2, 1, 10)},
        "VFL": {"alpha": (0.75, 0, 10), "gamma": (2, 1, 10)},
    }
    assert dict(CLASS_WEIGHTS["effective"].numbers) == {"beta": (0.999, 0, 0.999999)}


@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_class_weights_of_no_labels_are_finite(name: str) -> None:
    assert class_weights(name, torch.zeros(2)).isfinite().all()


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: ScoreLoss("bce"), "unknown name 'bce'; did you mean 'BCE'?"),
        (lambda: ScoreLoss("Focal-BCE"), "letter 1: Focal is a base, and a base stands last"),
        (lambda: ScoreLoss("QFL(beta=0.5)"), "beta must lie between 1 and 10"),
        (lambda: ScoreLoss(2), "expected a name such as BCE, Focal, QFL, VFL, found 2"),
        (lambda: class_weights("inverted", COUNTS), "unknown name 'inverted'; did you mean 'inverse'?"),
        (lambda: class_weights(True, COUNTS), "found True"),
    ],
)
def test_what_is_wrong_is_said(made: object, complaint: str) -> None:
    with pytest.raises(ValueError) as error:
        made()  # type: ignore[operator]
    assert complaint in str(error.value)


def test_weights_of_rows() -> None:
    given = Scores(torch.zeros(2, 2), *(torch.eye(2),), torch.eye(2) > 0, torch.eye(2))
    assert ScoreLoss("BCE")(given, torch.tensor([[3.0], [1.0]])).item() == pytest.approx(2 * LOG2, abs=1e-6)
    assert isinstance(ScoreLoss("VFL")(given, torch.ones(2, 1)), Tensor)
