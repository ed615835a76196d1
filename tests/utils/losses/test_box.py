"""The box losses: by hand, by numeric differentiation, on degenerate boxes, and whether they teach."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from utils.boxes import IOU_KINDS, iou
from utils.hyperparameters import BOX_LOSSES
from utils.losses.box import MEAN_MOMENTUM, WEIGHTED, RunningMean, box_loss

IMAGE = (8.0, 6.0)
# two 2 x 2 squares, centres 1 apart: IoU 2 / 6, hull 3 x 2
LEFT, RIGHT = torch.tensor([[1.0, 1.0, 2.0, 2.0]]), torch.tensor([[2.0, 1.0, 2.0, 2.0]])


def test_every_choice_is_there() -> None:
    assert (*IOU_KINDS, *WEIGHTED) == BOX_LOSSES
    assert set(BOX_LOSSES) == {"IoU", "GIoU", "DIoU", "CIoU", "EIoU", "SIoU", "MPDIoU", "WIoU", "Focal-EIoU"}
    with pytest.raises(ValueError, match="unknown overlap measure 'XIoU'"):
        box_loss("XIoU", LEFT, RIGHT, IMAGE)


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_a_plain_loss_is_one_minus_its_measure(kind: str) -> None:
    loss, overlap = box_loss(kind, LEFT.clone().requires_grad_(), RIGHT, IMAGE)
    measure = iou(LEFT, RIGHT, kind, image=IMAGE)
    assert torch.equal(overlap, measure)
    assert torch.equal(loss, 1 - measure)
    assert loss.requires_grad
    assert not overlap.requires_grad


def test_focal_eiou_by_hand() -> None:
    # EIoU = 1/3 - 1 / (9 + 4); the sides are the same
    loss, overlap = box_loss("Focal-EIoU", LEFT, RIGHT, IMAGE)
    assert overlap.item() == pytest.approx(1 / 3 - 1 / 13, abs=1e-6)
    assert loss.item() == pytest.approx(math.sqrt(1 / 3) * (1 - 1 / 3 + 1 / 13), abs=1e-6)


def test_wiou_by_hand() -> None:
    # IoU loss 2/3, distance attention exp(1 / (9 + 4))
    attention = math.exp(1 / 13)
    loss, overlap = box_loss("WIoU", LEFT, RIGHT, IMAGE, mean=0.5)
    assert overlap.item() == pytest.approx(1 / 3, abs=1e-6)
    outlier = 2 / 3 / 0.5
    focus = outlier / (3 * 1.9 ** (outlier - 3))
    assert loss.item() == pytest.approx(focus * attention * 2 / 3, abs=1e-6)
    # three times as far off as the mean: the focusing factor is 1 and version 1 is left
    plain, _ = box_loss("WIoU", LEFT, RIGHT, IMAGE, mean=2 / 9)
    assert plain.item() == pytest.approx(attention * 2 / 3, abs=1e-5)


def test_wiou_compares_with_the_start_of_the_mean_by_default() -> None:
    assert torch.equal(box_loss("WIoU", LEFT, RIGHT, IMAGE)[0], box_loss("WIoU", LEFT, RIGHT, IMAGE, 1.0)[0])


def test_wiou_weighs_distance_by_e_at_most_however_small_the_boxes() -> None:
    draw = torch.Generator().manual_seed(0)
    size = 10.0 ** (-6 * torch.rand(5000, 1, generator=draw, dtype=torch.float64))
    boxes, labels = (torch.rand(5000, 4, generator=draw, dtype=torch.float64) * size for _ in range(2))
    loss, overlap = box_loss("WIoU", boxes, labels, IMAGE)
    outlier = 1 - overlap
    attention = loss / (outlier / (3 * 1.9 ** (outlier - 3)) * outlier)
    assert ((attention >= 1) & (attention <= math.e)).all()


def test_wiou_prefers_pairs_of_ordinary_quality() -> None:
    # concentric boxes, so that the attention is 1: IoU loss 1 - side, in steps; its weight is loss / IoU loss
    side = torch.linspace(0.05, 0.95, 19)
    boxes = torch.stack((torch.zeros(19), torch.zeros(19), side, torch.ones(19)), dim=1)
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(19, 4)
    loss, _ = box_loss("WIoU", boxes, labels, IMAGE, mean=0.3)
    best = int((loss / (1 - side)).argmax())
    # the factor is largest at an IoU loss of 1 / ln 1.9 = 1.558 means, 0.467
    assert side[best].item() == pytest.approx(0.55, abs=1e-6)


def test_wiou_survives_a_mean_close_to_zero() -> None:
    loss, _ = box_loss("WIoU", LEFT, RIGHT, IMAGE, mean=1e-5)
    assert loss.item() == 0  # an outlier of 66 667 means


def random_pairs(count: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that overlap, of sides 1-3, centres less than 0.5 apart on each axis."""
    draw = torch.Generator().manual_seed(0)
    boxes = torch.rand(count, 4, generator=draw, dtype=dtype) * torch.tensor([0.5, 0.5, 2, 2]) + 1
    labels = torch.rand(count, 4, generator=draw, dtype=dtype) * torch.tensor([0.5, 0.5, 2, 2]) + 1
    return boxes.to(dtype).requires_grad_(), labels.to(dtype)


def assert_gradient_is_that_of(kind: str, held: Callable[[torch.Tensor], torch.Tensor], mean: float) -> None:
    """Compare with a function in which what carries no gradient is a number, itself checked numerically."""
    boxes, labels = random_pairs(8, torch.float64)
    assert torch.autograd.gradcheck(held, boxes)
    loss, _ = box_loss(kind, boxes, labels, IMAGE, mean)
    torch.testing.assert_close(loss, held(boxes))
    (expected,) = torch.autograd.grad(held(boxes).sum(), boxes)
    (found,) = torch.autograd.grad(loss.sum(), boxes)
    torch.testing.assert_close(found, expected)
    assert (found.abs().sum(dim=1) > 0.01).all()


def test_focal_eiou_gradient_numerically_with_its_weight_held_constant() -> None:
    boxes, labels = random_pairs(8, torch.float64)
    weight = iou(boxes, labels).detach().sqrt()
    assert_gradient_is_that_of("Focal-EIoU", lambda x: weight * (1 - iou(x, labels, "EIoU")), 1.0)


def test_wiou_gradient_numerically_with_diagonal_and_focus_held_constant() -> None:
    boxes, labels = random_pairs(8, torch.float64)
    high = torch.maximum(boxes[:, :2] + boxes[:, 2:] / 2, labels[:, :2] + labels[:, 2:] / 2).detach()
    low = torch.minimum(boxes[:, :2] - boxes[:, 2:] / 2, labels[:, :2] - labels[:, 2:] / 2).detach()
    diagonal = (high - low).square().sum(dim=1) + 1e-7
    outlier = (1 - iou(boxes, labels)).detach() / 0.4
    focus = outlier / (3 * 1.9 ** (outlier - 3))

    def held(x: torch.Tensor) -> torch.Tensor:
        distance = (x[:, :2] - labels[:, :2]).square().sum(dim=1)
        return focus * torch.exp(distance / diagonal) * (1 - iou(x, labels))

    assert_gradient_is_that_of("WIoU", held, 0.4)


DEGENERATE = {
    "identical": ([3.0, 4.0, 2.0, 5.0], [3.0, 4.0, 2.0, 5.0]),
    "nested": ([3.0, 4.0, 1.0, 1.0], [3.0, 4.0, 2.0, 5.0]),
    "nested, off centre": ([3.2, 4.1, 1.0, 1.0], [3.0, 4.0, 2.0, 5.0]),
    "touching": ([1.0, 1.0, 2.0, 2.0], [3.0, 1.0, 2.0, 2.0]),
    "disjoint": ([3.0, 4.0, 1.0, 1.0], [70.0, 50.0, 2.0, 5.0]),
    "a point": ([3.0, 4.0, 0.0, 0.0], [3.0, 4.0, 2.0, 5.0]),
    "a point for a label": ([3.0, 4.0, 2.0, 5.0], [3.0, 4.0, 0.0, 0.0]),
    "the same point twice": ([3.0, 4.0, 0.0, 0.0], [3.0, 4.0, 0.0, 0.0]),
    "two points": ([3.0, 4.0, 0.0, 0.0], [5.0, 4.0, 0.0, 0.0]),
    "a line": ([3.0, 4.0, 0.0, 2.0], [3.0, 4.0, 0.0, 5.0]),
    "tiny": ([3.0, 4.0, 1e-6, 1e-6], [3.0, 4.0, 1e-6, 2e-6]),
    "huge": ([3.0, 4.0, 1e6, 1e6], [3.0, 4.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("kind", BOX_LOSSES)
@pytest.mark.parametrize("case", DEGENERATE)
def test_losses_and_gradients_are_finite(kind: str, case: str) -> None:
    box, label = (torch.tensor([values]) for values in DEGENERATE[case])
    loss, overlap = box_loss(kind, box.requires_grad_(), label, IMAGE)
    loss.sum().backward()
    assert loss.item() > -1e-6
    assert math.isfinite(loss.item())
    assert overlap.item() <= 1
    assert box.grad is not None
    assert box.grad.isfinite().all()


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_descending_a_loss_brings_boxes_to_their_labels(kind: str) -> None:
    boxes, labels = random_pairs(64)
    before = iou(boxes, labels).mean().item()
    assert before < 0.6
    mean = RunningMean()
    optimizer = torch.optim.Adam([boxes], lr=0.02)
    for _ in range(150):
        loss, overlap = box_loss(kind, boxes, labels, IMAGE, mean.value)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
        mean.update(1 - overlap, lambda tensor: tensor)
    assert iou(boxes, labels).mean().item() > 0.9


@pytest.mark.parametrize("kind", ["GIoU", "DIoU", "CIoU", "EIoU", "SIoU", "MPDIoU"])
def test_boxes_that_do_not_touch_are_drawn_together(kind: str) -> None:
    box = LEFT.clone().requires_grad_()
    box_loss(kind, box, torch.tensor([[5.0, 3.0, 2.0, 2.0]]), IMAGE)[0].sum().backward()
    assert box.grad is not None
    assert box.grad[0, 0] < 0  # a step down moves it right
    assert box.grad[0, 1] < 0  # and down


def test_the_running_mean_starts_at_one_and_moves_slowly() -> None:
    mean = RunningMean()
    mean.update(torch.tensor([0.2, 0.6]), lambda tensor: tensor)
    assert mean.value == pytest.approx(1 + MEAN_MOMENTUM * (0.4 - 1), abs=1e-9)
    before = mean.value
    mean.update(torch.zeros(0), lambda tensor: tensor)
    assert mean.value == before
    for _ in range(6999):
        mean.update(torch.tensor([0.4]), lambda tensor: tensor)
    # after 7000 batches 5 % of the start are left: 0.4 + 0.05 (1 - 0.4)
    assert mean.value == pytest.approx(0.43, abs=1e-6)


def test_the_running_mean_is_that_of_all_pairs_of_all_processes() -> None:
    shares = [torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.8]), torch.zeros(0)]
    totals = torch.tensor([[0.6, 3.0], [0.8, 1.0], [0.0, 0.0]])
    asked: list[torch.Tensor] = []

    def average(total: torch.Tensor) -> torch.Tensor:
        asked.append(total)
        return totals.mean(dim=0)

    means = [RunningMean(0.5) for _ in shares]
    for mean, share in zip(means, shares):
        mean.update(share, average)
    torch.testing.assert_close(torch.stack(asked), totals)  # each is asked once, the one without pairs too
    assert means[0] == means[1] == means[2]
    assert means[0].value == pytest.approx(0.5 + MEAN_MOMENTUM * (1.4 / 4 - 0.5), abs=1e-9)
