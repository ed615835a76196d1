from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from utils import nms as nms_module
from utils.boxes import box_iou, scale_boxes, xywh_to_xyxy
from utils.nms import non_max_suppression


def prediction(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float32)


# Two 10 x 10 boxes 1 px apart: shared 9 x 10 = 90, union 110, IoU 0.818. The third is far away.
NEAR = prediction(
    [50, 50, 10, 10, 0.9, 0.9, 0.2],  # scores 0.81, 0.18
    [51, 50, 10, 10, 0.8, 0.9, 0.1],  # 0.72, 0.08
    [90, 50, 10, 10, 0.5, 0.1, 0.8],  # 0.05, 0.40
)


def test_overlapping_box_of_the_same_class_is_dropped():
    (found,) = non_max_suppression(NEAR, 0.25, 0.45)
    np.testing.assert_allclose(found, [[45, 45, 55, 55, 0.81, 0], [85, 45, 95, 55, 0.40, 1]], atol=1e-5)


def test_iou_threshold_decides():
    assert len(non_max_suppression(NEAR, 0.25, 0.81)[0]) == 2
    assert len(non_max_suppression(NEAR, 0.25, 0.82)[0]) == 3


def test_multi_label_yields_every_class_above_the_threshold():
    (found,) = non_max_suppression(NEAR, 0.1, 0.45, multi_label=True)
    np.testing.assert_allclose(found[:, 4], [0.81, 0.40, 0.18], atol=1e-6)
    assert found[:, 5].tolist() == [0, 1, 1]


def test_classes_suppress_each_other_only_when_agnostic():
    rows = prediction([50, 50, 10, 10, 0.9, 0.9, 0], [51, 50, 10, 10, 0.9, 0, 0.8])
    assert non_max_suppression(rows)[0][:, 5].tolist() == [0, 1]
    assert non_max_suppression(rows, agnostic=True)[0][:, 5].tolist() == [0]


def test_classes_do_not_meet_where_boxes_reach_over_the_border():
    # corners (0, 0, 10, 10) of class 0 and (-11, -11, -1, -1) of class 1: a step for each class that only
    # counts from 0 on, of 10 + 1, would put the second one on the first
    rows = prediction([5, 5, 10, 10, 0.9, 0.9, 0], [-6, -6, 10, 10, 0.9, 0, 0.8])
    assert non_max_suppression(rows)[0][:, 5].tolist() == [0, 1]
    # (9, 9, 10, 10) and (0, 0, 1, 1): a step of one less than all that the boxes span would be 9
    rows = prediction([9.5, 9.5, 1, 1, 0.9, 0.9, 0], [0.5, 0.5, 1, 1, 0.9, 0, 0.8])
    assert non_max_suppression(rows)[0][:, 5].tolist() == [0, 1]
    # (-11, -11, 10, 10) twice: 10 - 11 + 1 would be no step
    rows = prediction([-0.5, -0.5, 21, 21, 0.9, 0.9, 0], [-0.5, -0.5, 21, 21, 0.9, 0, 0.8])
    assert non_max_suppression(rows)[0][:, 5].tolist() == [0, 1]


def test_class_filter():
    (found,) = non_max_suppression(NEAR, 0.25, 0.45, classes=[1])
    assert found[:, 5].tolist() == [1]
    assert non_max_suppression(NEAR, classes=[])[0].shape == (0, 6)


def test_max_det_keeps_the_most_confident():
    (found,) = non_max_suppression(NEAR, 0.25, 0.9, max_det=2)
    np.testing.assert_allclose(found[:, 4], [0.81, 0.72], atol=1e-6)


def test_objectness_alone_filters():
    # the product 0.2 * 1.0 is what class scores say, but objectness 0.2 is already below 0.25
    assert non_max_suppression(prediction([5, 5, 2, 2, 0.2, 1.0]), 0.25)[0].shape == (0, 6)


def apart(*scores: float) -> torch.Tensor:
    """A prediction of boxes side by side with these scores; powers of two are exact."""
    return prediction(*([10 * place, 5, 4, 4, 1, score] for place, score in enumerate(scores)))


@pytest.mark.parametrize("multi_label", [False, True])
def test_scores_must_exceed_the_threshold(multi_label):
    (found,) = non_max_suppression(apart(0.5, 0.75, 0.25), 0.5, multi_label=multi_label)
    assert found[:, 4].tolist() == [0.75]
    objectness = prediction([5, 5, 2, 2, 0.5, 1.0], [25, 5, 2, 2, 0.625, 1.0])
    assert non_max_suppression(objectness, 0.5, multi_label=multi_label)[0][:, 4].tolist() == [0.625]


def test_thresholds_may_be_at_their_ends():
    assert len(non_max_suppression(apart(0.5, 0.0), 0.0)[0]) == 1
    assert len(non_max_suppression(apart(0.5, 1.0), 1.0)[0]) == 0
    touching = prediction([50, 50, 10, 10, 0.9, 0.9], [60, 50, 10, 10, 0.8, 0.9], [55, 50, 10, 10, 0.7, 0.9])
    assert len(non_max_suppression(touching, 0.25, 0.0)[0]) == 2  # no overlap is allowed: the third is gone
    assert len(non_max_suppression(torch.cat((touching, touching), dim=1), 0.25, 1.0)[0]) == 6


def test_defaults_are_those_of_the_field():
    # half of each box is covered by the next: shared 5 x 10, union 150; two thirds: shared 7 x 10, union 130
    third, more = [55, 50, 10, 10, 1, 0.5], [53, 50, 10, 10, 1, 0.5]
    assert len(non_max_suppression(prediction([50, 50, 10, 10, 1, 0.9], third))[0]) == 2  # IoU 0.33
    assert len(non_max_suppression(prediction([50, 50, 10, 10, 1, 0.9], more))[0]) == 1  # IoU 0.54
    assert non_max_suppression(apart(0.26, 0.24))[0][:, 4].tolist() == pytest.approx([0.26])
    assert len(non_max_suppression(apart(*[0.5] * 305))[0]) == 300


def test_only_the_most_confident_candidates_are_looked_at(monkeypatch):
    assert nms_module.MAX_CANDIDATES == 30_000  # as in YOLOv5
    monkeypatch.setattr(nms_module, "MAX_CANDIDATES", 3)
    (found,) = non_max_suppression(apart(0.5, 0.9, 0.6, 0.8, 0.7))
    np.testing.assert_allclose(found[:, 4], [0.9, 0.8, 0.7], atol=1e-6)
    assert found[:, 0].tolist() == [8, 28, 38]  # centres 10, 30 and 40


def test_equally_confident_boxes_stay_in_their_order():
    (found,) = non_max_suppression(apart(*[0.5] * 40))
    assert found[:, 0].tolist() == [10 * place - 2 for place in range(40)]


def test_suppression_carries_no_gradient():
    rows = NEAR.clone().requires_grad_()
    assert not non_max_suppression(rows)[0].requires_grad


def test_labels_belong_to_their_image():
    known = [torch.tensor([[1.0, 20, 20, 4, 6], [0.0, 70, 20, 4, 6]]), torch.zeros(0, 5)]
    first, second = non_max_suppression(torch.cat([NEAR, NEAR]), labels=known)
    assert first[:2].tolist() == [[18, 17, 22, 23, 1, 1], [68, 17, 72, 23, 1, 0]]
    assert (len(first), len(second)) == (4, 2)
    # with every class: 1 for its own and 0 for the other
    only = non_max_suppression(torch.zeros(1, 3, 7), labels=known[:1], multi_label=True)[0]
    assert only[:, 5].tolist() == [1, 0]


def test_images_of_a_batch_are_independent_and_may_be_empty():
    batch = torch.cat([torch.zeros_like(NEAR), NEAR])
    first, second = non_max_suppression(batch)
    assert first.shape == (0, 6) and len(second) == 2


def test_labels_enter_with_confidence_one():
    known = torch.tensor([[1.0, 20, 20, 4, 6]])
    (found,) = non_max_suppression(NEAR, 0.25, 0.45, labels=[known])
    assert found[0].tolist() == [18, 17, 22, 23, 1, 1]
    assert len(found) == 3


def test_half_precision_predictions_give_float32_and_the_input_is_untouched():
    half = NEAR.half()
    before = half.clone()
    (found,) = non_max_suppression(half)
    assert found.dtype == torch.float32 and len(found) == 2
    assert torch.equal(half, before)


def test_non_finite_scores_are_no_detections():
    rows = prediction([5, 5, 2, 2, float("nan"), 1.0], [5, 5, 2, 2, 0.9, float("nan")])
    assert non_max_suppression(rows, multi_label=True)[0].shape == (0, 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((NEAR, 1.5), "conf_thres must be between 0 and 1, found 1.5"),
        ((NEAR, 0.2, -0.1), "iou_thres must be between 0 and 1, found -0.1"),
        ((NEAR[0],), r"prediction must be \(B, N, 5 \+ nc\), found \(3, 7\)"),
        ((NEAR[..., :5],), r"prediction must be \(B, N, 5 \+ nc\), found \(1, 3, 5\)"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        non_max_suppression(*arguments)


SETTINGS = {
    "nms_detect": {"conf_thres": 0.25, "iou_thres": 0.45, "max_det": 1000},
    "nms_val": {"conf_thres": 0.001, "iou_thres": 0.6, "multi_label": True},
    "nms_agnostic": {"conf_thres": 0.25, "iou_thres": 0.45, "agnostic": True, "max_det": 1000},
    "nms_classes": {"conf_thres": 0.25, "iou_thres": 0.45, "classes": [0], "max_det": 1000},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_recorded_detections(golden, name):
    data = np.load(golden / "nms_bus.npz")
    (found,) = non_max_suppression(torch.tensor(data["pred"])[None], **SETTINGS[name])
    np.testing.assert_allclose(found, data[name], atol=1e-4)


def test_recorded_boxes_on_the_source_image(golden):
    data = np.load(golden / "nms_bus.npz")
    (found,) = non_max_suppression(torch.tensor(data["pred"])[None], **SETTINGS["nms_detect"])
    scaled = scale_boxes(found[:, :4], tuple(data["input_shape"][2:]), tuple(data["im0_shape"][:2]))
    np.testing.assert_allclose(scaled, data["scaled"], atol=1e-3)


def naive_nms(rows: torch.Tensor, conf: float, iou: float, max_det: int) -> list[list[float]]:
    """Greedy suppression as in a textbook, multi-label."""
    pool = []
    for row in rows:
        for category, score in enumerate((row[5:] * row[4]).tolist()):
            if score > conf:
                pool.append([*xywh_to_xyxy(row[:4]).tolist(), score, float(category)])
    kept: list[list[float]] = []
    for box in sorted(pool, key=lambda b: -b[4]):
        rivals = [k for k in kept if k[5] == box[5]]
        if all(box_iou(np.array([box[:4]]), np.array([k[:4]])).item() <= iou for k in rivals):
            kept.append(box)
    return kept[:max_det]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_det", [3, 300])
def test_against_a_loop(seed, max_det):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.rand(40, 8, generator=draw)
    rows[:, :4] = rows[:, :4] * 60 + 5
    (found,) = non_max_suppression(rows[None], 0.2, 0.4, multi_label=True, max_det=max_det)
    np.testing.assert_allclose(found, naive_nms(rows, 0.2, 0.4, max_det), atol=1e-4)


def test_prefix_search_equals_suppressing_everything():
    # 5000 boxes in a small area: far more candidates than the first look takes
    draw = torch.Generator().manual_seed(1)
    rows = torch.rand(1, 5000, 7, generator=draw)
    rows[..., :2] *= 1000
    rows[..., 2:4] = 40
    (found,) = non_max_suppression(rows, 0.01, 0.3, max_det=300)
    (everything,) = non_max_suppression(rows, 0.01, 0.3, max_det=5000)
    assert len(everything) > 300
    assert torch.equal(found, everything[:300])


def test_suppression_does_not_import_torchvision():
    code = (
        "import sys, torch; from utils.nms import non_max_suppression as f;"
        "f(torch.ones(1, 4, 6)); sys.exit('torchvision' in sys.modules)"
    )
    root = str(nms_module.__file__).rsplit("utils", 1)[0]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_kernel_falls_back_to_importing_torchvision():
    # The operators are registered for the whole process, so the missing library is seen in a fresh one.
    code = (
        "import sys, torch, utils.nms as n; n._operator_library = lambda: None;"
        "n.non_max_suppression(torch.ones(1, 4, 6)); sys.exit('torchvision' not in sys.modules)"
    )
    root = str(nms_module.__file__).rsplit("utils", 1)[0]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
