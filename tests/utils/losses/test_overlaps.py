"""The measures that box losses are made of: by hand, by numeric differentiation, on degenerate boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils.losses.overlaps import BASES, PairGeometry, measure, overlap


def test_lines_have_one_aspect():
    lines = torch.tensor([[0.0, 0.0, 4.0, 0.0], [1.0, 0.0, 2.0, 0.0]])
    for first, second in (lines, lines.flip(0)):
        assert overlap(first, second, "CIoU").item() == pytest.approx(overlap(first, second, "DIoU").item())


def test_paired_kinds_by_hand():
    # two 2 x 2 squares, centres 1 apart in x: shared 1 x 2 = 2, union 4 + 4 - 2 = 6, hull 3 x 2
    a, b = torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([2.0, 1.0, 2.0, 2.0])
    assert overlap(a, b).item() == pytest.approx(2 / 6, abs=1e-6)
    assert overlap(a, b, "GIoU").item() == pytest.approx(2 / 6 - (6 - 6) / 6, abs=1e-6)
    # squared centre distance 1, squared hull diagonal 9 + 4
    assert overlap(a, b, "DIoU").item() == pytest.approx(2 / 6 - 1 / 13, abs=1e-6)
    # same aspect ratio: CIoU is DIoU
    assert overlap(a, b, "CIoU").item() == pytest.approx(2 / 6 - 1 / 13, abs=1e-6)


def test_ciou_aspect_term_by_hand():
    # 4 x 1 and 1 x 1 around one centre: shared 1, union 4, no distance
    a, b = torch.tensor([0.0, 0.0, 4.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    aspect = 4 / math.pi**2 * (math.atan(1) - math.atan(4)) ** 2
    weight = aspect / (1 - 1 / 4 + aspect)
    assert overlap(a, b, "CIoU").item() == pytest.approx(1 / 4 - weight * aspect, abs=1e-6)


# corners (0, 0), (2, 2) and (1, 0), (5, 2), centres 2 apart: shared 1 x 2, union 4 + 8 - 2 = 10, hull 5 x 2
SQUARE, WIDE = torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([3.0, 1.0, 4.0, 2.0])


def test_eiou_by_hand():
    # squared centre distance 4 over 25 + 4, squared difference of widths 4 over 25, of heights 0
    assert overlap(SQUARE, WIDE, "EIoU").item() == pytest.approx(0.2 - 4 / 29 - 4 / 25, abs=1e-6)


def test_mpdiou_by_hand():
    # top-left corners 1 apart, bottom-right ones 3; an image of 8 x 6 has the squared diagonal 100
    found = overlap(SQUARE, WIDE, "MPDIoU", image=(8, 6))
    assert found.item() == pytest.approx(0.2 - (1 + 9) / 100, abs=1e-6)
    assert overlap(WIDE, SQUARE, "MPDIoU", image=(6, 8)).item() == pytest.approx(found.item())
    # boxes that share a centre are measured by their sides: 4 x 2 and 2 x 2, corners 1 apart twice
    nested = overlap(SQUARE, torch.tensor([1.0, 1.0, 4.0, 2.0]), "MPDIoU", image=(8, 6))
    assert nested.item() == pytest.approx(4 / 8 - 2 / 100, abs=1e-6)
    with pytest.raises(ValueError, match="MPDIoU needs the image's width and height"):
        overlap(SQUARE, WIDE, "MPDIoU")


def test_siou_distance_cost_by_hand():
    # along an axis the angle cost is 0: distance cost 1 - exp(-2 (1 / 3)^2), same shape
    along = overlap(SQUARE, torch.tensor([2.0, 1.0, 2.0, 2.0]), "SIoU")
    assert along.item() == pytest.approx(2 / 6 - (1 - math.exp(-2 / 9)) / 2, abs=1e-6)
    # at 45 degrees it is 1: distance cost 2 (1 - exp(-(2 - 1) (1 / 3)^2)); shared 1, union 7
    across = overlap(SQUARE, torch.tensor([2.0, 2.0, 2.0, 2.0]), "SIoU")
    assert across.item() == pytest.approx(1 / 7 - (1 - math.exp(-1 / 9)), abs=1e-6)


def test_siou_angle_cost_is_that_of_the_paper():
    # 4 x 4 boxes, centres (sqrt 3, 1) apart, at 30 degrees: shared (4 - sqrt 3) x 3, hull (4 + sqrt 3) x 5
    root = math.sqrt(3)
    angle = 1 - 2 * math.sin(math.asin(1 / 2) - math.pi / 4) ** 2
    distance = 2 - math.exp(-(2 - angle) * 3 / (4 + root) ** 2) - math.exp(-(2 - angle) / 25)
    shared = (4 - root) * 3
    found = overlap(torch.tensor([0.0, 0.0, 4.0, 4.0]), torch.tensor([root, -1.0, 4.0, 4.0]), "SIoU")
    assert found.item() == pytest.approx(shared / (32 - shared) - distance / 2, abs=1e-6)


def test_siou_shape_cost_by_hand():
    # 4 x 1 and 1 x 1 around one centre: widths differ by 3 of 4, heights are the same
    a, b = torch.tensor([0.0, 0.0, 4.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    expected = 1 / 4 - (1 - math.exp(-3 / 4)) ** 4 / 2
    assert overlap(a, b, "SIoU").item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["IoU", "GIoU", "DIoU", "CIoU"])
def test_paired_kinds_equal_the_recorded_values(golden, kind):
    data = np.load(golden / "iou_xywh.npz")
    out = overlap(torch.tensor(data["b1"]), torch.tensor(data["b2"]), kind)
    np.testing.assert_allclose(out, data[kind], atol=1e-6)


def test_shape_iou_by_hand():
    # scale 0: both weights 1. Squared centre distance 4 over 25 + 4; widths differ by 2 of 4, heights do not
    found = overlap(SQUARE, WIDE, "Shape-IoU")
    assert found.item() == pytest.approx(0.2 - 4 / 29 - (1 - math.exp(-1 / 2)) ** 4 / 2, abs=1e-6)


def test_shape_iou_weighs_by_the_sides_of_the_label():
    # scale 1, the label 4 x 2: W = 2 * 4 / 6, H = 2 * 2 / 6; the centres differ across, which H weighs
    high = 2 / 3
    shape = (1 - math.exp(-high / 2)) ** 4
    found = measure(BASES["Shape-IoU"].function(PairGeometry.of(SQUARE, WIDE), scale=1.0))
    assert found.item() == pytest.approx(0.2 - high * 4 / 29 - shape / 2, abs=1e-6)


def test_shape_iou_weighs_both_ways():
    # the label (1, 1, 5, 3), centre (3, 2), 4 x 2: W = 8 / 6, H = 4 / 6. Seen (0, 0, 2, 2): 2 across, 1 down,
    # 1 of 4 + 8 - 1 shared, hull 5 x 3; widths differ by 2 of 4, which H weighs
    label = torch.tensor([3.0, 2.0, 4.0, 2.0])
    shape = (1 - math.exp(-2 / 3 / 2)) ** 4
    found = measure(BASES["Shape-IoU"].function(PairGeometry.of(SQUARE, label), scale=1.0))
    assert found.item() == pytest.approx(1 / 11 - (2 / 3 * 4 + 4 / 3 * 1) / 34 - shape / 2, abs=1e-6)


def test_piou_by_hand():
    # edges of (0, 0, 2, 2) and (1, 0, 5, 2) are 1, 3, 0 and 0 apart: P = (1 / 4 + 3 / 4) / 4
    assert overlap(SQUARE, WIDE, "PIoU").item() == pytest.approx(0.2 - (1 - math.exp(-1 / 16)), abs=1e-6)
    # the sides are those of the label: now 1 and 3 of 2
    assert overlap(WIDE, SQUARE, "PIoU").item() == pytest.approx(0.2 - (1 - math.exp(-1 / 4)), abs=1e-6)


def test_nwd_by_hand():
    # centres 2 apart, half sides 1 apart: W = sqrt(4 + 1) units of 8 pixels, c = 12.8
    found = overlap(SQUARE, WIDE, "NWD", pixels=8)
    assert found.item() == pytest.approx(math.exp(-8 * math.sqrt(5) / 12.8), abs=1e-6)
    with pytest.raises(ValueError, match="NWD needs to know how many pixels"):
        overlap(SQUARE, WIDE, "NWD")


def test_nwd_is_the_published_distance_of_normal_distributions():
    # W2 of diagonal normal distributions: |m1 - m2|^2 + |sqrt S1 - sqrt S2|^2, with S = diag(w^2, h^2) / 4
    draw = np.random.default_rng(0)
    for a, b in draw.uniform(1, 50, (20, 2, 4)):
        spread = np.sqrt(np.array([[a[2] ** 2, a[3] ** 2], [b[2] ** 2, b[3] ** 2]]) / 4)
        distance = math.sqrt(((a[:2] - b[:2]) ** 2).sum() + ((spread[0] - spread[1]) ** 2).sum())
        found = overlap(torch.tensor(a), torch.tensor(b), "NWD", pixels=1)
        assert found.item() == pytest.approx(math.exp(-distance / 12.8), abs=1e-9)


@pytest.mark.parametrize("kind", list(BASES))
def test_paired_kinds_are_one_for_equal_boxes_and_have_finite_gradients(kind):
    box = torch.tensor([[3.0, 4.0, 2.0, 5.0]], dtype=torch.float64)
    assert overlap(box, box, kind, image=(20, 10), pixels=8).item() == pytest.approx(1, abs=1e-6)
    degenerate = torch.tensor([[3.0, 4.0, 0.0, 0.0], [9.0, 9.0, 1.0, 1.0]], requires_grad=True)
    overlap(degenerate, torch.tensor([3.0, 4.0, 0.0, 0.0]), kind, image=(20, 10), pixels=8).sum().backward()
    assert degenerate.grad is not None and degenerate.grad.isfinite().all()


@pytest.mark.parametrize("kind", list(BASES))
def test_paired_kinds_treat_both_axes_alike(kind):
    a, b = (pair.detach() for pair in random_pairs())
    transposed = overlap(a[:, [1, 0, 3, 2]], b[:, [1, 0, 3, 2]], kind, image=(2, 3), pixels=8)
    torch.testing.assert_close(overlap(a, b, kind, image=(3, 2), pixels=8), transposed, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", [kind for kind in BASES if kind != "NWD"])
def test_paired_kinds_are_at_most_iou_however_small_the_boxes(kind):
    """Where the number that keeps apart from division by zero is as large as what it is added to, too."""
    draw = np.random.default_rng(0)
    pairs = torch.tensor(draw.uniform(0.1, 1, (9000, 2, 4)) * 10.0 ** draw.uniform(-9, 0, (9000, 1, 1)))
    found = overlap(pairs[:, 0], pairs[:, 1], kind, image=(2e-5, 1e-5))
    assert found.isfinite().all() and (found <= overlap(pairs[:, 0], pairs[:, 1]) + 1e-12).all()
    assert (overlap(pairs[:, 0], pairs[:, 1]) >= 0).all()


@pytest.mark.parametrize("kind", [kind for kind in BASES if kind != "NWD"])
def test_points_on_one_place_have_no_overlap_and_no_distance(kind):
    point = torch.tensor([3.0, 4.0, 0.0, 0.0])
    assert overlap(point, point, kind, image=(20, 10), pixels=8).item() == 0


def random_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    a = torch.rand(8, 4, generator=draw, dtype=torch.float64) + 0.5
    b = torch.rand(8, 4, generator=draw, dtype=torch.float64) + 0.5
    return a.requires_grad_(), b


@pytest.mark.parametrize("kind", [kind for kind in BASES if kind != "CIoU"])
def test_paired_gradients_numerically(kind):
    a, b = random_pairs()
    assert torch.autograd.gradcheck(lambda x: overlap(x, b, kind, image=(3, 2), pixels=8), a)


def test_ciou_gradient_numerically_with_its_weight_held_constant():
    a, b = random_pairs()

    def aspect(x: torch.Tensor) -> torch.Tensor:
        angle = torch.atan(b[:, 2] / b[:, 3]) - torch.atan(x[:, 2] / x[:, 3])
        return 4 / math.pi**2 * angle**2

    held = (aspect(a) / (1 - overlap(a, b) + aspect(a))).detach()

    def ciou(x: torch.Tensor) -> torch.Tensor:
        return overlap(x, b, "DIoU") - held * aspect(x)

    assert torch.autograd.gradcheck(ciou, a)
    (expected,) = torch.autograd.grad(ciou(a).sum(), a)
    (found,) = torch.autograd.grad(overlap(a, b, "CIoU").sum(), a)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="'XIoU'; known: IoU, GIoU, DIoU, CIoU"):
        overlap(torch.zeros(4), torch.zeros(4), "XIoU")
