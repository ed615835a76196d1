from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from utils.hyperparameters import Hyperparameters
from utils.losses.composition import RunningMean
from utils.losses.detection import DetectionLoss, assign

HYP = Hyperparameters()
MOMENTUM = 1 - 0.05 ** (1 / 7000)  # of WIoU's mean
FOCAL = dataclasses.replace(HYP, fl_gamma=1.5, label_smoothing=0.1)
TAGS = {"plain": HYP, "focal_ls": FOCAL}


def load(golden, nc: int) -> tuple[np.lib.npyio.NpzFile, list[torch.Tensor], torch.Tensor, torch.Tensor]:
    data = np.load(golden / f"loss_nc{nc}.npz")
    predictions = [torch.tensor(data[f"p{i}"], requires_grad=True) for i in range(3)]
    return data, predictions, torch.tensor(data["anchors_grid"]), torch.tensor(data["targets"])


@pytest.mark.parametrize("nc", [1, 3, 80])
@pytest.mark.parametrize("tag", TAGS)
def test_recorded_loss_and_gradients(golden, nc, tag):
    data, predictions, anchors, targets = load(golden, nc)
    total, items = DetectionLoss(anchors, nc, TAGS[tag])(predictions, targets)
    total.backward()
    np.testing.assert_allclose(total.item(), data[f"{tag}_loss"].item(), rtol=1e-4)
    np.testing.assert_allclose(items, data[f"{tag}_items"], rtol=1e-4)
    norms = [p.grad.norm().item() for p in predictions if p.grad is not None]
    np.testing.assert_allclose(norms, [data[f"{tag}_grad{i}_norm"] for i in range(3)], rtol=1e-4)


@pytest.mark.parametrize("nc", [1, 3, 80])
def test_recorded_loss_without_labels(golden, nc):
    data, predictions, anchors, _ = load(golden, nc)
    total, items = DetectionLoss(anchors, nc, FOCAL)(predictions, torch.zeros(0, 6))
    total.backward()
    np.testing.assert_allclose(total.item(), data["empty_loss"].item(), rtol=1e-4)
    np.testing.assert_allclose(items, data["empty_items"], rtol=1e-4)
    for p in predictions:
        assert p.grad is not None
        assert p.grad[..., 4].abs().sum() > 0 and p.grad[..., :4].abs().sum() == 0


@pytest.mark.parametrize("nc", [1, 3, 80])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_recorded_assignment(golden, nc, level):
    data, predictions, anchors, targets = load(golden, nc)
    rows, columns = predictions[level].shape[2:4]
    found = assign(targets, anchors[level], (rows, columns), 4.0)
    cells = torch.stack((*found.cells, found.cls), dim=1)
    assert cells.tolist() == data[f"assign{level}"].tolist()
    np.testing.assert_allclose(found.boxes, data[f"assign{level}_box"], atol=1e-5)


def cells_of(
    targets: list[list[float]], grid: tuple[int, int] = (8, 8), anchor: float = 2.0
) -> list[list[int]]:
    found = assign(torch.tensor(targets), torch.tensor([[anchor, anchor]]), grid, 4.0)
    return torch.stack(found.cells[2:], dim=1).tolist()


def test_a_label_takes_its_cell_and_the_nearest_on_each_axis():
    # cx 0.4 * 8 = 3.2: cell 3, nearer to column 2; cy 0.45 * 8 = 3.6: cell 3, nearer to row 4
    assert cells_of([[0, 0, 0.4, 0.45, 0.25, 0.25]]) == [[3, 3], [3, 2], [4, 3]]


def test_neighbours_off_the_map_are_left_out():
    # centre (0.24, 7.76) in the corner cell: column -1 and row 8 do not exist
    assert cells_of([[0, 0, 0.03, 0.97, 0.25, 0.25]]) == [[7, 0]]


def test_a_centre_in_the_middle_of_its_cell_has_no_nearer_neighbour():
    assert cells_of([[0, 0, 3.5 / 8, 3.5 / 8, 0.25, 0.25]]) == [[3, 3]]
    # of its row alone: 0.45 * 8 = 3.6 leans to row 4; and the other way round
    assert cells_of([[0, 0, 3.5 / 8, 0.45, 0.25, 0.25]]) == [[3, 3], [4, 3]]
    assert cells_of([[0, 0, 0.45, 3.5 / 8, 0.25, 0.25]]) == [[3, 3], [3, 4]]


def test_a_centre_on_the_far_border_belongs_to_the_last_cell():
    assert cells_of([[0, 0, 1.0, 0.0, 0.25, 0.25]]) == [[0, 7]]


def test_grids_need_not_be_square():
    # columns: 0.4 * 10 = 4.0 leans to column 3; rows: 0.5 * 4 = 2.0 leans to row 1
    assert cells_of([[0, 0, 0.4, 0.5, 0.2, 0.5]], grid=(4, 10)) == [[2, 4], [2, 3], [1, 4]]


@pytest.mark.parametrize(
    ("width", "height", "matches"),
    [
        (0.25, 0.25, True),  # 2 x 2 cells, ratio 1
        (0.99, 0.25, True),  # 7.92 / 2 = 3.96
        (1.0, 0.25, False),  # 8 / 2 = 4 is not below 4
        (0.25, 0.0625, False),  # 0.5 / 2 = 1 / 4
        (0.25, 0.07, True),  # 0.56 / 2 = 1 / 3.57
        (0.25, 0.0, False),  # a box without height matches nothing
    ],
)
def test_anchor_ratio_decides(width, height, matches):
    assert bool(cells_of([[0, 0, 0.44, 0.44, width, height]])) is matches


def test_loss_by_hand():
    # One image, one level, one anchor of 1 x 1 on a 2 x 2 grid, 2 classes, all logits 0.
    # The label: centre (0.5, 0.5) in grid units, 1 x 1, class 1. The zero answer of cell (0, 0) decodes to
    # centre 2 * 0.5 - 0.5 = 0.5 and size (2 * 0.5)^2 * 1 = 1: a perfect box, so box loss 0 and objectness 1.
    # All BCEs at logit 0 are log 2. Totals: obj gain 1 * balance 4 * log 2, cls gain 0.5 * log 2.
    loss = DetectionLoss(torch.ones(1, 1, 2), 2, HYP)
    total, items = loss([torch.zeros(1, 1, 2, 2, 7)], torch.tensor([[0, 1, 0.25, 0.25, 0.5, 0.5]]))
    log2 = math.log(2)
    np.testing.assert_allclose(items, [0, 4 * log2, 0.5 * log2], atol=1e-6)
    assert total.item() == pytest.approx(4.5 * log2, abs=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_weights_of_positives_by_hand(gamma):
    # The case above, where one of 4 cells is positive, and one of 2 classes. A positive counts twice for
    # objectness and 5 times for the class. With a focal exponent of 1, each is multiplied by 1 - 0.5, the
    # miss at logit 0, and by 0.25 for a positive, 0.75 for a negative.
    hyp = dataclasses.replace(HYP, obj_pw=2, cls_pw=5, fl_gamma=gamma)
    loss = DetectionLoss(torch.ones(1, 1, 2), 2, hyp)
    _, items = loss([torch.zeros(1, 1, 2, 2, 7)], torch.tensor([[0, 1, 0.25, 0.25, 0.5, 0.5]]))
    positive, negative = (0.5 * 0.25, 0.5 * 0.75) if gamma else (1, 1)
    objectness = 4 * math.log(2) * (2 * positive + 3 * negative) / 4  # balance 4; three negatives
    cls = 0.5 * math.log(2) * (5 * positive + negative) / 2  # gain 0.5
    np.testing.assert_allclose(items, [0, objectness, cls], atol=1e-6)


@pytest.mark.parametrize(
    ("choice", "objectness", "cls"),
    [
        ({"obj_loss": "QFL"}, 0.25, 1),  # |y - 1/2|^2 throughout
        ({"obj_loss": "VFL"}, (1 + 3 * 0.75 * 0.25) / 4, 1),  # one of four cells is positive
        ({"obj_loss": "Slide"}, 1, 1),  # e^0 at an overlap of 1
        ({"cls_loss": "Focal(gamma=2, alpha=0.25)"}, 1, (0.25 + 0.75) / 2 * 0.25),
        ({"cls_loss": "VFL"}, 1, (1 + 0.75 * 0.25) / 2),
        # three labels of class 0 and one of class 1: 1/3 to 1, with a mean of 1 over the four 2/3 to 2
        ({"class_weights": "inverse"}, 1, 2),
        ({"class_weights": "inverse", "cls_loss": "QFL"}, 1, 2 * 0.25),
    ],
)
def test_objectness_and_class_losses_by_hand(choice, objectness, cls):
    # the case of `test_loss_by_hand`: logits of 0, one perfect box of class 1
    counts = torch.tensor([3.0, 1.0])
    loss = DetectionLoss(torch.ones(1, 1, 2), 2, dataclasses.replace(HYP, **choice), class_counts=counts)
    _, items = loss([torch.zeros(1, 1, 2, 2, 7)], torch.tensor([[0, 1, 0.25, 0.25, 0.5, 0.5]]))
    np.testing.assert_allclose(items, np.array([0, 4 * objectness, 0.5 * cls]) * math.log(2), atol=1e-6)


# One image, one level of 2 rows and 4 columns, one anchor of 1 x 1, one class. The label is 2 x 1 around the
# middle of the first cell, whose zero answer decodes to 1 x 1 around the same point: IoU 1 / 2, hull 2 x 1.
# Widths differ by 1; corners are 1/2 apart twice, on an image whose squared diagonal is 16 + 4.
LABEL = torch.tensor([[0, 0, 0.5 / 4, 0.5 / 2, 2 / 4, 1 / 2]])
ASPECT = 4 / math.pi**2 * (math.atan(2) - math.atan(1)) ** 2
OVERLAPS = {
    "IoU": 0.5,
    "GIoU": 0.5,
    "DIoU": 0.5,
    "CIoU": 0.5 - ASPECT**2 / (0.5 + ASPECT),
    "EIoU": 0.5 - 1 / 4,
    "SIoU": 0.5 - (1 - math.exp(-1 / 2)) ** 4 / 2,
    "MPDIoU": 0.5 - (1 / 4 + 1 / 4) / 20,
    "Shape-IoU": 0.5 - (1 - math.exp(-1 / 2)) ** 4 / 2,
    "PIoU": 0.5 - (1 - math.exp(-1 / 64)),  # edges 1/2 apart twice, of a width of 2: P = (1/2 + 1/2) / 2 / 4
    "NWD": math.exp(-0.5 * 16 / 12.8),  # half widths differ by 1/2, of 16 pixels
    # the overlap is that of the base, whatever is done to its loss
    "Focal-EIoU": 0.5 - 1 / 4,
    "WIoU": 0.5,
    "PIoU2": 0.5 - (1 - math.exp(-1 / 64)),
    "Alpha-EIoU(alpha=2)": 0.5 - 1 / 4,
    "Inner-IoU(ratio=0.5)": 0.5,
    "Focaler-IoU(d=0.25, u=0.75)": 0.5,
    "NWD-IoU(share=0.25)": 0.5,
}
QUALITY = 1.3 * math.exp(-1 / 8)  # of PIoU2, lambda e^-P
# of the losses that are not 1 - overlap; the running mean is 1, so the pair's outlier degree is its IoU loss
LOSSES = {
    "Focal-EIoU": math.sqrt(0.5) * (0.5 + 1 / 4),
    "WIoU": 0.5 / (3 * 1.9 ** (0.5 - 3)) * 0.5,
    "PIoU2": 3 * QUALITY * math.exp(-(QUALITY**2)) * (0.5 + 1 - math.exp(-1 / 64)),
    "Alpha-EIoU(alpha=2)": 1 - 0.5**2 + (1 / 4) ** 2,
    "Inner-IoU(ratio=0.5)": 0.5,  # around one centre both areas shrink alike
    "Focaler-IoU(d=0.25, u=0.75)": 1 - (0.5 - 0.25) / (0.75 - 0.25),
    "NWD-IoU(share=0.25)": 0.25 * (1 - math.exp(-0.5 * 16 / 12.8)) + 0.75 * 0.5,
}


STRIDES = torch.tensor([8.0, 16.0, 32.0])


def logits_of_the_hand_case() -> torch.Tensor:
    logits = torch.zeros(1, 1, 2, 4, 6)
    logits[..., 4] = 1
    return logits


@pytest.mark.parametrize("kind", OVERLAPS)
def test_box_losses_and_their_objectness_by_hand(kind):
    hyp = dataclasses.replace(HYP, iou=kind)
    loss = DetectionLoss(torch.ones(1, 1, 2), 1, hyp, strides=torch.tensor([16.0]))
    _, (box, objectness, _) = loss([logits_of_the_hand_case()], LABEL)
    assert box.item() == pytest.approx(0.05 * LOSSES.get(kind, 1 - OVERLAPS[kind]), abs=1e-6)
    # BCE at logit 1 is log(1 + e) - target; the mean over 8 cells, balance 4
    expected = 4 * (math.log(1 + math.e) - OVERLAPS[kind] / 8)
    assert objectness.item() == pytest.approx(expected, abs=1e-5)


def test_ciou_is_the_default():
    predictions, anchors, targets = random_case(3)
    named, _ = DetectionLoss(anchors, 3, dataclasses.replace(HYP, iou="CIoU"))(predictions, targets)
    assert torch.equal(named, DetectionLoss(anchors, 3, HYP)(predictions, targets)[0])


def test_the_running_mean_follows_training_and_rests_in_validation():
    mean = RunningMean()
    loss = DetectionLoss(torch.ones(1, 1, 2), 1, dataclasses.replace(HYP, iou="WIoU"), running=mean)
    for quiet in (torch.no_grad, torch.inference_mode):
        with quiet():
            loss([logits_of_the_hand_case()], LABEL)
    assert mean.value == 1
    loss([logits_of_the_hand_case()], LABEL)
    assert mean.value == pytest.approx(1 + MOMENTUM * (0.5 - 1), abs=1e-9)
    moved = mean.value
    loss([logits_of_the_hand_case()], torch.zeros(0, 6))
    assert mean.value == moved


def test_the_running_mean_is_over_the_pairs_of_all_levels():
    # Both levels have the same grid. The zero answer beside the second one's anchor is 2 x 2: IoU 2 / 4 with
    # the label. The first one's shall be 1/2 x 1/2, IoU 1 / 8: (2 sigmoid)^2 = 1/2, sigmoid = sqrt(1/2) / 2.
    logits = logits_of_the_hand_case()
    logits[0, 0, 0, 0, 2:4] = torch.tensor(math.sqrt(0.5) / 2).logit()
    mean = RunningMean()
    anchors = torch.tensor([[[1.0, 1.0]], [[2.0, 2.0]]])
    loss = DetectionLoss(anchors, 1, dataclasses.replace(HYP, iou="WIoU"), running=mean)
    loss([logits, logits_of_the_hand_case()], LABEL)
    average = ((1 - 1 / 8) + (1 - 1 / 2)) / 2
    assert mean.value == pytest.approx(1 + MOMENTUM * (average - 1), abs=1e-8)


def test_only_losses_with_a_mean_ask_the_other_processes():
    predictions, anchors, targets = random_case(2)
    asked: list[torch.Tensor] = []

    def average(total: torch.Tensor) -> torch.Tensor:
        asked.append(total)
        return total

    for kind in (*OVERLAPS, "WIoU-v1", "WIoU-v2-CIoU", "NWD-WIoU-v3"):
        hyp = dataclasses.replace(HYP, iou=kind)
        criterion = DetectionLoss(anchors, 3, hyp, strides=STRIDES, average=average)
        criterion(predictions, targets)
        criterion(predictions, torch.zeros(0, 6))
        assert len(asked) == (2 if kind in ("WIoU", "WIoU-v2-CIoU", "NWD-WIoU-v3") else 0)
        asked.clear()


@pytest.mark.parametrize("kind", OVERLAPS)
def test_every_box_loss_stays_finite_on_extreme_logits(kind):
    predictions, anchors, targets = random_case(3)
    hot = [(p * 100).requires_grad_() for p in predictions]
    total, _ = DetectionLoss(anchors, 3, dataclasses.replace(HYP, iou=kind), strides=STRIDES)(hot, targets)
    total.backward()
    assert total.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in hot)


def test_objectness_follows_the_last_label_of_a_cell():
    # Two labels on one cell. The last has the better overlap in one order, the worse in the other. With a
    # confident objectness the loss is lower when a good overlap is wanted.
    logits = torch.zeros(1, 1, 2, 2, 6)
    logits[..., 4] = -5
    logits[0, 0, 0, 0, 4] = 5
    good, poor = [0, 0, 0.25, 0.25, 0.5, 0.5], [0, 0, 0.25, 0.25, 1.0, 1.0]
    loss = DetectionLoss(torch.ones(1, 1, 2), 1, HYP)
    good_last = loss([logits], torch.tensor([poor, good]))[1][1]
    poor_last = loss([logits], torch.tensor([good, poor]))[1][1]
    assert good_last < poor_last


def random_case(
    levels: int, batch: int = 2, nc: int = 3
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(levels)
    predictions = [torch.randn(batch, 3, 32 >> i, 32 >> i, 5 + nc, generator=draw) for i in range(levels)]
    targets = torch.rand(40, 6, generator=draw)
    targets[:, 0] = torch.randint(batch, (40,), generator=draw)
    targets[:, 1] = torch.randint(nc, (40,), generator=draw)
    return predictions, torch.rand(levels, 3, 2, generator=draw) * 6 + 1, targets


@pytest.mark.parametrize(
    ("levels", "weights"),
    [
        (1, 4.0),
        (2, 4.0 + 1.0),
        (3, 4.0 + 1.0 + 0.4),
        (4, 4.0 + 1.0 + 0.25 + 0.06),
        (5, 4.0 + 1.0 + 0.25 + 0.06 + 0.02),
    ],
)
def test_objectness_of_finer_levels_weighs_more(levels, weights):
    # all logits are 0 and nothing is there: each level has a BCE of log 2
    logits = [torch.zeros(1, 2, 32 >> level, 32 >> level, 6) for level in range(levels)]
    _, (_, objectness, _) = DetectionLoss(torch.ones(levels, 2, 2), 1, HYP)(logits, torch.zeros(0, 6))
    assert objectness.item() == pytest.approx(weights * math.log(2), rel=1e-5)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_any_number_of_levels(levels):
    predictions, anchors, targets = random_case(levels)
    total, items = DetectionLoss(anchors, 3, HYP)(predictions, targets)
    assert total.isfinite() and items.shape == (3,) and not items.requires_grad
    assert total.item() == pytest.approx(2 * items.sum().item(), rel=1e-5)


def test_custom_gradient_equals_autograd(monkeypatch):
    predictions, anchors, targets = random_case(2)

    def gradients() -> list[torch.Tensor]:
        leaves = [p.clone().requires_grad_() for p in predictions]
        # as the head delivers it: a permuted view
        views = [p.permute(0, 1, 4, 2, 3).contiguous().permute(0, 1, 3, 4, 2) for p in leaves]
        DetectionLoss(anchors, 3, FOCAL)(views, targets)[0].backward()
        return [p.grad for p in leaves if p.grad is not None]

    ours = gradients()

    class Plain:
        @staticmethod
        def apply(logits, found):
            return logits[..., 4], logits[found.cells]

    monkeypatch.setattr("utils.losses.detection._ReadCells", Plain)
    for a, b in zip(ours, gradients()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", OVERLAPS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_predictions_are_computed_in_float32(dtype, kind):
    predictions, anchors, targets = random_case(3)
    loss = DetectionLoss(anchors, 3, dataclasses.replace(HYP, iou=kind), strides=STRIDES)
    low = [p.to(dtype).requires_grad_() for p in predictions]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = loss(low, targets)
    total.backward()
    with torch.no_grad():  # the running mean moved after the loss of that batch
        loss.running.value = 1.0
        expected, _ = loss([p.detach().float() for p in low], targets)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected)
    assert all(p.grad is not None and p.grad.dtype == dtype and p.grad.isfinite().all() for p in low)


def test_extreme_logits_stay_finite():
    predictions, anchors, targets = random_case(3)
    hot = [(p * 100).requires_grad_() for p in predictions]
    for hyp in (HYP, FOCAL):
        total, _ = DetectionLoss(anchors, 3, hyp)(hot, targets)
        total.backward()
        assert total.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in hot)


def test_descending_the_loss_learns_the_label():
    logits = torch.zeros(1, 1, 4, 4, 7, requires_grad=True)
    targets = torch.tensor([[0, 1, 0.4, 0.4, 0.5, 0.5]])
    loss = DetectionLoss(torch.full((1, 1, 2), 1.5), 2, dataclasses.replace(HYP, box=1.0, cls=1.0))
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss([logits], targets)[0].backward()
        optimizer.step()
    # cell 0.4 * 4 = 1.6 -> 1
    answer = logits.detach()[0, 0, 1, 1].sigmoid()
    assert (answer[:2] * 2 - 0.5).tolist() == pytest.approx([0.6, 0.6], abs=0.02)
    assert ((answer[2:4] * 2) ** 2 * 1.5).tolist() == pytest.approx([2, 2], abs=0.05)
    assert answer[4] > 0.9 and answer[5] < 0.1 and answer[6] > 0.9


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([(1, 3, 8, 8, 8)], "expected predictions of 2 levels, found 1"),
        (
            [(1, 3, 8, 8, 8), (1, 3, 4, 4, 7)],
            r"level 1: expected logits \(B, 3, H, W, 8\), found \(1, 3, 4, 4, 7\)",
        ),
        ([(1, 2, 8, 8, 8), (1, 3, 4, 4, 8)], "level 0: expected logits"),
    ],
)
def test_predictions_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        DetectionLoss(torch.ones(2, 3, 2), 3, HYP)([torch.zeros(s) for s in shape], torch.zeros(0, 6))


def test_constructor_checks():
    for more, message in (
        ({"iou": "XIoU"}, "unknown name 'XIoU'; did you mean 'IoU'?"),
        ({"cls_loss": "bce"}, "unknown name 'bce'; did you mean 'BCE'?"),
        ({"class_weights": "inverse"}, "class weights 'inverse' need the counts of the classes"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            DetectionLoss(torch.ones(3, 3, 2), 3, dataclasses.replace(HYP, **more))
    with pytest.raises(ValueError, match=r"anchors must be \(nl, na, 2\), found \(3, 2\)"):
        DetectionLoss(torch.ones(3, 2), 3, HYP)
    with pytest.raises(ValueError, match="6 levels: there are weights for 5 at most"):
        DetectionLoss(torch.ones(6, 3, 2), 3, HYP)
