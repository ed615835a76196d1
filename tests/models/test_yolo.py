"""The detection model as a whole, and the command that prints it."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from models.cfg import load_cfg
from models.summary import summary_line
from models.yolo import Detect, DetectionModel, main, parse_model
from utils.errors import UserError
from utils.files import ROOT

TINY: dict[str, Any] = {
    "nc": 2,
    "depth_multiple": 1.0,
    "width_multiple": 1.0,
    "anchors": [[10, 13, 16, 30], [40, 50, 90, 70]],
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc", "anchors"]]],
}


@pytest.fixture
def tiny() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel(TINY)


def test_outputs_in_training_and_eval(tiny: DetectionModel) -> None:
    x = torch.rand(2, 3, 32, 48)
    assert [level.shape for level in tiny(x)] == [(2, 2, 8, 12, 7), (2, 2, 4, 6, 7)]
    decoded, logits = tiny.eval()(x)
    assert decoded.shape == (2, 2 * 8 * 12 + 2 * 4 * 6, 7)
    assert len(logits) == 2


def test_attributes(tiny: DetectionModel) -> None:
    assert isinstance(tiny.head, Detect)
    assert tiny.stride.tolist() == [4, 8]
    assert tiny.nc == 2
    assert tiny.names == {0: "class0", 1: "class1"}
    assert tiny.training
    assert callable(parse_model)


def test_overrides_are_recorded_and_the_description_is_not_touched() -> None:
    before = copy.deepcopy(TINY)
    model = DetectionModel(TINY, ch=1, nc=5, anchors=4)
    assert before == TINY
    assert {key: model.yaml[key] for key in ("ch", "nc", "anchors")} == {"ch": 1, "nc": 5, "anchors": 4}
    assert (model.nc, model.head.na) == (5, 4)
    assert model(torch.rand(2, 1, 32, 32))[0].shape == (2, 4, 8, 8, 10)
    assert DetectionModel(model.yaml).yaml == model.yaml
    assert yaml.safe_load(yaml.safe_dump(model.yaml)) == model.yaml


def test_batch_norm_constants_everywhere() -> None:
    rows = [*TINY["backbone"], [-1, 1, "nn.BatchNorm2d", []]]
    model = DetectionModel(TINY | {"backbone": rows, "head": [[[1, 3], 1, "Detect", ["nc", "anchors"]]]})
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert len(norms) == 4
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_building_leaves_batch_norm_statistics_fresh(tiny: DetectionModel) -> None:
    for part in tiny.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.num_batches_tracked == 0
            assert part.running_mean.abs().sum() == 0  # type: ignore[union-attr]


def test_a_copy_is_independent(tiny: DetectionModel) -> None:
    x = torch.rand(1, 3, 32, 32)
    twin = copy.deepcopy(tiny).eval()
    with torch.no_grad():
        for parameter in tiny.parameters():
            parameter.zero_()
    assert twin(x)[0].isfinite().all()
    assert twin.head.m[0].weight.abs().sum() > 0  # type: ignore[operator, union-attr]
    assert tiny.training
    assert not twin.training


def test_augmented_boxes_return_to_the_image(tiny: DetectionModel) -> None:
    """A network blind to its input (zero weights) shows where each scale's boxes land."""
    for conv in tiny.head.m:
        nn.init.zeros_(conv.weight)  # type: ignore[arg-type]
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    y, logits = tiny.eval()(torch.rand(1, 3, 40, 80), augment=True)
    assert logits == []
    # scale 1: 40 x 80, level 0 (stride 4) only: 2 anchors * 10 * 20 = 400 rows
    # scale 0.83: 33 x 66 padded to 40 x 72: 2 * (10 * 18 + 5 * 9) = 450
    # scale 0.67: 26 x 53 padded to 32 x 56, level 1 (stride 8) only: 2 * 4 * 7 = 56
    assert y.shape == (1, 400 + 450 + 56, 7)
    # all logits 0: centre (0.5 + cell) * stride, size the anchor; all in pixels of the scaled image
    torch.testing.assert_close(y[0, 0, :4], torch.tensor([2.0, 2.0, 10.0, 13.0]))
    zoom_x, zoom_y = 80 / 66, 40 / 33
    mirrored = torch.tensor([80 - 2 * zoom_x, 2 * zoom_y, 10 * zoom_x, 13 * zoom_y])
    torch.testing.assert_close(y[0, 400, :4], mirrored)
    zoom_x, zoom_y = 80 / 53, 40 / 26
    torch.testing.assert_close(
        y[0, 850, :4], torch.tensor([4 * zoom_x, 4 * zoom_y, 40 * zoom_x, 50 * zoom_y])
    )


def test_augmenting_keeps_an_unflipped_first_scale(tiny: DetectionModel) -> None:
    x = torch.rand(2, 3, 32, 32)
    plain, _ = tiny.eval()(x)
    merged, _ = tiny(x, augment=True)
    torch.testing.assert_close(merged[:, :128], plain[:, :128])  # 2 anchors * 8 * 8


def test_fusing_finds_neighbours_in_a_sequence(tiny: DetectionModel) -> None:
    pair = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    nn.init.uniform_(pair[1].running_var, 0.5, 1.5)
    tiny.model[1] = nn.Sequential(tiny.model[1], pair)
    tiny.eval()
    x = torch.rand(1, 3, 32, 32)
    before, _ = tiny(x)
    assert tiny.fuse() is tiny
    torch.testing.assert_close(tiny(x)[0], before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in tiny.modules())


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"head": [[-1, 1, "Conv", [8]]]}, "the last layer is Conv; it must be Detect"),
        ({"head": [[[0, 1], 1, "Concat", [1]], [-1, 1, "Detect", ["nc", 3]]]}, r"layer 3 \(Concat\): Sizes"),
        (
            {"head": [[-1, 1, "nn.Flatten", []], [-1, 1, "Detect", ["nc", 3]]]},
            r"layer 3 \(nn.Flatten\): gives",
        ),
        (
            {"head": [[-1, 1, "nn.PixelShuffle", [2]], [-1, 1, "Detect", ["nc", 3]]]},
            r"layer 3 \(nn.PixelShuffle\): gives \(1, 2, 64, 64\) where its wiring declares 8 channels",
        ),
        ({"anchors": [[1, 2]]}, r"layer 3: .*has 1 rows of anchors for 2 layers"),
        ({"extra": 1}, "unknown key 'extra'"),
        ({"backbone": [[-1, 1, "Conv", [8, 3, 0]]] * 3}, r"layer 0 \(Conv\): .*stride"),
    ],
)
def test_descriptions_that_cannot_work(keys: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        DetectionModel(TINY | keys)
    assert "\n" not in str(caught.value)


def test_the_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump(load_cfg("yolov5n") | {"backbone": [[-1, 1, "Conf", [8]]]}), encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"^mine.yaml: layer \d+: "):
        DetectionModel(path)


def test_activation_stays_in_its_model() -> None:
    leaky = DetectionModel(TINY | {"activation": "nn.LeakyReLU(0.1)"})
    plain = DetectionModel(TINY)
    assert any(isinstance(part, nn.LeakyReLU) for part in leaky.modules())
    assert not any(isinstance(part, nn.LeakyReLU) for part in plain.modules())
    assert not any(isinstance(part, nn.SiLU) for part in leaky.modules())


def test_summary_line(tiny: DetectionModel) -> None:
    # layer 0: 3 * 8 * 9 weights + 2 * 8 of BatchNorm = 232; 1 and 2: 8 * 8 * 9 + 2 * 8 = 592 each
    # head: 2 levels of 8 * 14 + 14 = 126 each; in all 232 + 1184 + 252 = 1668
    assert " layers, 1,668 parameters, 1,668 gradients, 0.000 GFLOPs at 64" in summary_line(tiny, [], 3, 64)
    tiny.model[0].requires_grad_(False)
    assert "1,668 parameters, 1,436 gradients" in summary_line(tiny, [], 3, 64)


def test_command_prints_table_and_summary(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--cfg", "yolov5n-gsconv.yaml", "--imgsz", "320", "--nc", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["layer", "from", "n", "parameters", "GFLOPs", "module", "arguments"]
    assert lines[1].split()[:6] == ["0", "-1", "1", "1,760", "0.088", "Conv"]  # 0.354 GFLOPs at 640, / 4
    assert "GSConv" in lines[11]
    assert lines[26].startswith("yolov5n-gsconv: ")
    assert "GFLOPs at 320 (convolutions only, fused; thop with BatchNorm: " in lines[26]


def test_command_from_another_folder(tmp_path: Path) -> None:
    script = str(ROOT / "models" / "yolo.py")
    run = subprocess.run(
        [sys.executable, script, "--cfg", "yolov5n-gsconf.yaml"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stdout == ""
    proposal = "error: file 'yolov5n-gsconf.yaml' not found; did you mean yolov5n-gsconv.yaml"
    assert run.stderr.startswith(proposal)
    assert run.stderr.count("\n") == 1
