"""Weights of other channels: what they become, and that they compute the same."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from models.cfg import load_cfg
from models.stem import mixing
from models.transfer import transfer
from models.yolo import DetectionModel
from tests.layouts import randomise_norms
from utils.data.channels import RED_FIRST, stacked, with_channels

PAIRS = [(a, b) for a in RED_FIRST for b in RED_FIRST if a != b]
# official weights before v6.0 begin with Focus, which sees every channel four times
BEGINNINGS = {"Conv": [8, 6, 2, 2], "Focus": [8, 3], "GhostConv": [8, 3, 2]}


def detector(channels: int, seed: int, beginning: str = "Conv") -> DetectionModel:
    torch.manual_seed(seed)
    cfg: dict[str, Any] = load_cfg("yolov5n.yaml") | {
        "depth_multiple": 0.33,
        "width_multiple": 0.125,
        "nc": 2,
    }
    cfg["backbone"] = [[-1, 1, beginning, BEGINNINGS[beginning]], *cfg["backbone"][1:]]
    model = DetectionModel(cfg, ch=channels).eval()
    randomise_norms(model)
    return model


def batch_of(image: np.ndarray, channels: int) -> Tensor:
    """A picture, blue first, as a network of so many channels sees it."""
    return torch.from_numpy(stacked([with_channels(image, channels)]).copy()).float() / 255


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize(("known", "given"), PAIRS)
@torch.no_grad()
def test_the_same_maps_where_that_is_possible(known: int, given: int, beginning: str) -> None:
    source, model = detector(known, 1, beginning), detector(given, 2, beginning)
    report = transfer(model, source.state_dict(), exclude=())
    assert report.share == 1.0
    assert f"; layer 0 had {known} channels, not {given}: " in str(report)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    if given == 1:  # exact for grey pictures
        image = np.repeat(image[..., :1], 3, axis=2)
    if given == 4:
        image = np.dstack([image, image[::-1, :, 0]])  # whatever is in it
    shown = batch_of(image, given)
    if known == 4:  # what was learnt of a fourth channel is lost: a source without it is the same
        known_picture = torch.cat([batch_of(image, 3), torch.zeros(1, 1, 64, 64)], dim=1)
    else:
        known_picture = batch_of(with_channels(image, 3) if image.shape[2] == 4 else image, known)
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    if known == 1 and given > 1:  # pictures are made grey in whole numbers
        tolerance = {"rtol": 0.0, "atol": 0.05}
    torch.testing.assert_close(model.model[0](shown), source.model[0](known_picture), **tolerance)


def test_sums_by_hand() -> None:
    assert mixing(3, 1).tolist() == [[1], [1], [1]]
    assert mixing(1, 3).tolist() == [[0.299, 0.587, 0.114]]
    assert mixing(1, 4).tolist() == [[0.299, 0.587, 0.114, 0]]
    assert mixing(3, 4).tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert mixing(4, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert mixing(4, 1).tolist() == [[1], [1], [1], [0]]


@torch.no_grad()
def test_kernels_by_hand() -> None:
    source, grey, four = detector(3, 1), detector(1, 2), detector(4, 3)
    kernel = source.model[0].conv.weight  # red, green, blue
    transfer(grey, source.state_dict())
    transfer(four, source.state_dict())
    torch.testing.assert_close(grey.model[0].conv.weight, kernel.sum(dim=1, keepdim=True))
    assert torch.equal(four.model[0].conv.weight[:, :3], kernel)
    assert (four.model[0].conv.weight[:, 3] == 0).all()


@torch.no_grad()
def test_a_grey_picture_gives_the_same_predictions() -> None:
    """Through the whole network, in double precision, where only the order of sums is left to differ."""
    source, grey = detector(3, 1).double(), detector(1, 2).double()
    transfer(grey, source.state_dict(), exclude=())
    picture = torch.rand(1, 1, 64, 64, dtype=torch.float64)
    torch.testing.assert_close(grey(picture)[0], source(picture.expand(-1, 3, -1, -1))[0])


def test_nothing_is_said_or_done_when_channels_agree() -> None:
    source, model = detector(3, 1), detector(3, 2)
    report = transfer(model, source.state_dict(), exclude=())
    assert str(report).endswith(")")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values()))


def test_half_precision_and_the_source_stays_as_it_is() -> None:
    source = {name: tensor.half() for name, tensor in detector(3, 1).state_dict().items()}
    before = copy.deepcopy(source)
    assert transfer(detector(1, 2), source).remade
    assert all(torch.equal(before[name], tensor) for name, tensor in source.items())


def test_another_layer_is_no_layer_of_other_channels() -> None:
    """Another width, another kernel, or a tensor that is not there: nothing of it is taken."""
    source = detector(3, 1).state_dict()
    kernel = source["model.0.conv.weight"]
    for other in (
        {**source, "model.0.conv.weight": torch.zeros(16, *kernel.shape[1:])},
        {**source, "model.0.conv.weight": torch.zeros(*kernel.shape[:2], 3, 3)},
        {**source, "model.0.conv.weight": torch.zeros(kernel.shape[0], 5, *kernel.shape[2:])},
        {name: tensor for name, tensor in source.items() if name != "model.0.bn.weight"},
        {**source, "model.0.bn.weight": torch.zeros(3)},
    ):
        model = detector(1, 2)
        before = model.model[0].conv.weight.clone()
        report = transfer(model, other)
        assert not report.remade
        assert "model.0.conv.weight" in report.kept
        assert torch.equal(model.model[0].conv.weight, before)
