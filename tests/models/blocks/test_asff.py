"""ASFF: weights that sum to 1, a fusion by hand, how levels are resized, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.blocks.asff import ASFF
from models.blocks.conv import Conv
from models.cfg import load_cfg
from models.registry import BLOCKS, Row
from models.yolo import DetectionModel
from utils.errors import UserError

CHANNELS = (4, 8, 16)


def pyramid(batch: int = 2, height: int = 2, width: int = 3, seed: int = 0) -> list[Tensor]:
    """Random maps, finest first; `height` and `width` are the coarsest one's."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, channels, height * 2**up, width * 2**up, generator=generator)
        for channels, up in zip(CHANNELS, (2, 1, 0))
    ]


def plain(values: Sequence[float]) -> tuple[ASFF, list[Tensor]]:
    """Fusion at the middle of one-channel maps, constant `values`, that are resized without weights."""
    block = ASFF(1, (1, 1, 1)).eval()
    block.resize[0], block.resize[2] = nn.AvgPool2d(2), nn.Upsample(scale_factor=2)
    for control in block.control:
        nn.init.zeros_(control.weight)  # type: ignore[arg-type]
        nn.init.zeros_(control.bias)  # type: ignore[arg-type]
    return block, [torch.full((1, 1, side, side), value) for side, value in zip((8, 4, 2), values)]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_weights_sum_to_one_at_every_pixel(level: int) -> None:
    torch.manual_seed(0)
    block = ASFF(level, CHANNELS)
    seen: list[Tensor] = []
    original = block.weights

    def weights(maps: Sequence[Tensor]) -> Tensor:
        seen.append(original(maps))
        return seen[-1]

    block.weights = weights  # type: ignore[method-assign]
    y = block(pyramid())
    assert y.shape == pyramid()[level].shape
    assert seen[0].shape == (2, 3, *y.shape[2:])
    assert (seen[0] > 0).all()
    torch.testing.assert_close(seen[0].sum(dim=1), torch.ones(2, *y.shape[2:]))
    assert seen[0].std(dim=(0, 2, 3)).min() > 0.01  # they differ from pixel to pixel


def test_fusion_by_hand() -> None:
    block, maps = plain([8.0, 16.0, 32.0])
    for control, share in zip(block.control, (1.0, 2.0, 5.0)):
        nn.init.constant_(control.bias, math.log(share))  # type: ignore[arg-type]
    # softmax of logarithms: 1/8, 2/8, 5/8; 8/8 + 16 * 2/8 + 32 * 5/8 = 1 + 4 + 20 = 25
    torch.testing.assert_close(block(maps), torch.full((1, 1, 4, 4), 25.0))


def test_each_pixel_is_weighed_by_its_own_values() -> None:
    block, maps = plain([1.0, 0.0, 7.0])
    nn.init.constant_(block.control[1].weight, 1.0)  # type: ignore[arg-type]
    maps[1][0, 0, 2, 3] = 100.0
    y = block(maps)[0, 0]
    # controls 0, 100, 0 there: e^-100 is nothing, so 100; elsewhere 0, 0, 0: (1 + 0 + 7) / 3
    assert y[2, 3].item() == pytest.approx(100)
    y[2, 3] = 8 / 3
    torch.testing.assert_close(y, torch.full((4, 4), 8 / 3))


def test_levels_are_resized_as_the_paper_says() -> None:
    def kinds(level: int) -> list[list[type]]:
        return [
            [type(part) for part in resize] if isinstance(resize, nn.Sequential) else [type(resize)]
            for resize in ASFF(level, CHANNELS).resize
        ]

    up, same = [Conv, nn.Upsample], [nn.Identity]
    assert kinds(0) == [same, up, up]
    assert kinds(1) == [[Conv], same, up]
    assert kinds(2) == [[nn.MaxPool2d, Conv], [Conv], same]
    finest, coarsest = ASFF(0, CHANNELS).resize, ASFF(2, CHANNELS).resize
    assert [finest[i][0].conv.kernel_size for i in (1, 2)] == [(1, 1), (1, 1)]  # type: ignore[index]
    assert [finest[i][1].scale_factor for i in (1, 2)] == [2, 4]  # type: ignore[index]
    for conv in (coarsest[0][1].conv, coarsest[1][0].conv):  # type: ignore[index]
        assert (conv.kernel_size, conv.stride) == ((3, 3), (2, 2))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_every_parameter_takes_part(level: int) -> None:
    block = ASFF(level, CHANNELS)
    block(pyramid()).square().mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in block.parameters())


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated
@pytest.mark.parametrize("level", [0, 1, 2])
@torch.no_grad()
def test_images_stay_apart_and_a_trace_serves_other_shapes(level: int) -> None:
    block = ASFF(level, CHANNELS).eval()
    maps = pyramid(batch=3)
    alone = [block([one[i : i + 1] for one in maps]) for i in range(3)]
    torch.testing.assert_close(block(maps), torch.cat(alone), rtol=1e-4, atol=1e-5)

    traced = torch.jit.trace(block, (pyramid(batch=1),), check_trace=False)
    for other in (maps, pyramid(batch=2, height=3, width=1)):
        torch.testing.assert_close(traced(other), block(other), rtol=1e-4, atol=1e-5)


def test_inputs_are_left_alone() -> None:
    maps = pyramid()
    ASFF(0, CHANNELS)(maps)
    assert all(torch.equal(one, other) for one, other in zip(maps, pyramid()))


def wired(channels: tuple[int, ...], args: tuple[Any, ...]) -> None:
    BLOCKS["ASFF"].rule(Row(channels, args, 1, scale=lambda c: c // 4))


def test_a_row_gives_the_level_and_takes_its_channels() -> None:
    block, rule, *_ = BLOCKS["ASFF"]
    wiring = rule(Row(CHANNELS, (2,), 1, scale=lambda c: c // 4))  # channels of layers are final already
    assert (wiring.c2, wiring.joins) == (16, True)
    assert block(*wiring.args)(pyramid()).shape[1] == 16


@pytest.mark.parametrize(
    ("channels", "args", "message"),
    [
        ((4, 8), (0,), "ASFF fuses 3 levels, finest first, got 2 inputs"),
        ((4, 8, 16, 32), (0,), "ASFF fuses 3 levels, finest first, got 4 inputs"),
        (CHANNELS, (3,), r"ASFF: the level must be 0 \(finest\) to 2, got 3"),
        (CHANNELS, (-1,), r"ASFF: the level must be 0 \(finest\) to 2, got -1"),
        (CHANNELS, ("fine",), "argument 1 must be an integer, got 'fine'"),
        (CHANNELS, (), "takes one argument, the level to fuse at, got 0 of them"),
        (CHANNELS, (0, 256), "takes one argument, the level to fuse at, got 2 of them"),
    ],
)
def test_misuse(channels: tuple[int, ...], args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wired(channels, args)


def test_maps_must_halve_from_one_to_the_next() -> None:
    block = ASFF(0, (4, 4, 4))
    sizes = r"got \[\(4, 4\), \(4, 4\), \(2, 2\)\]"
    with pytest.raises(ValueError, match=f"ASFF takes maps from fine to coarse.*{sizes}"):
        block([torch.zeros(1, 4, side, side) for side in (4, 4, 2)])


def test_levels_in_the_wrong_order_are_named_with_their_layer() -> None:
    cfg = load_cfg("yolov5n-asff.yaml")
    cfg["head"][-4][0] = [23, 20, 17]
    with pytest.raises(UserError, match=r"layer 24 \(ASFF\): ASFF takes maps from fine to coarse"):
        DetectionModel(cfg)
