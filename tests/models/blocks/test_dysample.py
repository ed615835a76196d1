"""DySample: bilinear at zero offset, and offsets that move the samples they belong to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.dysample import DySample
from models.registry import BLOCKS, Row

FORMS: list[dict[str, Any]] = [
    {},
    {"style": "pl"},
    {"dynamic": True},
    {"style": "pl", "dynamic": True, "groups": 2},
    {"scale": 4, "groups": 1},
]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def unmoved(block: DySample) -> DySample:
    """The block with offsets of zero everywhere."""
    nn.init.zeros_(block.offset.weight)
    nn.init.zeros_(block.offset.bias)  # type: ignore[arg-type]
    return block


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_without_offsets_it_is_bilinear_interpolation(form: dict[str, Any]) -> None:
    x = noise(2, 16, 5, 7)
    expected = F.interpolate(x, scale_factor=form.get("scale", 2), mode="bilinear", align_corners=False)
    torch.testing.assert_close(unmoved(DySample(16, **form))(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_it_starts_next_to_bilinear_interpolation(form: dict[str, Any]) -> None:
    x = noise(2, 16, 5, 7)
    torch.manual_seed(0)
    block = DySample(16, **form)
    expected = F.interpolate(x, scale_factor=form.get("scale", 2), mode="bilinear", align_corners=False)
    difference = (block(x) - expected).abs().max()
    # offsets: 0.25 * a sum of 16 terms of about 0.001 = 0.001 pixels, rarely 0.004; slopes reach 5 a pixel
    assert 0 < difference < 0.03
    assert 0.0005 < block.offset.weight.std() < 0.0015


def test_an_offset_of_a_quarter_pixel_by_hand() -> None:
    block = unmoved(DySample(1, groups=1))
    nn.init.ones_(block.offset.bias[:4])  # type: ignore[index]  # x of all four points: 0.25 * 1 pixels
    x = torch.tensor([0.0, 1, 2, 3]).expand(1, 1, 4, 4)
    # points (u + 1/2) / 2 + 1/4 = 0.5, 1, 1.5, …, 4; pixel i is centred at i + 1/2, so the ramp is p - 1/2;
    # the last point, 3.5, is clamped to the border
    row = [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]
    torch.testing.assert_close(block(x), torch.tensor(row).expand(1, 1, 8, 8), rtol=0, atol=1e-5)

    nn.init.zeros_(block.offset.bias[:4])  # type: ignore[index]
    nn.init.ones_(block.offset.bias[4:])  # type: ignore[index]  # now y
    torch.testing.assert_close(block(x.mT)[0, 0, :, 3], torch.tensor(row), rtol=0, atol=1e-5)


def test_each_point_and_each_group_has_its_own_offset() -> None:
    block = unmoved(DySample(8, groups=2))
    x = noise(1, 8, 4, 4)
    still = block(x)
    # channels of the offsets: (group * 2 + axis) * 4 + row * 2 + column; group 1, axis y, row 0, column 1
    block.offset.bias.data[(1 * 2 + 1) * 4 + 0 * 2 + 1] = 1.0  # type: ignore[union-attr]
    moved = (block(x) - still).abs() > 1e-4
    assert not moved[:, :4].any()
    assert moved[:, 4:, 0::2, 1::2].float().mean() > 0.7  # the outermost may be clamped to where they were
    moved[:, 4:, 0::2, 1::2] = False
    assert not moved.any()


def test_shuffled_first_the_offset_sees_a_quarter_of_the_channels() -> None:
    block = DySample(16, style="pl", groups=4)
    assert block.offset.weight.shape == (8, 4, 1, 1)  # x and y of 4 groups, from 16 / 2^2 channels
    assert DySample(16, groups=4).offset.weight.shape == (32, 16, 1, 1)  # the same for 2^2 points


def test_the_dynamic_scope_starts_at_the_static_one_and_doubles_at_most() -> None:
    static, dynamic = DySample(8), DySample(8, dynamic=True)
    dynamic.load_state_dict(static.state_dict(), strict=False)
    x = noise(2, 8, 3, 3).abs() + 1
    torch.testing.assert_close(dynamic.offsets(x), static.offsets(x))  # sigmoid(0) / 2 = 1/4
    assert dynamic.scope is not None
    nn.init.constant_(dynamic.scope.weight, 100.0)  # sigmoid -> 1
    torch.testing.assert_close(dynamic.offsets(x), 2 * static.offsets(x))


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_gradients_reach_everything_and_repeat(form: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block = DySample(16, **form)
    nn.init.normal_(block.offset.weight)  # points all over the map, many of them into the same pixel
    x = noise(4, 16, 16, 16).requires_grad_()
    gradients = []
    for _ in range(3):
        gradients.append(torch.autograd.grad(block(x).square().mean(), [x, *block.parameters()]))
    assert all(gradient.any() for gradient in gradients[0])
    for again in gradients[1:]:
        assert all(torch.equal(one, other) for one, other in zip(again, gradients[0]))


def test_bfloat16_maps_are_sampled_where_they_should_be() -> None:
    stripes = (
        (torch.arange(200) % 2).float().expand(1, 4, 2, 200)
    )  # 400 points; 8 bits tell 256 numbers apart
    expected = F.interpolate(stripes, scale_factor=2, mode="bilinear", align_corners=False)  # 0, 1/4, 3/4, 1
    y = unmoved(DySample(4)).bfloat16()(stripes.bfloat16())
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_a_trace_with_large_offsets_serves_other_sizes(form: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block = DySample(16, **form).eval()
    nn.init.normal_(block.offset.weight)
    traced = torch.jit.trace(block, noise(1, 16, 4, 4), check_trace=False)
    for shape in ((3, 16, 4, 4), (2, 16, 6, 3)):
        torch.testing.assert_close(traced(noise(*shape)), block(noise(*shape)), rtol=1e-4, atol=1e-5)


def test_a_row_gives_scale_and_style() -> None:
    block, rule, *_ = BLOCKS["DySample"]
    wiring = rule(Row((16,), (4, "pl"), 1, scale=lambda c: c // 2))
    assert wiring.c2 == 16
    assert block(*wiring.args)(noise(1, 16, 2, 3)).shape == (1, 16, 8, 12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16, 1), "scale must be an integer >= 2, got 1"),
        ((16, 2.0), "scale must be an integer >= 2, got 2.0"),
        ((16, True), "scale must be an integer >= 2, got True"),
        ((16, 2, "xx"), "style must be lp or pl, got 'xx'"),
        ((16, 2, "lp", 0), "groups must be an integer >= 1, got 0"),
        ((18,), "4 groups: c1 must be a multiple of 4, got 18"),
        ((8, 3, "pl"), "style pl needs a multiple of scale.2 = 9 channels, got 8"),
    ],
)
def test_misuse(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=f"DySample.*{message}"):
        DySample(*arguments)
