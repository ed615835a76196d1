"""Convolutions that are more than one kernel: places that are learned, branches, kernels by the picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from models.blocks.conv import Conv
from models.blocks.deform import DCNv2
from models.blocks.diverse import DiverseBranch
from models.blocks.dynamic import ODConv
from models.blocks.gated import GnConv
from models.blocks.linear_attention import EfficientViTBlock, LiteMLA
from models.blocks.mobileone import MobileOneBlock, MobileOneConv
from models.blocks.taking import Take
from models.deploy import deploy
from models.transfer import inherit
from models.yolo import DetectionModel
from tests.layouts import images, small
from tests.models.blocks.specimens import conv, lively, maps
from utils.counting.measure import count_parameters, measure


@pytest.mark.parametrize(
    ("block", "parameters"),
    [
        (DCNv2(32, 64), conv(32, 64, 3) + 27 * 32 * 9 + 27),
        (DCNv2(32, 64, dg=2), conv(32, 64, 3) + 54 * 32 * 9 + 54),
        # k x k and 1x1; 1x1 and k x k; 1x1, average and norm
        (DiverseBranch(32, 64), conv(32, 64, 3) + 2 * conv(32, 64) + conv(32, 32) + conv(32, 64, 3) + 2 * 64),
        # four kernels and a norm; 32 -> 16; 16 -> 32 inputs, 64 outputs, 9 taps, 4 shares, all with biases
        (ODConv(32, 64), 4 * 32 * 64 * 9 + 2 * 64 + 32 * 16 + 16 + 17 * (32 + 64 + 9 + 4)),
        (MobileOneConv(3, 16, 3, 2, n=2), 2 * conv(3, 16, 3) + conv(3, 16)),
        # depthwise: 4 x 3x3, 1x1, norm; 1x1: 4
        (MobileOneBlock(16, 32), 4 * (9 * 16 + 32) + (16 + 32) + 32 + 4 * conv(16, 32)),
        # widths 4, 8, 16: 16 -> 4 + 28; depthwise 7x7 with bias on 28; 4 -> 8 -> 16; 16 -> 16
        (GnConv(16, 3), conv(16, 32) + 28 * 50 + 4 * 8 + 8 + 8 * 16 + 16 + 16 * 16 + 16),
        # two heads: 32 -> 96; depthwise 5x5 on 96, 6 groups of 16; 64 -> 32
        (LiteMLA(32), 32 * 96 + 96 * 25 + 96 * 16 + conv(64, 32)),
        (
            EfficientViTBlock(32),
            count_parameters(LiteMLA(32)) + conv(32, 128) + 9 * 128 + 256 + conv(128, 32),
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_parameters(block: nn.Module, parameters: int) -> None:
    assert count_parameters(block) == parameters


REPLACING: dict[str, Callable[..., nn.Module]] = {
    "DCNv2": DCNv2,
    "DiverseBranch": DiverseBranch,
    "ODConv": ODConv,
    "MobileOneConv": MobileOneConv,
}


@pytest.mark.parametrize("name", REPLACING)
@pytest.mark.parametrize(("c2", "s", "g"), [(16, 1, 1), (16, 1, 4), (32, 2, 1)])
@torch.no_grad()
def test_it_begins_as_the_conv_in_whose_place_it_stands(name: str, c2: int, s: int, g: int) -> None:
    teacher, x = lively(Conv(16, c2, 3, s, g=g)), maps()
    block = REPLACING[name]
    student = block(16, c2, 3, s, None, g) if block in (DCNv2, ODConv) else block(16, c2, 3, s, g)
    Take().module(student, teacher)
    torch.testing.assert_close(student.eval()(x), teacher(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [DiverseBranch, MobileOneConv])
@pytest.mark.parametrize(("k", "c2", "s", "g"), [(3, 16, 1, 1), (5, 16, 1, 4), (3, 32, 2, 1), (3, 16, 1, 16)])
@torch.no_grad()
def test_branches_become_one_convolution(block: Any, k: int, c2: int, s: int, g: int) -> None:
    own, x = lively(block(16, c2, k, s, g)).double(), maps().double()
    before = own(x)
    own.fuse()  # type: ignore[operator]
    torch.testing.assert_close(own(x), before, rtol=1e-10, atol=1e-10)
    assert count_parameters(own) == 16 // g * c2 * k * k + c2
    assert [type(part) for part in own.modules() if list(part.parameters(recurse=False))] == [nn.Conv2d]


def test_the_average_is_over_zeros_at_the_border_too() -> None:
    """By hand: of the four branches the average alone, on ones; a corner sees 4 pixels of 9."""
    block = DiverseBranch(1, 1, act=False).eval()
    for norm in (block.main.bn, block.point.bn, block.deep[1].bn):  # type: ignore[union-attr]
        nn.init.zeros_(norm.weight)
    nn.init.ones_(block.average[0].conv.weight)  # type: ignore[index]
    y = block(torch.ones(1, 1, 3, 3))[0, 0]
    scale = 1 / (1 + 1e-3)  # two BatchNorms that divide by sqrt(1 + eps)
    torch.testing.assert_close(y[0, 0].item(), 4 / 9 * scale)
    torch.testing.assert_close(y[1, 1].item(), scale)


SETTINGS = [
    (3, 1, None, 1, 1, 1),
    (3, 2, None, 1, 1, 2),
    (1, 1, None, 1, 1, 1),
    (3, 1, 2, 4, 2, 4),
    (5, 2, 1, 1, 1, 1),
]


@pytest.mark.parametrize(("k", "s", "p", "g", "d", "dg"), SETTINGS)
@torch.no_grad()
def test_dcnv2_is_torchvisions_and_traced_the_same(k: int, s: int, p: Any, g: int, d: int, dg: int) -> None:
    block, x = lively(DCNv2(16, 8, k, s, p, g, d, False, dg)).double(), maps().double()
    offset, mask = block.offset(x).split((2 * dg * k * k, dg * k * k), dim=1)
    like = block.conv
    y = deform_conv2d(
        x, offset, like.weight, None, like.stride, like.padding, like.dilation, mask=mask.sigmoid()
    )
    assert float(offset.abs().max()) > 1.0  # taps beyond their neighbours, and beyond the border
    torch.testing.assert_close(block(x), block.bn(y))
    torch.testing.assert_close(block._sampled(x, offset, mask.sigmoid()), y)


@torch.no_grad()
def test_dcnv2_moves_a_tap() -> None:
    """By hand: one tap, half a pixel to the right and one down, that counts half."""
    block = DCNv2(1, 1, 1, act=False).eval()
    nn.init.ones_(block.conv.weight)
    block.offset.bias.copy_(torch.tensor([1.0, 0.5, 0.0]))  # type: ignore[union-attr]
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    # (1, 0.5) lies between 3 and 4; at the right border half of it is outside, below all of it
    expected = torch.tensor([[3.5, 4.5, 2.5], [6.5, 7.5, 4.0], [0.0, 0.0, 0.0]]) / 2 / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(block(x)[0, 0], expected)


def test_dcnv2_is_counted_as_torchvision_computes_it() -> None:
    with torch.device("meta"):
        cost = measure(DCNv2(16, 8, 3, 2).eval(), torch.empty(1, 16, 8, 8))
    # 16 pixels: 2 x 9 taps x 16 x 8 for the kernel, and x 27 for the offsets
    assert cost.operations["products"] == 16 * 2 * 9 * 16 * (8 + 27)


@pytest.mark.parametrize(("k", "s", "p", "g", "d"), [setting[:5] for setting in SETTINGS])
@torch.no_grad()
def test_odconv_makes_a_kernel_for_each_picture(k: int, s: int, p: Any, g: int, d: int) -> None:
    block, x = lively(ODConv(16, 8, k, s, p, g, d, False)).double(), maps().double()
    matrix = block.matrix(x)
    kernels = block.kernel(matrix)
    alone = [
        F.conv2d(x[i : i + 1], kernels[i], None, block.stride, block.padding, block.dilation, g)
        for i in range(2)
    ]
    torch.testing.assert_close(block(x), block.bn(torch.cat(alone)))
    torch.testing.assert_close(block._product(x, matrix), torch.cat(alone))
    assert not torch.allclose(kernels[0], kernels[1])


@torch.no_grad()
def test_odconvs_gates_by_hand() -> None:
    """Equation 2 with biases alone: shares 1/4 and 3/4, gates 1/2 for what goes in and comes out."""
    block = ODConv(1, 1, 1, n=2, act=False).eval()
    block.kernels.copy_(torch.tensor([4.0, 8.0]).reshape(2, 1, 1, 1))
    for head in (block.inputs, block.outputs, block.shares):
        nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)  # type: ignore[union-attr, arg-type]
    block.shares.bias.copy_(torch.tensor([1.0, 3.0]).log())  # type: ignore[union-attr]
    assert block.matrix(torch.ones(1, 1, 2, 2)).item() == pytest.approx((4 / 4 + 8 * 3 / 4) / 4)


@torch.no_grad()
def test_odconvs_kernels_begin_apart() -> None:
    student = ODConv(16, 16)
    Take().module(student, lively(Conv(16, 16, 3)))
    first, second, *_ = student.kernels.unflatten(0, (4, 16))
    assert (first - second).abs().mean() > 1e-3


@torch.no_grad()
def test_gnconv_multiplies_order_by_order() -> None:
    block, x = lively(GnConv(8, 3)), maps(8)
    y = block.proj_in(x)
    p, q = y[:, :2], block.dwconv(y[:, 2:]) / 3
    p = p * q[:, :2]
    p = block.pws[0](p) * q[:, 2:6]
    p = block.pws[1](p) * q[:, 6:]
    torch.testing.assert_close(block(x), x + block.proj_out(p))


@torch.no_grad()
def test_linear_attention_is_the_sum_over_all_pixels() -> None:
    block, x = lively(LiteMLA(16, dim=8, k=3)), maps(16, 3, 4)
    near = block.qkv(x)
    heads = torch.cat((near, block.around(near)), dim=1).reshape(2, 4, 24, 12)  # two heads at two scales
    q, k, v = heads[:, :, :8].relu(), heads[:, :, 8:16].relu(), heads[:, :, 16:]
    weights = torch.einsum("bhci,bhcj->bhij", q, k)
    shares = weights / (weights.sum(dim=3, keepdim=True) + 1e-6)
    out = torch.einsum("bhij,bhcj->bhci", shares, v).reshape(2, 32, 3, 4)
    torch.testing.assert_close(block(x), x + block.proj(out), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: DCNv2(8, 8, (3, 1)), r"DCNv2: the kernel must be a square, .*got \(3, 1\)"),
        (lambda: DCNv2(8, 8, dg=3), "DCNv2: dg = 3 must divide the channels, got 8"),
        (lambda: DiverseBranch(8, 8, 1), "DiverseBranch adds a 1x1 .*: k must be odd and >= 3, got 1"),
        (lambda: DiverseBranch(8, 9, g=2), "DiverseBranch: c2 must be a multiple of g = 2, got 9"),
        (lambda: MobileOneConv(8, 8, 2), "MobileOneConv adds a 1x1 .*: k must be odd and >= 1, got 2"),
        (lambda: MobileOneConv(8, 8, n=0), "MobileOneConv needs n >= 1 branches, got 0"),
        (lambda: ODConv(8, 8, n=0), "ODConv: n must be an integer >= 1, got 0"),
        (lambda: ODConv(8, 8, s=(1, 2)), r"ODConv: s must be the same for rows and columns, got \(1, 2\)"),
        (lambda: GnConv(12, 4), "GnConv of order 4 .*: they must be a multiple of 8, got 12"),
        (lambda: LiteMLA(8, 0), "LiteMLA: a head has dim >= 1 channels, got 0"),
        (lambda: EfficientViTBlock(8, 8, 0), "EfficientViTBlock: ratio must be an integer >= 1, got 0"),
    ],
)
def test_misuse_is_named(make: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        make()


def replaced(teacher: DetectionModel, names: dict[int, str]) -> DetectionModel:
    """The network with other blocks in place of 3x3 Convs, and its weights."""
    rows = [list(row) for row in teacher.yaml["backbone"]]
    for index, name in names.items():
        rows[index][2] = name
    model = DetectionModel(teacher.yaml | {"backbone": rows}).eval()
    inherit(model, teacher, exclude=())
    return model


@torch.no_grad()
def test_a_network_with_all_of_them_begins_as_the_one_without_and_deploys() -> None:
    teacher = small("yolov5n").eval()
    model = replaced(teacher, {1: "MobileOneConv", 3: "DCNv2", 5: "ODConv", 7: "DiverseBranch"}).double()
    x = images(teacher, 2).double()
    torch.testing.assert_close(model(x)[0], teacher.double()(x)[0], rtol=1e-5, atol=1e-5)
    lively(model)
    expected, _ = model(x)
    torch.testing.assert_close(deploy(model)(x)[0], expected, rtol=1e-8, atol=1e-8)
