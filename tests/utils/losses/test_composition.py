"""The box losses: by hand, by numeric differentiation, on degenerate boxes, and whether they teach."""

from __future__ import annotations

import itertools
import math
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from utils.losses.composition import MODIFIERS, PRICES, BoxLoss, Cost, RunningMean
from utils.losses.overlaps import BASES, PairGeometry, overlap

MOMENTUM = 1 - 0.05 ** (1 / 7000)
IMAGE, PIXELS = (8.0, 6.0), 4.0
# two 2 x 2 squares, centres 1 apart: IoU 2 / 6, hull 3 x 2
LEFT, RIGHT = torch.tensor([[1.0, 1.0, 2.0, 2.0]]), torch.tensor([[2.0, 1.0, 2.0, 2.0]])


def cost(kind: str, boxes: Tensor, labels: Tensor, mean: float = 1.0) -> Cost:
    return BoxLoss(kind)(PairGeometry.of(boxes, labels, IMAGE, PIXELS), mean)


ALL = "NWD-WIoU-v3-Focal-PIoU2-Alpha-Focaler-Inner"  # at once
CHOICES = [name for name in MODIFIERS if name != "WIoU"]  # which is WIoU-v3
BARE = [*BASES, *(name for name, part in PRICES.items() if part.alone)]
ON_CIOU = [f"{name}-CIoU" for name in CHOICES]
SINGLE = [
    *BARE,
    *(f"{name}-{base}" for name in CHOICES for base in BASES if base not in MODIFIERS[name].not_with),
]
PAIRS = [
    f"{first}-{second}-CIoU"
    for first, second in itertools.combinations(CHOICES, 2)
    if MODIFIERS[first].kind != MODIFIERS[second].kind
]
NAMES = [*SINGLE, *PAIRS, *(f"{ALL}-{base}" for base in BASES if base != "NWD")]


def test_there_are_more_than_a_hundred() -> None:
    assert len({str(BoxLoss(name)) for name in NAMES}) > 130
    assert BoxLoss("WIoU").formula == BoxLoss("WIoU-v3").formula
    with pytest.raises(ValueError, match="unknown name 'XIoU'; did you mean 'IoU'"):
        BoxLoss("XIoU")


def test_numbers_are_those_that_runs_were_made_with() -> None:
    batches = (7000, 1, 10_000_000)
    assert {name: dict(part.numbers) for name, part in MODIFIERS.items() if part.numbers} == {
        "NWD": {"share": (0.5, 0, 1), "c": (12.8, 0.1, 10_000)},
        "WIoU-v2": {"gamma": (0.5, 0, 5), "batches": batches},
        "WIoU-v3": (wiou := {"alpha": (1.9, 1.01, 3), "delta": (3, 0.1, 6), "batches": batches}),
        "WIoU": wiou,
        "Focal": {"gamma": (0.5, 0, 5)},
        "PIoU2": {"lam": (1.3, 0.1, 10)},
        "Alpha": {"alpha": (3, 1, 10)},
        "Focaler": {"d": (0, 0, 0.99), "u": (0.95, 0.01, 1)},
        "Inner": {"ratio": (0.75, 0.1, 3)},
    }
    assert {name: dict(part.numbers) for name, part in BASES.items() if part.numbers} == {
        "Shape-IoU": {"scale": (0, 0, 3)},
        "NWD": {"c": (12.8, 0.1, 10_000)},
    }
    for text in ("Inner-NWD", "NWD-NWD", "Focaler-CIoU(d=0.5, u=0.5)"):
        with pytest.raises(ValueError, match=r"means nothing|must be below"):
            BoxLoss(text)


@pytest.mark.parametrize("kind", BASES)
def test_a_base_costs_one_minus_its_measure(kind: str) -> None:
    found = cost(kind, LEFT.clone().requires_grad_(), RIGHT)
    measured = overlap(LEFT, RIGHT, kind, image=IMAGE, pixels=PIXELS)
    assert torch.equal(found.overlap, measured)
    assert torch.equal(found.loss, 1 - measured)
    assert found.loss.requires_grad
    assert not (found.overlap.requires_grad or found.iou.requires_grad)


ATTENTION = math.exp(1 / 13)  # of WIoU: squared centre distance 1, hull diagonal 9 + 4
EDGES = 1 / 4  # P of PIoU: left and right edges 1 apart, of a side of 2
PIOU = 1 / 3 - (1 - math.exp(-(EDGES**2)))
QUALITY = 1.3 * math.exp(-EDGES)
NWD = math.exp(-4 / 12.8)  # the centres are 4 pixels apart, the sides are the same
BY_HAND = {  # of LEFT and RIGHT, with a running mean of 0.5: the loss
    "IoU": 2 / 3,
    "GIoU": 2 / 3,  # the boxes fill their hull
    "DIoU": 2 / 3 + 1 / 13,
    "PIoU": 1 - PIOU,
    "NWD": 1 - NWD,
    # half as large, the squares touch; 1.5 times: 3 x 3, shared 2 x 3, united 18 - 6
    "Inner-IoU(ratio=0.5)": 1,
    "Inner-IoU(ratio=1.5)": 1 - 6 / 12,
    "Inner-DIoU(ratio=1.5)": 1 - 6 / 12 + 1 / 13,
    # 1/3 lies 1/3 of the way from 0.2 to 0.6
    "Focaler-IoU(d=0.2, u=0.6)": 1 - 1 / 3,
    "Focaler-DIoU(d=0.5, u=0.6)": 1 + 1 / 13,
    "Focaler-IoU(d=0.1, u=0.3)": 0,
    "Focaler-Inner-IoU(ratio=1.5, d=0.25, u=0.75)": 1 - (0.5 - 0.25) / (0.75 - 0.25),
    "Alpha-IoU(alpha=2)": 1 - 1 / 9,
    "Alpha-DIoU(alpha=2)": 1 - 1 / 9 + 1 / 169,
    "Alpha-Inner-DIoU(alpha=3, ratio=1.5)": 1 - 1 / 8 + 1 / 13**3,
    "Focal-EIoU": math.sqrt(1 / 3) * (2 / 3 + 1 / 13),
    "Focal-IoU(gamma=2)": 1 / 9 * 2 / 3,
    "WIoU-v1": ATTENTION * 2 / 3,
    "WIoU-v1-DIoU": ATTENTION * (2 / 3 + 1 / 13),
    "WIoU-v2(gamma=2)": (2 / 3 / 0.5) ** 2 * ATTENTION * 2 / 3,
    "WIoU": (4 / 3) / (3 * 1.9 ** (4 / 3 - 3)) * ATTENTION * 2 / 3,
    "WIoU-v3-DIoU(alpha=1.5, delta=2)": (4 / 3) / (2 * 1.5 ** (4 / 3 - 2)) * ATTENTION * (2 / 3 + 1 / 13),
    "PIoU2": 3 * QUALITY * math.exp(-(QUALITY**2)) * (1 - PIOU),
    "PIoU2-IoU": 3 * QUALITY * math.exp(-(QUALITY**2)) * 2 / 3,
    "NWD-DIoU(share=0.25)": 0.25 * (1 - NWD) + 0.75 * (2 / 3 + 1 / 13),
    "NWD-IoU(share=1, c=6.4)": 1 - NWD**2,
    # outermost last: the power of the terms, then the weights, then the mixture
    "NWD-Focal-Alpha-DIoU(share=0.5, gamma=1, alpha=2)": (1 - NWD + (1 - 1 / 9 + 1 / 169) / 3) / 2,
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_losses_by_hand(kind: str) -> None:
    found = cost(kind, LEFT, RIGHT, mean=0.5)
    assert found.loss.item() == pytest.approx(BY_HAND[kind], abs=1e-6)
    assert found.iou.item() == pytest.approx(1 / 3, abs=1e-6)
    base = BoxLoss(kind).formula.base.part.name
    assert found.overlap.item() == pytest.approx(1 - BY_HAND.get(base, 2 / 3 + 1 / 13), abs=1e-6)  # EIoU's


@pytest.mark.parametrize(
    ("kind", "same"),
    [
        ("Inner-CIoU(ratio=1)", "CIoU"),
        ("Focaler-CIoU(d=0, u=1)", "CIoU"),
        ("Alpha-CIoU(alpha=1)", "CIoU"),
        ("Focal-CIoU(gamma=0)", "CIoU"),
        ("NWD-CIoU(share=0)", "CIoU"),
        ("NWD-CIoU(share=1)", "NWD"),
        ("WIoU-v2-CIoU(gamma=0)", "WIoU-v1-CIoU"),
    ],
)
def test_what_the_papers_say_where_nothing_is_done(kind: str, same: str) -> None:
    boxes, labels = random_pairs(50, torch.float64)
    torch.testing.assert_close(cost(kind, boxes, labels).loss, cost(same, boxes, labels).loss)


def test_wiou_v3_is_v1_where_the_paper_says() -> None:
    # three times as far off as the mean: the focusing factor is 1
    plain = cost("WIoU", LEFT, RIGHT, mean=2 / 9).loss
    assert plain.item() == pytest.approx(ATTENTION * 2 / 3, abs=1e-5)


def test_the_weight_of_piou2_is_that_of_the_paper() -> None:
    # u(x) = 3x e^(-x^2) is largest at x = sqrt(1/2), 3 sqrt(1/2) e^(-1/2) = 1.286: at q = sqrt(1/2) / 1.3
    edge = torch.linspace(0, 2, 2001)
    boxes = torch.stack((edge, torch.zeros(2001), torch.ones(2001), torch.ones(2001)), dim=1)
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2001, 4)  # an offset of x makes P = x / 2
    weight = cost("PIoU2-CIoU", boxes, labels).loss[1:] / cost("CIoU", boxes, labels).loss[1:]
    assert weight.max().item() == pytest.approx(3 * math.sqrt(0.5) * math.exp(-0.5), abs=1e-4)
    assert edge[1 + int(weight.argmax())].item() == pytest.approx(
        -2 * math.log(math.sqrt(0.5) / 1.3), abs=2e-3
    )


def test_wiou_weighs_distance_by_e_at_most_however_small_the_boxes() -> None:
    draw = torch.Generator().manual_seed(0)
    size = 10.0 ** (-6 * torch.rand(5000, 1, generator=draw, dtype=torch.float64))
    boxes, labels = (torch.rand(5000, 4, generator=draw, dtype=torch.float64) * size for _ in range(2))
    weighted, plain = cost("WIoU-v1", boxes, labels).loss, cost("IoU", boxes, labels).loss
    assert ((weighted / plain >= 1) & (weighted / plain <= math.e)).all()


def test_wiou_prefers_pairs_of_ordinary_quality() -> None:
    # concentric boxes, so that the attention is 1: IoU loss 1 - side, in steps; its weight is loss / IoU loss
    side = torch.linspace(0.05, 0.95, 19)
    boxes = torch.stack((torch.zeros(19), torch.zeros(19), side, torch.ones(19)), dim=1)
    labels = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(19, 4)
    best = int((cost("WIoU", boxes, labels, mean=0.3).loss / (1 - side)).argmax())
    # the factor is largest at an IoU loss of 1 / ln 1.9 = 1.558 means, 0.467
    assert side[best].item() == pytest.approx(0.55, abs=1e-6)


@pytest.mark.parametrize(("text", "letter"), [("", 1), ("CIoU-", 6), ("Inner--CIoU", 7), ("-CIoU", 1)])
def test_a_missing_name_is_no_unknown_one(text: str, letter: int) -> None:
    with pytest.raises(ValueError, match=f"'{text}', letter {letter}: a name is missing; there are "):
        BoxLoss(text)


@pytest.mark.parametrize("numbers", ["alpha=3, delta=6", "alpha=3, delta=0.1", "alpha=1.01, delta=6"])
def test_wiou_stays_of_this_world_at_its_limits(numbers: str) -> None:
    mean, alike = 0.5, torch.tensor([[0.0, 0.0, 2.0, 1.0]], dtype=torch.float64)
    costs = cost(f"WIoU-v3({numbers})", *random_pairs(1000, torch.float64), mean).loss.detach()
    assert (
        float(costs.max()) < 300
    )  # e times the attention, times a weight of 42 at an alpha of 3 and a delta of 6
    assert float(cost(f"WIoU-v3({numbers})", alike, alike, mean).loss) == pytest.approx(0, abs=1e-6)


def test_wiou_survives_a_mean_close_to_zero() -> None:
    assert cost("WIoU", LEFT, RIGHT, mean=1e-5).loss.item() == 0  # an outlier of 66 667 means


@pytest.mark.parametrize("kind", ["WIoU", *ON_CIOU])
def test_only_wiou_2_and_3_look_at_the_mean(kind: str) -> None:
    looks = BoxLoss(kind).batches is not None
    assert looks == ("WIoU" in kind and "v1" not in kind)
    assert looks == (not torch.equal(cost(kind, LEFT, RIGHT, 0.5).loss, cost(kind, LEFT, RIGHT, 0.7).loss))
    assert BoxLoss("WIoU-v2(batches=500)").batches == 500


def random_pairs(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Boxes that overlap, of sides 1-3, centres less than 0.5 apart on each axis."""
    draw = torch.Generator().manual_seed(0)
    boxes = torch.rand(count, 4, generator=draw, dtype=dtype) * torch.tensor([0.5, 0.5, 2, 2]) + 1
    labels = torch.rand(count, 4, generator=draw, dtype=dtype) * torch.tensor([0.5, 0.5, 2, 2]) + 1
    return boxes.to(dtype).requires_grad_(), labels.to(dtype)


class Held:
    """A loss as a function of boxes alone: what it detaches keeps the values of the first call.

    Its derivative is the gradient that is meant, in which those are constants.
    """

    def __init__(self, kind: str, labels: Tensor) -> None:
        self.kind, self.labels = kind, labels
        self.values: list[Tensor] = []

    def __call__(self, boxes: Tensor) -> Tensor:
        plain, held = Tensor.detach, iter(self.values)
        first = not self.values

        def detach(tensor: Tensor) -> Tensor:
            if not first:
                return next(held)
            self.values.append(plain(tensor).clone())
            return self.values[-1]

        with patch.object(Tensor, "detach", detach):
            return cost(self.kind, boxes, self.labels, mean=0.4).loss


@pytest.mark.parametrize("kind", NAMES)
def test_gradients_numerically(kind: str) -> None:
    boxes, labels = random_pairs(2, torch.float64)
    assert torch.autograd.gradcheck(Held(kind, labels), boxes, fast_mode=True)


def test_weights_carry_no_gradient_and_distance_does() -> None:
    """The gradient is that of the loss times a number, in WIoU with the hull alone held: written out anew."""
    boxes, labels = random_pairs(8, torch.float64)
    high = torch.maximum(boxes[:, :2] + boxes[:, 2:] / 2, labels[:, :2] + labels[:, 2:] / 2).detach()
    low = torch.minimum(boxes[:, :2] - boxes[:, 2:] / 2, labels[:, :2] - labels[:, 2:] / 2).detach()
    diagonal = (high - low).square().sum(dim=1) + 1e-7
    iou = overlap(boxes, labels)
    attention = torch.exp((boxes[:, :2] - labels[:, :2]).square().sum(dim=1) / diagonal)
    outlier = (1 - iou.detach()) / 0.4
    corners = [torch.cat((b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2), dim=1) for b in (boxes, labels)]
    sides = labels[:, 2:].repeat(1, 2)
    quality = 1.3 * torch.exp(-((corners[0] - corners[1]).abs() / sides).mean(dim=1)).detach()
    expected = {
        "Focal-EIoU": iou.detach().sqrt() * (1 - overlap(boxes, labels, "EIoU")),
        "WIoU-v1": attention * (1 - iou),
        "WIoU-v2": outlier.sqrt() * attention * (1 - iou),
        "WIoU-v3": outlier / (3 * 1.9 ** (outlier - 3)) * attention * (1 - iou),
        "PIoU2": 3 * quality * torch.exp(-(quality**2)) * (1 - overlap(boxes, labels, "PIoU")),
    }
    for kind, loss in expected.items():
        found = cost(kind, boxes, labels, mean=0.4).loss
        torch.testing.assert_close(found, loss, rtol=1e-6, atol=1e-6)
        wanted = torch.autograd.grad(loss.sum(), boxes, retain_graph=True)[0]
        torch.testing.assert_close(torch.autograd.grad(found.sum(), boxes)[0], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [*BARE, *ON_CIOU])
def test_gradients_of_each_coordinate_numerically(kind: str) -> None:
    boxes, labels = random_pairs(2, torch.float64)
    assert torch.autograd.gradcheck(Held(kind, labels), boxes)
    assert (torch.autograd.grad(cost(kind, boxes, labels).loss.sum(), boxes)[0].abs().sum(dim=1) > 1e-3).all()


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


@pytest.mark.parametrize("kind", NAMES)
def test_losses_and_gradients_are_finite(kind: str) -> None:
    """Each case by itself: in a sum, what is not finite could come from any."""
    boxes, labels = (torch.tensor([case[i] for case in DEGENERATE.values()]) for i in range(2))
    found = cost(kind, boxes.requires_grad_(), labels)
    found.loss.sum().backward()
    assert boxes.grad is not None
    good = (
        found.loss.isfinite() & (found.loss > -1e-6) & (found.overlap <= 1) & boxes.grad.isfinite().all(dim=1)
    )
    assert good.all(), [case for case, fine in zip(DEGENERATE, good.tolist()) if not fine]


@pytest.mark.parametrize("kind", SINGLE)
def test_boxes_that_differ_by_rounding_cost_a_number(kind: str) -> None:
    """Where IoU and penalties may be on the wrong side of 1 and 0, before powers are taken of them."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.rand(400, 4, generator=draw) * 10 ** (torch.rand(400, 1, generator=draw) * 7 - 3)
    boxes = (labels * (1 + 3e-7 * (torch.rand(400, 4, generator=draw) - 0.5))).requires_grad_()
    found = cost(kind, boxes, labels)
    found.loss.sum().backward()
    assert boxes.grad is not None and boxes.grad.isfinite().all()
    assert found.loss.isfinite().all() and (found.loss > -1e-4).all()


@pytest.mark.parametrize("kind", NAMES)
def test_identical_boxes_cost_nothing(kind: str) -> None:
    box = torch.tensor([[3.0, 4.0, 2.0, 5.0], [100.0, 90.0, 60.0, 40.0]])
    assert cost(kind, box, box).loss.abs().max().item() < 1e-6


@pytest.mark.parametrize("kind", SINGLE)
def test_boxes_that_do_not_touch_are_drawn_together(kind: str) -> None:
    """Where the form allows: IoU has no gradient there, and a weight that is IoU is 0."""
    box, label = LEFT.clone().requires_grad_(), torch.tensor([[5.0, 3.0, 2.0, 2.0]])
    cost(kind, box, label).loss.sum().backward()
    assert box.grad is not None
    formula = BoxLoss(kind).formula
    names = {bound.part.name for bound in (*formula.modifiers, formula.base)}
    weighs_distance = {"WIoU-v1", "WIoU-v2", "WIoU-v3", "NWD"} & names
    if "Focal" in names or ("IoU" in names and not weighs_distance):
        assert box.grad.abs().max().item() == 0
    else:
        assert (box.grad[0, :2] < 0).all()  # a step down moves it right and down


@pytest.mark.parametrize("kind", [*BARE, *ON_CIOU])
def test_descending_a_loss_brings_boxes_to_their_labels(kind: str) -> None:
    boxes, labels = random_pairs(64)
    before = overlap(boxes, labels).mean().item()
    assert before < 0.6
    mean = RunningMean()
    optimizer = torch.optim.Adam([boxes], lr=0.05)
    for _ in range(60):
        found = cost(kind, boxes, labels, mean.value)
        optimizer.zero_grad()
        found.loss.mean().backward()
        optimizer.step()
        mean.update(1 - found.iou, lambda tensor: tensor)
    assert overlap(boxes, labels).mean().item() > 0.85


def test_the_running_mean_starts_at_one_and_moves_slowly() -> None:
    mean = RunningMean()
    mean.update(torch.tensor([0.2, 0.6]), lambda tensor: tensor)
    assert mean.value == pytest.approx(1 + MOMENTUM * (0.4 - 1), abs=1e-9)
    before = mean.value
    mean.update(torch.zeros(0), lambda tensor: tensor)
    assert mean.value == before
    for _ in range(6999):
        mean.update(torch.tensor([0.4]), lambda tensor: tensor)
    # after 7000 batches 5 % of the start are left: 0.4 + 0.05 (1 - 0.4)
    assert mean.value == pytest.approx(0.43, abs=1e-6)
    mean = RunningMean()
    for _ in range(10):
        mean.update(torch.tensor([0.4]), lambda tensor: tensor, batches=10)
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
    assert means[0].value == pytest.approx(0.5 + MOMENTUM * (1.4 / 4 - 0.5), abs=1e-9)
