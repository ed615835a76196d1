"""OREPA: the merged kernel against its branches run one after another, the cosine waves, and fusing."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from models.blocks.conv import Conv
from models.blocks.orepa import OREPA, MergedConv2d, cosine_waves
from utils.counting.measure import count_parameters

SETTINGS: list[dict[str, Any]] = [
    {},
    {"s": 2},
    {"g": 4},
    {"g": 8, "s": 2},  # depthwise
    {"d": 2},
    {"p": 0},
    {"k": 5, "s": 2, "g": 2},
    {"k": 6, "s": 2, "p": 2},
    {"k": (1, 3)},
    {"k": (3, 5), "s": (2, 1), "d": 2},
]


def block(c1: int = 8, c2: int = 16, **settings: Any) -> OREPA:
    """An OREPA whose scaling and BatchNorm are in the middle of training."""
    torch.manual_seed(0)
    made = OREPA(c1, c2, **settings)
    merged, bn = made.conv, made.bn
    assert isinstance(merged, MergedConv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    nn.init.normal_(merged.scale)
    nn.init.normal_(merged.expand_1x1)
    nn.init.normal_(bn.running_mean, std=0.1)  # type: ignore[arg-type]
    nn.init.uniform_(bn.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    nn.init.uniform_(bn.weight, 0.5, 1.5)
    nn.init.normal_(bn.bias, std=0.1)
    return made


def image(batch: int = 2, channels: int = 8) -> Tensor:
    return torch.randn(batch, channels, 13, 12, generator=torch.Generator().manual_seed(batch))


def one_after_another(merged: nn.Module, x: Tensor) -> Tensor:
    """The five branches as stacks of convolutions on the image, each times its scale, summed."""
    assert isinstance(merged, MergedConv2d)
    conv, groups = merged.kxk, merged.kxk.groups
    c1, c2, (height, width) = conv.in_channels, conv.out_channels, conv.kernel_size
    place: dict[str, Any] = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
    mean = torch.full((c2, 1, height, width), 1 / (height * width))

    expanded = F.conv2d(x, merged.expand_1x1, groups=groups)
    averaged = F.conv2d(x, merged.average, groups=groups)
    waved = F.conv2d(x, merged.frequency_1x1, groups=groups)
    separated = F.conv2d(x, merged.depthwise, groups=c1, **place)
    branches = [
        F.conv2d(x, conv.weight, groups=groups, **place),
        F.conv2d(expanded, merged.expand_kxk, groups=groups, **place),
        F.conv2d(averaged, mean, groups=c2, **place),
        F.conv2d(waved, merged.frequency, groups=c2, **place),
        F.conv2d(separated, merged.pointwise, groups=groups),
    ]
    scaled = [branch * scale.reshape(1, -1, 1, 1) for branch, scale in zip(branches, merged.scale)]
    return torch.stack(scaled).sum(dim=0)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_merging_equals_running_the_branches(settings: dict[str, Any]) -> None:
    merged = block(**settings).conv
    torch.testing.assert_close(merged(image()), one_after_another(merged, image()), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_average_branch_is_average_pooling() -> None:
    merged = block(s=2).conv
    assert isinstance(merged, MergedConv2d)
    nn.init.zeros_(merged.scale)
    nn.init.ones_(merged.scale[2])
    pooled = F.avg_pool2d(F.conv2d(image(), merged.average), 3, stride=2, padding=1)
    torch.testing.assert_close(merged(image()), pooled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_it_takes_the_settings_of_conv(settings: dict[str, Any]) -> None:
    made = block(**settings)
    plain = Conv(8, 16, **{"k": 3} | settings)
    assert made(image()).shape == plain(image()).shape
    made.eval().fuse()
    plain.eval().fuse()
    assert count_parameters(made) == count_parameters(plain)
    for key in ("kernel_size", "stride", "padding", "dilation", "groups"):
        assert getattr(made.conv, key) == getattr(plain.conv, key)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@torch.no_grad()
def test_fusing_leaves_one_convolution(settings: dict[str, Any]) -> None:
    made = block(**settings).eval()
    before = made(image())
    for _ in range(2):  # a second call changes nothing
        made.fuse()
        torch.testing.assert_close(made(image()), before, rtol=1e-4, atol=1e-5)
    assert type(made.conv) is nn.Conv2d
    assert set(made.state_dict()) == {"conv.weight", "conv.bias"}


def test_training_convolves_the_images_once() -> None:
    made, plain = block(16, 16), Conv(16, 16, 3)
    counts = []
    for module in (made, plain):
        with FlopCounterMode(display=False) as counter:
            module(image(channels=16))
        counts.append(counter.get_flop_counts()["Global"])
    convolution = torch.ops.aten.convolution
    assert counts[0][convolution] == counts[1][convolution]
    # beside it only the 1x1 - k x k merge, on weights: 2 * 16 * 16 * 16 * 9 operations, however many images
    assert sum(counts[0].values()) - counts[0][convolution] == 2 * 16 * 16 * 16 * 9


def test_gradients_reach_every_branch() -> None:
    made = OREPA(8, 16)
    made(image()).square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in made.parameters())
    assert made.conv.scale.grad is not None
    assert made.conv.scale.grad.all()  # type: ignore[operator]


def test_cosine_waves_by_hand() -> None:
    waves = cosine_waves(10, 3, 3)
    assert waves.shape == (10, 1, 3, 3)
    half = math.sqrt(3) / 2
    # v = 1: cos of 30, 90, 150 degrees; v = 2: of 60, 180, 300
    first = torch.tensor([half, 0, -half])
    second = torch.tensor([0.5, -1, 0.5])
    torch.testing.assert_close(waves[0, 0], first.expand(3, 3))  # (u, v) = (0, 1): the same in every row
    torch.testing.assert_close(waves[1, 0], second.expand(3, 3))  # (0, 2)
    torch.testing.assert_close(waves[2, 0], first.expand(3, 3).mT)  # (1, 0): the same in every column
    torch.testing.assert_close(waves[4, 0], first[:, None] * second)  # (1, 2)
    assert torch.equal(waves[8:], waves[:2])  # 3 * 3 - 1 frequencies, then from the start


def test_cosine_waves_are_orthogonal_to_each_other_and_to_the_mean() -> None:
    flat = torch.cat((torch.ones(1, 15), cosine_waves(14, 3, 5).reshape(14, 15)))
    products = flat @ flat.mT
    torch.testing.assert_close(products, products.diag().diag(), rtol=0, atol=1e-5)
    assert (products.diag() > 1).all()


def test_waves_are_not_in_the_checkpoint() -> None:
    keys = set(OREPA(8, 8).conv.state_dict())
    weights = {"expand_1x1", "expand_kxk", "average", "frequency_1x1", "depthwise", "pointwise"}
    assert keys == {"kxk.weight", "scale"} | weights


def test_activation_is_honoured() -> None:
    assert isinstance(OREPA(8, 8, act=nn.ReLU()).act, nn.ReLU)
    assert isinstance(OREPA(8, 8, act=False).act, nn.Identity)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"k": 1}, "merges kernels larger than 1x1, got k = 1; use Conv"),
        ({"k": (1, 1)}, r"merges kernels larger than 1x1, got k = \(1, 1\)"),
        ({"g": 3}, "g = 3 groups: c1 must be a multiple of it, got 8"),
        ({"g": 0}, "g = 0 groups"),
    ],
)
def test_misuse(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"OREPA.*{message}"):
        OREPA(8, 16, **settings)
