"""Operations of single operators, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.utils.counting.functions import Apply
from utils.counting.conventions import KINDS
from utils.counting.measure import measure


def zeros(*shape: int) -> Tensor:
    return torch.zeros(*shape, device="meta")


def operations(function: Callable[[Tensor], object], *shape: int) -> dict[str, int]:
    """The kinds that the function needs, on one meta tensor; every operator must have a rule."""
    layer = function.eval() if isinstance(function, nn.Module) else Apply(function)
    cost = measure(layer, torch.empty(*shape, device="meta"))
    assert cost.unknown == ()
    assert tuple(cost.operations) == KINDS
    return {kind: number for kind, number in cost.operations.items() if number}


X = (1, 4, 6, 6)  # 144 values
CASES: list[tuple[str, Callable[[Tensor], object], dict[str, int]]] = [
    # 36 places * 8 outputs * 2 inputs a group * 9 taps, twice
    ("conv", nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False), {"products": 2 * 36 * 8 * 2 * 9}),
    ("bias", nn.Conv2d(4, 8, 1), {"products": 2 * 36 * 8 * 4, "biases": 36 * 8}),
    # every one of 36 inputs of 4 channels meets 2 x 2 weights to 3 outputs
    ("transposed", nn.ConvTranspose2d(4, 3, 2, 2, bias=False), {"products": 2 * 36 * 4 * 3 * 4}),
    ("linear", nn.Linear(6, 5), {"products": 2 * 24 * 6 * 5, "biases": 24 * 5}),
    ("matmul", lambda x: x @ x, {"products": 2 * 4 * 6 * 6 * 6}),
    ("einsum", lambda x: torch.einsum("bchw,bkhw->bck", x, x), {"products": 2 * 4 * 4 * 36}),
    ("vector", lambda x: x.flatten(1)[0] @ zeros(144), {"products": 2 * 144}),
    ("matrix", lambda x: x[0, 0] @ zeros(6), {"products": 2 * 36}),
    # 4 heads of 6 x 6 scores of 6 features, and as many products with the values; softmax; two scalings
    (
        "attention",
        lambda x: F.scaled_dot_product_attention(x, x, x),
        {"products": 2 * 2 * 4 * 36 * 6, "elementwise": 3 * 144 + 2 * 144},
    ),
    ("batch norm", nn.BatchNorm2d(4), {"normalisation": 8 * 144}),
    ("plain batch norm", nn.BatchNorm2d(4, affine=False), {"normalisation": 4 * 144}),
    ("layer norm", nn.LayerNorm(6), {"normalisation": 8 * 144}),
    ("group norm", nn.GroupNorm(2, 4), {"normalisation": 8 * 144}),
    *(
        (kind.__name__, kind(), {"elementwise": 144})
        for kind in (nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Sigmoid, nn.Tanh, nn.GELU)
    ),
    *((kind.__name__, kind(), {"elementwise": 144}) for kind in (nn.Mish, nn.Hardsigmoid, nn.PReLU, nn.ELU)),
    (
        "in place",
        lambda x: x.silu_() if hasattr(x, "silu_") else F.silu(x, inplace=True),
        {"elementwise": 144},
    ),
    ("sum", lambda x: x + x, {"elementwise": 144}),
    ("broadcast product", lambda x: x * x[:, :, :1, :1], {"elementwise": 144}),
    ("reversed difference", lambda x: 1 - x, {"elementwise": 144}),
    ("softmax", lambda x: x.softmax(1), {"elementwise": 3 * 144}),
    ("mean", lambda x: x.mean((2, 3)), {"reductions": 144}),
    ("maximum", lambda x: x.max(dim=1), {"reductions": 144}),
    ("variance", lambda x: x.var(), {"reductions": 144}),
    ("topk", lambda x: x.flatten(1).topk(3), {"reductions": 144}),
    # 3 x 3 results of 9 values each
    ("max pool", nn.MaxPool2d(3, stride=2, padding=1), {"pooling": 4 * 9 * 9}),
    ("average pool", nn.AvgPool2d((2, 3), stride=1), {"pooling": 4 * 5 * 4 * 6}),
    ("global average", nn.AdaptiveAvgPool2d(1), {"reductions": 144}),
    # windows over 6 rows: 4 of them reach over 0-1, 1-2, 3-4, 4-5, 2 each; over 6 columns: 3 of 2
    ("adaptive average", nn.AdaptiveAvgPool2d((4, 3)), {"pooling": 4 * (4 * 2) * (3 * 2)}),
    ("adaptive maximum", nn.AdaptiveMaxPool2d(2), {"pooling": 144}),
    ("nearest", nn.Upsample(scale_factor=2), {}),
    # 4 products and 3 sums; 16 and 15
    ("bilinear", lambda x: F.interpolate(x, size=(9, 9), mode="bilinear"), {"resampling": 7 * 4 * 81}),
    ("bicubic", lambda x: F.interpolate(x, size=(9, 9), mode="bicubic"), {"resampling": 31 * 4 * 81}),
    ("grid", lambda x: F.grid_sample(x, zeros(1, 5, 5, 2), align_corners=False), {"resampling": 7 * 4 * 25}),
    (
        "nearest grid",
        lambda x: F.grid_sample(x, zeros(1, 5, 5, 2), mode="nearest", align_corners=False),
        {},
    ),
    (
        "scatter",
        lambda x: x.index_add(1, torch.zeros(4, dtype=torch.long, device="meta"), x),
        {"reductions": 144},
    ),
    ("concatenation", lambda x: torch.cat((x, x), dim=1), {}),
    ("pixel shuffle", nn.PixelShuffle(2), {}),
    ("pixel unshuffle", nn.PixelUnshuffle(2), {}),
    ("channel shuffle", nn.ChannelShuffle(2), {}),
    ("roll", lambda x: x.roll((1, 1), (2, 3)), {}),
    ("flip", lambda x: x.flip(3), {}),
    ("padding", lambda x: F.pad(x, (1, 1, 1, 1)), {}),
    ("reflection", lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), {}),
    ("patches", lambda x: F.unfold(x, 3), {}),
    ("copies", lambda x: x.repeat(1, 2, 1, 1).transpose(1, 2).contiguous().double(), {}),
    ("makers", lambda x: (torch.arange(5, device="meta"), torch.zeros_like(x), x.new_ones(3)), {}),
    ("indexing", lambda x: x[:, torch.zeros(2, dtype=torch.long, device="meta")], {}),
    ("views", lambda x: x.chunk(2, 1)[0].permute(0, 2, 3, 1).unflatten(1, (2, 3)).squeeze(0)[..., None], {}),
]


@pytest.mark.parametrize(("function", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_operations(function: Callable[[Tensor], object], expected: dict[str, int]) -> None:
    assert operations(function, *X) == expected


def test_deformable_convolution() -> None:
    ops = pytest.importorskip("torchvision.ops")
    offsets, mask = zeros(1, 18, 6, 6), zeros(1, 9, 6, 6)
    samples = 36 * 4 * 9  # every output place takes 9 interpolated values of 4 channels
    plain = {"products": 2 * samples * 8, "resampling": 7 * samples, "biases": 36 * 8}
    weight, bias = zeros(8, 4, 3, 3), zeros(8)
    assert operations(lambda x: ops.deform_conv2d(x, offsets, weight, bias, padding=1), *X) == plain
    masked = operations(lambda x: ops.deform_conv2d(x, offsets, weight, bias, padding=1, mask=mask), *X)
    assert masked == plain | {"elementwise": samples}


def test_the_mask_of_attention_is_added() -> None:
    def attend(x: Tensor) -> Tensor:
        return torch.baddbmm(x[0], x[0], x[0])

    assert operations(attend, *X) == {"products": 2 * 4 * 6 * 6 * 6, "biases": 144}


def test_what_has_no_rule_is_named() -> None:
    cost = measure(Apply(lambda x: torch.fft.rfft(F.relu(x))), torch.empty(*X, device="meta"))
    assert cost.unknown == ("aten._fft_r2c",)
    assert cost.flops("all") == 144


def test_an_operator_of_somebody_else_is_named() -> None:
    @torch.library.custom_op("lean5_tests::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        return 2 * x

    double.register_fake(torch.empty_like)
    cost = measure(Apply(double), torch.empty(*X, device="meta"))
    assert cost.unknown == ("lean5_tests.double",)
    assert (cost.bytes_read, cost.bytes_written) == (4 * math.prod(X), 4 * math.prod(X))
