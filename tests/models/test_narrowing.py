"""Narrower networks made of the channels of wider ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.narrowing import CannotNarrow, Trace, choose, importance, narrowed
from models.transfer import inherit
from models.yolo import DetectionModel

# shortcuts, splits, shuffles, depthwise halves, groups, attention, fusion of levels
FOLLOWED = (
    "yolov5n",
    "yolov5n-slimneck",
    "yolov5n-csppc",
    "yolov5n-c3dual",
    "yolov5n-shufflenetv2",
    "yolov5n-msca",
    "yolov5n-asff",
)


def random_model(cfg: str) -> DetectionModel:
    """In eval mode, its BatchNorms as after training."""
    torch.manual_seed(0)
    model = DetectionModel(f"{cfg}.yaml", nc=2).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model


@torch.no_grad()
def silence_what_goes(wide: DetectionModel, width: float) -> None:
    """Let nothing take the channels that a narrower network would not have."""
    trace, modules = Trace(wide), dict(wide.named_modules())
    kept = choose(
        trace, Trace(DetectionModel(wide.yaml | {"width_multiple": width})), importance(trace, modules)
    )
    for step in trace.steps:
        conv = modules.get(step.module)
        if isinstance(conv, nn.Conv2d) and conv.weight.shape[1] > 1:  # not depthwise
            for labels, kernel in zip(step.inputs.chunk(conv.groups), conv.weight.chunk(conv.groups)):
                kernel[:, ~kept[labels]] = 0


@pytest.mark.parametrize("cfg", FOLLOWED)
def test_what_nothing_takes_is_left_out_without_a_difference(cfg: str) -> None:
    wide, image = random_model(cfg), torch.rand(1, 3, 128, 128)
    width = wide.yaml["width_multiple"] * 0.75
    silence_what_goes(wide, width)
    slim, chosen = narrowed(wide, width)
    assert sum(p.numel() for p in slim.parameters()) < 0.7 * sum(p.numel() for p in wide.parameters())
    with torch.no_grad():
        for own, its in zip(slim.eval()(image)[1], wide(image)[1]):
            torch.testing.assert_close(own, its, rtol=1e-3, atol=1e-4)
    assert {j: len(kept) for j, kept in chosen.items()} == {
        layer.index: layer.channels for layer in slim.layers[:-1]
    }


def test_one_batch_norm_over_two_convolutions() -> None:
    # what BottleneckCSP has: each half misses what its own convolution does
    torch.manual_seed(0)
    description = DetectionModel("yolov5n.yaml", nc=2).yaml | {
        "anchors": [[10, 13, 16, 30, 33, 23]],
        "backbone": [[-1, 1, "Conv", [64, 6, 2, 2]], [-1, 1, "BottleneckCSP", [64]]],
        "head": [[[1], 1, "Detect", ["nc", "anchors"]]],
    }
    wide = DetectionModel(description).eval()
    with torch.no_grad():
        wide.model[0].bn.weight[8:] = 0  # constant channels
        wide.model[0].bn.bias[8:] = 2.0
        for conv in (wide.model[1].cv1.conv, wide.model[1].cv2):
            conv.weight[:, 8:] *= 1e-3
    slim, chosen = narrowed(wide, 0.125)
    assert chosen[0].tolist() == list(range(8))
    own, its = slim.model[1], wide.model[1]
    assert own.bn.running_mean.shape == (8,)
    lost = its.cv2.weight[:, 8:, 0, 0].sum(dim=1) * nn.functional.silu(torch.tensor(2.0))
    rows = [
        next(i for i, kernel in enumerate(its.cv2.weight) if torch.equal(kernel[:8], mine))
        for mine in own.cv2.weight
    ]
    torch.testing.assert_close(own.bn.running_mean[4:], -lost[rows], rtol=1e-3, atol=1e-6)


def test_channels_that_tell_most_are_chosen() -> None:
    wide = random_model("yolov5n")
    loud = [1, 4, 5, 11, 13, 20, 26, 29]
    with torch.no_grad():
        for consumer in (wide.model[2].cv1.conv, wide.model[2].cv2.conv):
            consumer.weight *= 0.1
            consumer.weight[:, loud] *= 100
    _, chosen = narrowed(wide, 0.125)
    assert set(loud) < set(chosen[1].tolist())  # layer 1: 16 of 32


def test_constant_channels_leave_their_mean() -> None:
    # behind a BatchNorm of scale 0 a channel is silu(bias) everywhere; a 1x1 convolution takes it
    wide = random_model("yolov5n")
    with torch.no_grad():
        wide.model[9].cv2.bn.weight[128:] = 0
        wide.model[9].cv2.bn.bias[128:] = 2.0
        wide.model[10].conv.weight[:, 128:] *= 0.01
    slim, chosen = narrowed(wide, 0.125)
    assert chosen[9].max() < 128
    rows = chosen[10]
    gone = wide.model[10].conv.weight[rows][:, 128:, 0, 0].sum(dim=1) * torch.nn.functional.silu(
        torch.tensor(2.0)
    )
    kept_too = sorted(set(range(128)) - set(chosen[9].tolist()))
    assert kept_too == []
    means = wide.model[10].bn.running_mean[rows] - slim.model[10].bn.running_mean
    torch.testing.assert_close(means, gone, rtol=1e-4, atol=1e-5)


def test_a_network_that_cannot_be_followed_is_refused_and_taken_by_shape() -> None:
    wide = random_model("yolov5n-csphet")
    with pytest.raises(CannotNarrow):
        narrowed(wide, 0.1875)
    slim = DetectionModel(wide.yaml | {"width_multiple": 0.1875})
    report = inherit(slim, wide)
    assert report.chosen == {} and 0 < report.share < 0.5


def test_a_narrower_model_inherits_chosen_channels() -> None:
    wide = random_model("yolov5n")
    before = torch.get_rng_state()
    slim = DetectionModel("yolov5n-slimneck.yaml", nc=2)
    description = slim.yaml | {"width_multiple": 0.1875}
    slim = DetectionModel(description)
    torch.set_rng_state(before)
    report = inherit(slim, wide)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn
    assert report.share > 0.9 and "24 of its channels" in report.origins[2]
    rows, columns = report.chosen[1], report.chosen[0]
    assert torch.equal(slim.model[1].conv.weight, wide.model[1].conv.weight[rows][:, columns])
