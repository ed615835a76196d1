"""Memory access, peak memory and depth, by hand. Operations: test_operators.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.reshape import shuffle_channels
from models.yolo import DetectionModel
from tests.utils.counting.functions import cost_of, meta
from utils.counting.measure import measure
from utils.counting.meter import Cost, Meter


def access(cost: Cost) -> tuple[int, int]:
    """Values read and written; a float has four bytes."""
    assert cost.bytes_read % 4 == cost.bytes_written % 4 == 0
    return cost.bytes_read // 4, cost.bytes_written // 4


# ---- memory access ----


def test_a_pointwise_convolution_is_the_papers() -> None:
    # arXiv 1807.11164, section 2: h w (c1 + c2) + c1 c2
    read, written = access(measure(nn.Conv2d(8, 16, 1, bias=False), meta(1, 8, 10, 12)))
    assert read + written == 120 * (8 + 16) + 8 * 16
    assert written == 120 * 16


@pytest.mark.parametrize(
    ("layer", "values"),
    [
        # in, out, weights: h w (c1 + c2) + c1 c2 / g for g groups (the paper's G2)
        (nn.Conv2d(8, 16, 1, groups=4, bias=False), 100 * (8 + 16) + 8 * 16 // 4),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 100 * (8 + 8) + 8 * 9),
        (nn.Conv2d(8, 16, 1), 100 * (8 + 16) + 8 * 16 + 16),
        # stride 2 reads everything and writes a quarter
        (nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False), 100 * 8 + 25 * 16 + 8 * 16 * 9),
        # mean, variance, scale and shift are four vectors; no statistics are made
        (nn.BatchNorm2d(8), 100 * (8 + 8) + 4 * 8),
        (nn.ReLU(), 100 * (8 + 8)),
        (nn.SiLU(inplace=True), 100 * (8 + 8)),
        # 8 maps of 5 x 5, and no indices
        (nn.MaxPool2d(2), 100 * 8 + 25 * 8),
        (nn.Upsample(scale_factor=2), 100 * 8 + 400 * 8),
        (nn.Flatten(), 0),
        (nn.Identity(), 0),
    ],
)
def test_access_of_layers(layer: nn.Module, values: int) -> None:
    assert sum(access(measure(layer.eval(), meta(1, 8, 10, 10)))) == values


PLACE = torch.zeros(1, dtype=torch.long, device="meta")  # int64: as many bytes as two floats


def _assign(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[:, :2] = x[:, 2:]
    return out


@pytest.mark.parametrize(
    ("function", "read", "written"),
    [  # x has 4 * 9 = 36 values
        (lambda x: torch.cat((x, x[:, :1]), dim=1), 36 + 9, 45),
        (lambda x: torch.stack((x, x + 1)), 36 + 72, 36 + 72),
        (lambda x: x + x[:, :1], 36 + 9, 36),
        (lambda x: x + x, 36, 36),
        (lambda x: x.add_(1), 36, 36),
        (lambda x: x.chunk(2, dim=1), 0, 0),
        (lambda x: x.permute(0, 2, 3, 1).reshape(1, 9, 4)[:, 1:].unbind(1), 0, 0),
        (lambda x: x.detach().expand(2, 4, 3, 3).contiguous(), 36, 72),  # an expanded value is read once
        (lambda x: x.contiguous(), 0, 0),
        (lambda x: x.transpose(1, 2).contiguous(), 36, 36),
        # reshape and transpose show, the second reshape copies
        (lambda x: shuffle_channels(x, 2), 36, 36),
        (_assign, 18, 18),  # what is overwritten is not read, and making room is nothing
        # a copy, then one channel and its place are read and the channel is written
        (lambda x: x.clone().index_copy_(1, PLACE, x[:, 1:2]), 36 + 2 + 9, 36 + 9),
        (lambda x: torch.zeros_like(x), 0, 36),
        (lambda x: x.new_zeros(5), 0, 5),
        (lambda x: x.mean((2, 3)), 36, 4),
        # one of four channels, and its place
        (lambda x: x.index_select(1, PLACE), 9 + 2, 9),
        (lambda x: x.flatten(1) @ x.new_zeros(36, 5), 36 + 180, 180 + 5),
    ],
)
def test_access_of_operators(function: Callable[[Tensor], object], read: int, written: int) -> None:
    assert access(cost_of(function, 1, 4, 3, 3)) == (read, written)


# ---- peak memory ----


def test_peak_of_a_chain() -> None:
    first, second = nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1)
    # maps of 100 values; alive with the image (1): two before and two after the activation, in all 5;
    # then two before and one after the second convolution, in all 4
    assert measure(nn.Sequential(first, nn.ReLU(), second), meta(1, 1, 10, 10)).peak_bytes == 4 * 500
    # in place: 1 + 2 only, and again 1 + 2 + 1 at the second convolution
    assert measure(nn.Sequential(first, nn.ReLU(True), second), meta(1, 1, 10, 10)).peak_bytes == 4 * 400


def test_what_is_released_no_longer_counts() -> None:
    def kept(x: Tensor) -> Tensor:
        a = x + 1
        b = a + 1
        return b + 1

    def released(x: Tensor) -> Tensor:
        a = x + 1
        b = a + 1
        del a
        return b + 1

    assert cost_of(kept, 25).peak_bytes == 4 * 25 * 4  # x, a, b and the result
    assert cost_of(released, 25).peak_bytes == 4 * 25 * 3


def test_a_view_is_part_of_what_it_shows() -> None:
    def views(x: Tensor) -> tuple[Tensor, ...]:
        y = x + 1
        left, right = y.chunk(2, dim=1)
        return left, right.transpose(1, 2), y.flatten()

    assert cost_of(views, 1, 4, 3, 3).peak_bytes == 4 * (36 + 36)


def test_a_view_keeps_the_whole_alive() -> None:
    def function(x: Tensor) -> Tensor:
        corner = (x + 1)[:1]  # of 50 values, all of which stay
        return corner + x.new_zeros(50)

    assert cost_of(function, 50).peak_bytes == 4 * (50 + 50 + 50 + 50)


def test_weights_are_no_activations() -> None:
    cost = measure(nn.Linear(10, 1000, bias=False), meta(1, 10))
    assert cost.peak_bytes == 4 * (10 + 1000)


def test_peak_on_tensors_with_data_is_the_same() -> None:
    model = DetectionModel("yolov5n-slimneck.yaml", nc=3).eval()
    image = torch.zeros(1, 3, 64, 64)
    meter = Meter()
    meter.follow(image)
    with torch.no_grad(), meter:
        output = model(image)
    assert meter.take(output) == measure(model, image.to("meta"))


# ---- depth ----


def conv(c1: int = 4, c2: int = 4) -> nn.Conv2d:
    return nn.Conv2d(c1, c2, 3, padding=1, device="meta")


A, B, C = conv(), conv(), conv()


@pytest.mark.parametrize(
    ("function", "depth"),
    [
        (lambda x: x + 1, 0),
        (lambda x: C(F.silu(B(A(x)))), 3),
        (lambda x: A(x) + B(x), 1),
        (lambda x: x + C(B(A(x))), 3),
        (lambda x: torch.cat((A(x), C(B(x))), dim=1).relu_(), 2),
        (lambda x: (A(x), B(x))[0], 1),
        (lambda x: (C(B(A(x))), x)[1], 0),  # leads nowhere
        (lambda x: F.max_pool2d(A(x), 3, 1, 1)[:, 1:].flatten(), 1),
        (lambda x: A(x).mul_(B(A(x)).mean((2, 3), keepdim=True)), 2),
        (lambda x: F.scaled_dot_product_attention(A(x), x, x), 3),  # a convolution and two products
        (lambda x: F.conv2d(x, (A.weight.flatten(1) @ A.weight.flatten(1).T)[..., None, None]), 1),
    ],
)
def test_depth(function: Callable[[Tensor], object], depth: int) -> None:
    assert cost_of(function, 1, 4, 6, 6).depth == depth


def test_depth_of_a_chunk_written_in_place() -> None:
    def partial(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, :2] = A(x)[:, :2]
        return B(y)

    assert cost_of(partial, 1, 4, 6, 6).depth == 2
