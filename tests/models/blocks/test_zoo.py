"""Blocks of newer detectors: what they cost, what they compute, and what they take over from ours."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from models.blocks.bifpn import BiFPN
from models.blocks.carafe import CARAFE
from models.blocks.conv import Conv
from models.blocks.csp import C3, C2f
from models.blocks.downsample import ADown, SpaceToDepth, SPDConv
from models.blocks.ghost import C3Ghost, C3GhostV2, GhostBottleneck, GhostBottleneckV2
from models.blocks.repconv import RepConv, RepNCSP, RepNCSPELAN4
from models.blocks.reshape import Concat
from models.blocks.star import StarBlock
from models.blocks.taking import Take
from models.deploy import deploy
from models.transfer import inherit
from models.yolo import DetectionModel
from tests.layouts import images, small
from tests.models.blocks.specimens import conv, lively, maps
from utils.counting.measure import count_parameters


@pytest.mark.parametrize(
    ("block", "parameters"),
    [
        (C2f(32, 32, 1, True), 7360),  # layer 2 of YOLOv8n, by its public table
        (C2f(64, 64, 2, True), 49664),  # layer 4
        (C2f(384, 128, 1), 148224),  # layer 12
        (RepConv(32, 32), conv(32, 32, 3) + conv(32, 32) + 2 * 32),
        (RepConv(32, 64, s=2), conv(32, 64, 3) + conv(32, 64)),
        # two entries and an exit; inside both branches and a 3x3
        (RepNCSP(32, 32), 2 * conv(32, 16) + conv(32, 32) + 2 * conv(16, 16, 3) + conv(16, 16)),
        (
            RepNCSPELAN4(64, 64, 64, 32),
            conv(64, 64) + conv(64 + 2 * 32, 64) + 2 * (count_parameters(RepNCSP(32, 32)) + conv(32, 32, 3)),
        ),
        (
            GhostBottleneckV2(32, 32),  # attention: 1x1 to 16, and two strips of 5 with a norm
            count_parameters(GhostBottleneck(32, 32)) + conv(32, 16) + 2 * (5 * 16 + 2 * 16),
        ),
        (SPDConv(32, 64), conv(4 * 32, 64, 3)),
        (ADown(64, 128), conv(32, 64, 3) + conv(32, 64)),
        (BiFPN(3), 3),
        # 7x7 and norm; two 1x1 to three times the channels, with bias; back; 7x7 with bias
        (StarBlock(16), 49 * 16 + 2 * 16 + 2 * (16 * 48 + 48) + conv(48, 16) + 49 * 16 + 16),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_parameters(block: nn.Module, parameters: int) -> None:
    assert count_parameters(block) == parameters


@pytest.mark.parametrize(("c2", "s", "g"), [(16, 1, 1), (16, 1, 4), (32, 1, 1), (16, 2, 1)])
@torch.no_grad()
def test_repconv_becomes_one_convolution(c2: int, s: int, g: int) -> None:
    block, x = lively(RepConv(16, c2, 3, s, g)), maps()
    branches = block.conv1(x) + block.conv2(x)
    expected = block.act(branches + block.bn(x)) if c2 == 16 and s == 1 else block.act(branches)
    torch.testing.assert_close(block(x), expected)
    block.fuse()
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)
    assert [
        type(part) for part in block.modules() if next(part.parameters(recurse=False), None) is not None
    ] == [nn.Conv2d]
    assert count_parameters(block) == 16 // g * c2 * 9 + c2


@pytest.mark.parametrize(("c2", "s"), [(16, 1), (32, 2)])
@torch.no_grad()
def test_repconv_begins_as_the_conv_in_whose_place_it_stands(c2: int, s: int) -> None:
    teacher, student, x = lively(Conv(16, c2, 3, s)), RepConv(16, c2, 3, s), maps()
    Take().module(student, teacher)
    torch.testing.assert_close(student.eval()(x), teacher(x))


@pytest.mark.parametrize("k", [1, 2, 3, 4])
@torch.no_grad()
def test_spdconv_can_be_any_convolution_of_stride_two(k: int) -> None:
    teacher, student, x = lively(Conv(16, 8, k, 2, 0 if k == 2 else None)), SPDConv(16, 8), maps()
    if k == 4:  # with its usual padding, it gives one more row and column
        teacher.conv.padding = (1, 1)
    take = Take()
    take.module(student, teacher)
    torch.testing.assert_close(student.eval()(x), teacher(x), rtol=1e-4, atol=1e-5)
    assert take.has(student.conv.conv.weight)


@torch.no_grad()
def test_spdconv_takes_the_stem_of_yolov5_and_no_wider_window() -> None:
    stem, x = lively(Conv(3, 8, 6, 2, 2)), maps(3)
    student = SPDConv(3, 8)
    Take().module(student, stem)
    torch.testing.assert_close(student.eval()(x), stem(x), rtol=1e-4, atol=1e-5)
    take = Take()
    take.module(SPDConv(3, 8), lively(Conv(3, 8, 7, 2)))  # offsets -3 to 3 are -2 to 1 pixels away
    assert not take.share(student.conv.conv.weight)
    assert not any(take.has(tensor) for tensor in student.parameters())


def test_space_to_depth_has_every_pixel_once() -> None:
    x = torch.arange(2 * 2 * 4 * 6.0).reshape(2, 2, 4, 6)
    y = SpaceToDepth()(x)
    assert y.shape == (2, 8, 2, 3) and sorted(y.flatten().tolist()) == sorted(x.flatten().tolist())
    # the pixel to the right of the first of each patch is in the third group of channels
    assert torch.equal(y[:, 4:6], x[..., 0::2, 1::2])


@torch.no_grad()
def test_adown_halves_both_ways() -> None:
    block, x = lively(ADown(4, 6)), maps(4)
    near = nn.functional.avg_pool2d(x, 2, 1)
    strongest = nn.functional.max_pool2d(near[:, 2:], 3, 2, 1)
    assert block(x).shape == (2, 6, 3, 4)
    torch.testing.assert_close(block(x)[:, :3], block.cv1(near[:, :2]))
    torch.testing.assert_close(block(x)[:, 3:], block.cv2(strongest))


@torch.no_grad()
def test_bifpn_shares_by_weight_and_begins_as_a_concatenation() -> None:
    block, x = BiFPN(2), [maps(4), maps(6)]
    block.w.copy_(torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(block(x), torch.cat((0.75 * x[0], 0.25 * x[1]), dim=1), rtol=1e-4, atol=1e-4)
    block.w.copy_(torch.tensor([3.0, -1.0]))
    assert not block(x)[:, 4:].any()
    Take().module(block, Concat())
    torch.testing.assert_close(block(x), torch.cat(x, dim=1))


@torch.no_grad()
def test_c2f_begins_near_the_c3_in_whose_place_it_stands() -> None:
    """Bottlenecks that only pass on what they get: then both are the same."""
    teacher = lively(C3(16, 32, 2))
    for bottleneck in teacher.m:
        nn.init.zeros_(bottleneck.cv2.bn.weight)
        nn.init.zeros_(bottleneck.cv2.bn.bias)
    student, x = C2f(16, 32, 2, True), maps()
    Take().module(student, teacher)
    torch.testing.assert_close(student.eval()(x), teacher(x))
    middle = student.m[0].cv1.conv.weight
    assert torch.equal(middle[:, :, 1:2, 1:2], teacher.m[0].cv1.conv.weight) and not middle[:, :, 0].any()


@torch.no_grad()
def test_ghost_bottlenecks_look_far() -> None:
    block, x = lively(GhostBottleneckV2(16, 16)), maps(16, 5, 7)
    pooled = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
    far = block.dfc(pooled).sigmoid().repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    # 5 pixels of 3 and 7 of 4: floor(i * 3 / 5) and floor(i * 4 / 7)
    rows, columns = [0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2, 3]
    gate = far[:, :, ::2, ::2][:, :, rows][:, :, :, columns]
    torch.testing.assert_close(block(x), block.conv[2](block.conv[0](x) * gate) + x)
    assert block(x[..., :1, :1]).shape == (2, 16, 1, 1)


@torch.no_grad()
def test_c3ghostv2_begins_as_the_c3ghost_in_whose_place_it_stands() -> None:
    teacher, student, x = lively(C3Ghost(16, 32, 2)), C3GhostV2(16, 32, 2), maps()
    Take().module(student, teacher)
    torch.testing.assert_close(student.eval()(x), teacher(x))


@torch.no_grad()
def test_star_multiplies_two_linear_maps() -> None:
    block, x = lively(StarBlock(8)), maps(8)
    y = block.dwconv(x)
    stars = block.f1(y).clamp(0, 6) * block.f2(y)
    torch.testing.assert_close(block(x), x + block.dwconv2(block.g.bn(block.g.conv(stars))))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: RepConv(8, 8, 1), "RepConv adds a 1x1 .*: k must be odd and >= 3, got 1"),
        (lambda: RepNCSPELAN4(8, 8, 5, 4), "RepNCSPELAN4 splits c3 in halves: .* got c3 = 5, c4 = 4"),
        (lambda: ADown(7, 8), "ADown works on halves: c1 and c2 must be even, got c1 = 7, c2 = 8"),
        (lambda: StarBlock(8, 0), "StarBlock: ratio must be an integer >= 1, got 0"),
    ],
)
def test_misuse_is_named(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


def replaced(rows: list[list[Any]], block: str) -> list[list[Any]]:
    """Rows of YOLOv5 in which a block stands wherever it can."""
    changed = []
    for source, number, name, args in rows:
        if block == "BiFPN" and name == "Concat":
            name = block
        elif block == "SPDConv" and name == "Conv" and args[1:] == [3, 2]:
            name, args = block, [args[0], 3]
        elif block == "RepConv" and name == "Conv" and args[1:] == [3, 2]:
            name = block
        changed.append([source, number, name, args])
    return changed


@pytest.mark.parametrize("block", ["BiFPN", "SPDConv", "RepConv"])
@torch.no_grad()
def test_a_network_with_it_begins_as_the_one_without_and_deploys(block: str) -> None:
    teacher = small("yolov5n").eval().double()
    cfg = teacher.yaml | {part: replaced(teacher.yaml[part], block) for part in ("backbone", "head")}
    model = DetectionModel(cfg).eval().double()
    assert block in {layer.name for layer in model.layers}
    inherit(model, teacher, exclude=())
    x = images(teacher, 2).double()
    expected, _ = teacher(x)
    for network in (model, deploy(model)):
        torch.testing.assert_close(network(x)[0], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("scale", "k_up"), [(2, 5), (3, 3)])
@torch.no_grad()
def test_carafe_mixes_the_pixels_around(scale: int, k_up: int) -> None:
    block, x = lively(CARAFE(4, scale, k_up, c_mid=8)), maps(4, 5, 6)
    shares = nn.functional.pixel_shuffle(block.encode(block.compress(x)), scale).softmax(dim=1)
    around = nn.functional.unfold(x, k_up, padding=k_up // 2).reshape(2, 4, k_up**2, 5, 6)
    coarse = around.repeat_interleave(scale, dim=3).repeat_interleave(scale, dim=4)
    torch.testing.assert_close(block(x), (coarse * shares.unsqueeze(1)).sum(dim=2))
    inputs = 4 * 8 + 8 + 9 * 8 * scale**2 * k_up**2 + scale**2 * k_up**2
    assert count_parameters(block) == inputs


@torch.no_grad()
def test_carafe_begins_near_the_upsample_in_whose_place_it_stands() -> None:
    block, x = CARAFE(4), maps(4)
    take, upsample = Take(), nn.Upsample(None, 2, mode="nearest")
    take.module(block, upsample)
    assert take.has(block.encode.weight)
    # e^8 of e^8 + 24 is the pixel itself
    assert float((block(x) - upsample(x)).abs().max()) < 0.01 * 2 * float(x.abs().max())
    Take().module(other := CARAFE(4, 3), upsample)
    assert other.encode.weight.any()


def test_channels_that_carafe_takes_for_its_scale_are_told() -> None:
    with pytest.raises(ValueError, match="scale must be at most 16, got 512; channels are not written"):
        CARAFE(4, 512)
