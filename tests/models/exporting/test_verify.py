"""The comparison itself has to notice what is wrong."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.exporting import verify
from models.exporting.config import ExportConfig
from models.exporting.job import example
from models.exporting.network import exported_network, halved
from models.exporting.nms import WithSuppression
from models.exporting.verify import difference
from models.yolo import DetectionModel
from tests.layouts import DISTINCT, images, small
from tests.models.exporting.weights import lively, spread
from utils.errors import UserError
from utils.nms import non_max_suppression

PLACE = Path("best.onnx")
PLAIN = ExportConfig()


@pytest.fixture
def model() -> DetectionModel:
    return lively(small("yolov5n")).requires_grad_(False)


def gives(monkeypatch: pytest.MonkeyPatch, *outputs: Tensor) -> None:
    monkeypatch.setattr(verify, "run_file", lambda path, images, whole: outputs)


def test_boxes_and_scores_count_alike(model: DetectionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x = example((64, 64), 1)
    rows = model(x)[0]
    gives(monkeypatch, rows)
    assert difference(PLACE, x, model, PLAIN) == 0
    wrong = rows.clone()
    wrong[0, 0, 6] += 0.001 * rows[..., 4:].max()  # nothing beside coordinates of up to 64
    gives(monkeypatch, wrong)
    with pytest.raises(UserError, match=r"differs from PyTorch by 0\.001"):
        difference(PLACE, x, model, PLAIN)
    half = ExportConfig(half=True)  # tolerates more
    assert difference(PLACE, x, model, half) == pytest.approx(0.001, rel=0.01)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_undefined_values_are_no_match(
    value: float, model: DetectionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = example((64, 64), 1)
    rows = model(x)[0].clone()
    rows[0, 3, 1] = value
    gives(monkeypatch, rows)
    with pytest.raises(UserError, match="differs"):
        difference(PLACE, x, model, PLAIN)


def test_other_shapes_are_named(model: DetectionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x = example((64, 64), 1)
    gives(monkeypatch, model(x)[0][:, :-1])
    with pytest.raises(UserError, match=r"gives \[\(1, 251, 8\)\] where PyTorch gives \[\(1, 252, 8\)\]"):
        difference(PLACE, x, model, PLAIN)


def suppressing(conf_thres: float, iou_thres: float, most: int) -> ExportConfig:
    return ExportConfig(
        nms=True, conf_thres=conf_thres, iou_thres=iou_thres, topk_all=most, topk_per_class=most
    )


def detections(model: DetectionModel, x: Tensor, config: ExportConfig) -> Tensor:
    found = non_max_suppression(model(x)[0], config.conf_thres, config.iou_thres, max_det=config.topk_all)
    return torch.cat(
        [torch.cat((rows.new_full((len(rows), 1), i), rows), dim=1) for i, rows in enumerate(found)]
    )


def test_each_detection_needs_a_partner(model: DetectionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, config = example((64, 64), 2), suppressing(0.2, 0.45, most=1000)
    rows = detections(model, x, config)
    gives(monkeypatch, rows)
    assert len(rows) > 10 and difference(PLACE, x, model, config) == 0
    moved, renamed, elsewhere = rows.clone(), rows.clone(), rows.clone()
    moved[0, 1] += 1  # a pixel
    renamed[0, 6] = (renamed[0, 6] + 1) % 3
    elsewhere[0, 0] = 1
    for wrong in (moved, renamed, elsewhere, rows[1:], torch.cat((rows, moved[:1])), rows[:0]):
        gives(monkeypatch, wrong)
        with pytest.raises(UserError, match="differs"):
            difference(PLACE, x, model, config)


def test_suppression_in_pytorch_is_that_of_detect() -> None:
    model = spread(small("yolov5n")).requires_grad_(False).double()  # which amplifies rounding
    # noise: in the grey of a letterbox cells have equal scores, and their order is nobody's business
    x = torch.rand(3, 3, 64, 96, generator=torch.Generator().manual_seed(0)).double()
    config = suppressing(0.3, 0.3, most=10)
    rows = WithSuppression(exported_network(model, (64, 96)), config)(x)
    apart = torch.cdist(rows, detections(model, x, config).to(rows), p=float("inf"))
    # each has its partner; the order of equal confidences depends on the CPU
    assert apart.shape == (30, 30) and float(torch.maximum(apart.amin(0), apart.amin(1)).max()) < 0.05


@pytest.mark.parametrize(
    "name",
    [n if n in ("yolov5n", "yolov5n-asff") else pytest.param(n, marks=pytest.mark.slow) for n in DISTINCT],
)
def test_raw_maps_are_the_logits(name: str) -> None:
    model = lively(small(name)).requires_grad_(False)
    x = images(model, 2)
    logits = model(x)[1]
    for folded in (True, False):
        maps = exported_network(model, None, folded=folded, raw=True)(x)
        for level, expected in zip(maps, logits, strict=True):
            batch, na, height, width, no = expected.shape
            assert level.shape == (batch, na * no, height, width)
            again = level.reshape(batch, na, no, height, width).permute(0, 1, 3, 4, 2)
            assert float((again - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("folded", [True, False])
def test_half_decodes_in_single_precision(folded: bool, model: DetectionModel) -> None:
    network = exported_network(model, (64, 64), folded=folded)
    half, x = halved(network, example((64, 64), 1))
    assert x.dtype == torch.float16
    rows = half(x)
    assert rows.dtype == torch.float32 and next(network.parameters()).dtype == torch.float32
    assert {p.dtype for p in half.parameters()} == {torch.float16}
    assert not torch.equal(rows, rows.half().float())  # values that fp16 cannot hold
    maps, x = halved(exported_network(model, (64, 64), folded=folded, raw=True), x.float())
    assert {level.dtype for level in maps(x)} == {torch.float16}


def test_weights_beyond_fp16_are_refused(model: DetectionModel) -> None:
    network = copy.deepcopy(exported_network(model, (64, 64), folded=True))
    name, weight = list(network.named_parameters())[-2]
    weight.data.flatten()[0] = -1e6
    with pytest.raises(UserError, match=f"--half: '{re.escape(name)}' has weights up to 1e.06, beyond fp16"):
        halved(network, example((64, 64), 1))


def test_statistics_beyond_fp16_are_refused(model: DetectionModel) -> None:
    network = exported_network(model, (64, 64), folded=False)
    network.register_buffer("running_var", torch.full((2,), 1e6))
    with pytest.raises(UserError, match=r"--half: 'running_var' has weights up to 1e\+06"):
        halved(network, example((64, 64), 1))
