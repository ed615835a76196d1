"""deploy(): every layout means the same in fewer steps, without shuffles; and what it tells and refuses."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, fx, nn

from models.cfg import load_cfg
from models.deploy import deploy
from models.registry import BLOCKS, register, same
from models.weights import load_model
from models.yolo import DetectionModel
from tests.layouts import DISTINCT, images, randomise_norms, small


def lively(name: str) -> DetectionModel:
    """The layout at full size with random BatchNorm statistics."""
    torch.manual_seed(0)
    model = DetectionModel(name).eval()
    randomise_norms(model)
    return model


def assert_same(
    found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]], rtol: float
) -> None:
    """Relative to the largest value of each tensor: logits may be near zero by chance."""
    for one, other in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= rtol * float(other.abs().max())


@pytest.mark.parametrize("name", DISTINCT)
@torch.no_grad()
def test_every_layout_means_the_same_in_double_precision_without_a_shuffle(name: str) -> None:
    model = small(name).double().eval()
    deployed = deploy(model)
    side = images(model, 1).shape[2]
    for shape in ((1, 3, side, side), (3, 3, side, 2 * side)):
        x = torch.rand(shape, dtype=torch.float64)
        assert_same(deployed(x), model(x), rtol=1e-9)
    assert isinstance(deployed.network, fx.GraphModule)
    called = {str(node.target) for node in deployed.network.graph.nodes}
    assert not any("shuffle_channels" in target or "index_select" in target for target in called)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DISTINCT if re.match(r"yolov5n|v5lite", name)])
@torch.no_grad()
def test_full_size_in_single_precision(name: str) -> None:
    model = lively(name)
    deployed = deploy(model)
    for batch, side in ((1, 320), (3, 320), (1, 640), (3, 640)):
        x = torch.rand(batch, 3, side, side)
        assert_same(deployed(x), model(x), rtol=1e-4)


@torch.no_grad()
def test_one_size_has_constant_cells() -> None:
    model = small("yolov5n-gsconv").eval()
    deployed = deploy(model, size=(64, 96))
    x = torch.rand(2, 3, 64, 96)
    assert_same(deployed(x), model(x), rtol=1e-5)
    assert not [n for n in deployed.network.graph.nodes if "arange" in str(n.target)]
    with pytest.raises(ValueError, match=r"deployed for images of \(64, 96\), got \(64, 64\)"):
        deployed(torch.rand(2, 3, 64, 64))
    with pytest.raises(ValueError, match=r"sides must be multiples of the stride 32"):
        deploy(model, size=(64, 90))


@torch.no_grad()
def test_official_weights_give_the_same_boxes(official_weights) -> None:
    model = load_model(official_weights)
    x = torch.rand(1, 3, 320, 320)
    assert_same(deploy(model)(x), model(x), rtol=1e-4)


@torch.no_grad()
def test_the_model_itself_is_left_alone() -> None:
    model = small("yolov5n-csppc").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    deployed = deploy(model)
    assert model.training and not deployed.training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(parameter.requires_grad for parameter in deployed.parameters())


@torch.no_grad()
def test_half_precision_stays_half() -> None:
    model = small("yolov5n").eval().bfloat16()
    deployed = deploy(model)
    assert {p.dtype for p in deployed.parameters()} == {torch.bfloat16}
    x = images(model, 1).bfloat16()
    assert_same(deployed(x), model(x), rtol=0.05)


@torch.no_grad()
def test_a_block_of_the_user_deploys_without_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.registry.BLOCKS", dict(BLOCKS))

    class Odd(nn.Module):
        """Depends on values, so that no graph can be made of it."""

        def forward(self, x: Tensor) -> Tensor:
            return x.roll(1, 1) if bool((x > 0).any()) else x

    class Strange(nn.Module):
        """Can be traced, and does what no rule knows."""

        def forward(self, x: Tensor) -> Tensor:
            return x.cumsum(dim=1) / 10

    register(same)(Odd)
    register(same)(Strange)
    cfg = load_cfg("yolov5n-gsconv") | {"nc": 3}
    cfg["head"][1] = [
        -1,
        1,
        "Odd",
        [],
    ]  # in place of Upsample; the map keeps its size, so the Concat goes, too
    cfg["head"][2] = [-1, 1, "Strange", []]
    cfg["head"][3] = [-1, 1, "nn.Upsample", [None, 2, "nearest"]]
    model = DetectionModel(cfg).eval().double()
    x = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    deployed = deploy(model)
    assert_same(deployed(x), model(x), rtol=1e-9)
    assert any(isinstance(part, Odd) for part in deployed.modules())
    assert deployed.rules["channel permutations carried into weights"] == 4
