from __future__ import annotations

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
