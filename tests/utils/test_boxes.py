from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils import boxes as B


def random_xyxy(count: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    low = draw.uniform(0, 60, (count, 2))
    return np.concatenate([low, low + draw.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_forms_of_a_box(convert):
    corners = convert(np.array([[10.0, 20.0, 30.0, 60.0]], dtype=np.float32))
    # centre ((10 + 30) / 2, (20 + 60) / 2), size (30 - 10, 60 - 20)
    centred = B.xyxy_to_xywh(corners)
    assert type(centred) is type(corners)
    assert centred.tolist() == [[20.0, 40.0, 20.0, 40.0]]
    assert B.xywh_to_xyxy(centred).tolist() == corners.tolist()
    # an image 80 high, 40 wide: x over 40, y over 80
    fractions = B.normalize(centred, (80, 40))
    assert fractions.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert B.denormalize(fractions, (80, 40)).tolist() == centred.tolist()
    assert corners.tolist() == [[10.0, 20.0, 30.0, 60.0]], "the input is left alone"


def test_conversions_keep_leading_dimensions_and_emptiness():
    assert B.xywh_to_xyxy(torch.zeros(2, 5, 4)).shape == (2, 5, 4)
    assert B.xyxy_to_xywh(np.zeros((3, 2, 4), dtype=np.float32)).shape == (3, 2, 4)
    assert B.xyxy_to_xywh(np.zeros((0, 4), dtype=np.float32)).shape == (0, 4)


@pytest.mark.parametrize("box", [np.ones(4, np.float32), torch.ones(4).half(), torch.ones(4).double()])
def test_conversions_keep_the_type_of_numbers(box):
    shape = (80, 40)
    made = [B.xyxy_to_xywh(box), B.xywh_to_xyxy(box), B.normalize(box, shape), B.denormalize(box, shape)]
    made += [B.clip_boxes(box, shape), B.scale_boxes(box, (64, 64), shape)]
    assert {result.dtype for result in made} == {box.dtype}


def test_clip_limits_each_axis_by_its_own_side():
    out = B.clip_boxes(np.array([[-5.0, -1.0, 50.0, 90.0]]), (80, 40))
    assert out.tolist() == [[0.0, 0.0, 40.0, 80.0]]


def test_clip_puts_what_lies_outside_on_the_border():
    # 40 wide and 80 high: left of and above the image, right of and below it
    outside = np.array([[-9.0, -8.0, -5.0, -4.0], [50.0, 90.0, 60.0, 95.0]])
    assert B.clip_boxes(outside, (80, 40)).tolist() == [[0, 0, 0, 0], [40, 80, 40, 80]]


def test_scale_boxes_undoes_ratio_and_pad():
    # source 100 x 200 (h, w) at ratio 0.5 is 50 x 100, on 64 x 128 with pads 14 left and 7 above:
    # x = (39 - 14) / 0.5 = 50, y = (17 - 7) / 0.5 = 20; right edge (200 - 14) / 0.5 = 372 clips to 200
    found = torch.tensor([[39.0, 17.0, 200.0, 32.0]])
    out = B.scale_boxes(found, (64, 128), (100, 200), ratio=(0.5, 0.5), pad=(14.0, 7.0))
    assert out.tolist() == [[50.0, 20.0, 200.0, 50.0]]


def test_scale_boxes_derives_ratio_and_pad_from_shapes():
    # 100 x 200 into 64 x 64: ratio 64 / 200 = 0.32, height 32, 16 rows above
    out = B.scale_boxes(np.array([[32.0, 32.0, 48.0, 48.0]]), (64, 64), (100, 200))
    np.testing.assert_allclose(out, [[100.0, 50.0, 150.0, 100.0]])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        # 200 x 100 (h, w) into 48 x 64: ratio 48 / 200 = 0.24, width 24, 20 columns on the left
        ((200, 100), [[50.0, 50.0, 75.0, 100.0]]),  # (32 - 20) / 0.24, 12 / 0.24, (38 - 20) / 0.24, 24 / 0.24
        # 30 x 100 into 48 x 64: ratio 64 / 100 = 0.64, height 19.2, 14.4 rows above
        ((30, 100), [[50.0, 0.0, 59.375, 15.0]]),  # 32 / 0.64, (12 - 14.4) < 0, 38 / 0.64, (24 - 14.4) / 0.64
    ],
)
def test_scale_boxes_derives_them_for_any_shape(source, expected):
    found = np.array([[32.0, 12.0, 38.0, 24.0]])
    np.testing.assert_allclose(B.scale_boxes(found, (48, 64), source), expected)


def test_scale_boxes_accepts_different_ratios_per_axis():
    out = B.scale_boxes(np.array([[10.0, 10.0, 20.0, 20.0]]), (64, 64), (64, 64), (0.5, 2.0), (0.0, 0.0))
    assert out.tolist() == [[20.0, 5.0, 40.0, 10.0]]
    # a source of 64 x 32 (h, w) as it is in width and half as high: 16 columns and 16 rows around it
    out = B.scale_boxes(np.array([[18.0, 20.0, 26.0, 30.0]]), (64, 64), (64, 32), (1.0, 0.5))
    assert out.tolist() == [[2.0, 8.0, 10.0, 28.0]]


def naive_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_box_iou_against_a_loop():
    rows, columns = random_xyxy(17), random_xyxy(23, seed=1)
    expected = [[naive_iou(a, b) for b in columns] for a in rows]
    np.testing.assert_allclose(B.box_iou(rows, columns), expected, atol=1e-5)


def test_box_iou_of_nothing_and_of_empty_boxes():
    assert B.box_iou(np.zeros((0, 4)), np.ones((3, 4))).shape == (0, 3)
    point = np.array([[5.0, 5.0, 5.0, 5.0]])
    assert B.box_iou(point, point).tolist() == [[0.0]]


def test_box_iou_is_a_share_however_small_the_boxes():
    sides = 10.0 ** np.arange(-8, 1)
    boxes = np.stack([np.zeros(9), np.zeros(9), sides, sides], axis=1)
    overlap = B.box_iou(boxes, boxes)
    assert ((overlap > 0) & (overlap < 1)).all()


def test_lines_have_one_aspect():
    lines = torch.tensor([[0.0, 0.0, 4.0, 0.0], [1.0, 0.0, 2.0, 0.0]])
    for first, second in (lines, lines.flip(0)):
        assert B.iou(first, second, "CIoU").item() == pytest.approx(B.iou(first, second, "DIoU").item())


def test_paired_kinds_by_hand():
    # two 2 x 2 squares, centres 1 apart in x: shared 1 x 2 = 2, union 4 + 4 - 2 = 6, hull 3 x 2
    a, b = torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([2.0, 1.0, 2.0, 2.0])
    assert B.iou(a, b).item() == pytest.approx(2 / 6, abs=1e-6)
    assert B.iou(a, b, "GIoU").item() == pytest.approx(2 / 6 - (6 - 6) / 6, abs=1e-6)
    # squared centre distance 1, squared hull diagonal 9 + 4
    assert B.iou(a, b, "DIoU").item() == pytest.approx(2 / 6 - 1 / 13, abs=1e-6)
    # same aspect ratio: CIoU is DIoU
    assert B.iou(a, b, "CIoU").item() == pytest.approx(2 / 6 - 1 / 13, abs=1e-6)


def test_ciou_aspect_term_by_hand():
    # 4 x 1 and 1 x 1 around one centre: shared 1, union 4, no distance
    a, b = torch.tensor([0.0, 0.0, 4.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    aspect = 4 / math.pi**2 * (math.atan(1) - math.atan(4)) ** 2
    weight = aspect / (1 - 1 / 4 + aspect)
    assert B.iou(a, b, "CIoU").item() == pytest.approx(1 / 4 - weight * aspect, abs=1e-6)


# corners (0, 0), (2, 2) and (1, 0), (5, 2), centres 2 apart: shared 1 x 2, union 4 + 8 - 2 = 10, hull 5 x 2
SQUARE, WIDE = torch.tensor([1.0, 1.0, 2.0, 2.0]), torch.tensor([3.0, 1.0, 4.0, 2.0])


def test_eiou_by_hand():
    # squared centre distance 4 over 25 + 4, squared difference of widths 4 over 25, of heights 0
    assert B.iou(SQUARE, WIDE, "EIoU").item() == pytest.approx(0.2 - 4 / 29 - 4 / 25, abs=1e-6)


def test_mpdiou_by_hand():
    # top-left corners 1 apart, bottom-right ones 3; an image of 8 x 6 has the squared diagonal 100
    overlap = B.iou(SQUARE, WIDE, "MPDIoU", image=(8, 6))
    assert overlap.item() == pytest.approx(0.2 - (1 + 9) / 100, abs=1e-6)
    assert B.iou(WIDE, SQUARE, "MPDIoU", image=(6, 8)).item() == pytest.approx(overlap.item())
    # boxes that share a centre are measured by their sides: 4 x 2 and 2 x 2, corners 1 apart twice
    nested = B.iou(SQUARE, torch.tensor([1.0, 1.0, 4.0, 2.0]), "MPDIoU", image=(8, 6))
    assert nested.item() == pytest.approx(4 / 8 - 2 / 100, abs=1e-6)
    with pytest.raises(ValueError, match="MPDIoU needs the image's width and height"):
        B.iou(SQUARE, WIDE, "MPDIoU")


def test_siou_distance_cost_by_hand():
    # along an axis the angle cost is 0: distance cost 1 - exp(-2 (1 / 3)^2), same shape
    along = B.iou(SQUARE, torch.tensor([2.0, 1.0, 2.0, 2.0]), "SIoU")
    assert along.item() == pytest.approx(2 / 6 - (1 - math.exp(-2 / 9)) / 2, abs=1e-6)
    # at 45 degrees it is 1: distance cost 2 (1 - exp(-(2 - 1) (1 / 3)^2)); shared 1, union 7
    across = B.iou(SQUARE, torch.tensor([2.0, 2.0, 2.0, 2.0]), "SIoU")
    assert across.item() == pytest.approx(1 / 7 - (1 - math.exp(-1 / 9)), abs=1e-6)


def test_siou_angle_cost_is_that_of_the_paper():
    # 4 x 4 boxes, centres (sqrt 3, 1) apart, at 30 degrees: shared (4 - sqrt 3) x 3, hull (4 + sqrt 3) x 5
    root = math.sqrt(3)
    angle = 1 - 2 * math.sin(math.asin(1 / 2) - math.pi / 4) ** 2
    distance = 2 - math.exp(-(2 - angle) * 3 / (4 + root) ** 2) - math.exp(-(2 - angle) / 25)
    shared = (4 - root) * 3
    found = B.iou(torch.tensor([0.0, 0.0, 4.0, 4.0]), torch.tensor([root, -1.0, 4.0, 4.0]), "SIoU")
    assert found.item() == pytest.approx(shared / (32 - shared) - distance / 2, abs=1e-6)


def test_siou_shape_cost_by_hand():
    # 4 x 1 and 1 x 1 around one centre: widths differ by 3 of 4, heights are the same
    a, b = torch.tensor([0.0, 0.0, 4.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    expected = 1 / 4 - (1 - math.exp(-3 / 4)) ** 4 / 2
    assert B.iou(a, b, "SIoU").item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["IoU", "GIoU", "DIoU", "CIoU"])
def test_paired_kinds_equal_the_recorded_values(golden, kind):
    data = np.load(golden / "iou_xywh.npz")
    out = B.iou(torch.tensor(data["b1"]), torch.tensor(data["b2"]), kind)
    np.testing.assert_allclose(out, data[kind], atol=1e-6)


@pytest.mark.parametrize("kind", list(B.IOU_KINDS))
def test_paired_kinds_are_one_for_equal_boxes_and_have_finite_gradients(kind):
    box = torch.tensor([[3.0, 4.0, 2.0, 5.0]], dtype=torch.float64)
    assert B.iou(box, box, kind, image=(20, 10)).item() == pytest.approx(1, abs=1e-6)
    degenerate = torch.tensor([[3.0, 4.0, 0.0, 0.0], [9.0, 9.0, 1.0, 1.0]], requires_grad=True)
    B.iou(degenerate, torch.tensor([3.0, 4.0, 0.0, 0.0]), kind, image=(20, 10)).sum().backward()
    assert degenerate.grad is not None and degenerate.grad.isfinite().all()


@pytest.mark.parametrize("kind", list(B.IOU_KINDS))
def test_paired_kinds_treat_both_axes_alike(kind):
    a, b = (pair.detach() for pair in random_pairs())
    transposed = B.iou(a[:, [1, 0, 3, 2]], b[:, [1, 0, 3, 2]], kind, image=(2, 3))
    torch.testing.assert_close(B.iou(a, b, kind, image=(3, 2)), transposed, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("kind", list(B.IOU_KINDS))
def test_paired_kinds_are_at_most_iou_however_small_the_boxes(kind):
    """Where the number that keeps apart from division by zero is as large as what it is added to, too."""
    draw = np.random.default_rng(0)
    pairs = torch.tensor(draw.uniform(0.1, 1, (9000, 2, 4)) * 10.0 ** draw.uniform(-9, 0, (9000, 1, 1)))
    found = B.iou(pairs[:, 0], pairs[:, 1], kind, image=(2e-5, 1e-5))
    assert found.isfinite().all() and (found <= B.iou(pairs[:, 0], pairs[:, 1]) + 1e-12).all()
    assert (B.iou(pairs[:, 0], pairs[:, 1]) >= 0).all()


@pytest.mark.parametrize("kind", list(B.IOU_KINDS))
def test_points_on_one_place_have_no_overlap_and_no_distance(kind):
    point = torch.tensor([3.0, 4.0, 0.0, 0.0])
    assert B.iou(point, point, kind, image=(20, 10)).item() == 0


def random_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    a = torch.rand(8, 4, generator=draw, dtype=torch.float64) + 0.5
    b = torch.rand(8, 4, generator=draw, dtype=torch.float64) + 0.5
    return a.requires_grad_(), b


@pytest.mark.parametrize("kind", [kind for kind in B.IOU_KINDS if kind != "CIoU"])
def test_paired_gradients_numerically(kind):
    a, b = random_pairs()
    assert torch.autograd.gradcheck(lambda x: B.iou(x, b, kind, image=(3, 2)), a)


def test_ciou_gradient_numerically_with_its_weight_held_constant():
    a, b = random_pairs()

    def aspect(x: torch.Tensor) -> torch.Tensor:
        angle = torch.atan(b[:, 2] / b[:, 3]) - torch.atan(x[:, 2] / x[:, 3])
        return 4 / math.pi**2 * angle**2

    held = (aspect(a) / (1 - B.iou(a, b) + aspect(a))).detach()

    def ciou(x: torch.Tensor) -> torch.Tensor:
        return B.iou(x, b, "DIoU") - held * aspect(x)

    assert torch.autograd.gradcheck(ciou, a)
    (expected,) = torch.autograd.grad(ciou(a).sum(), a)
    (found,) = torch.autograd.grad(B.iou(a, b, "CIoU").sum(), a)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="'XIoU'; known: IoU, GIoU, DIoU, CIoU"):
        B.iou(torch.zeros(4), torch.zeros(4), "XIoU")
