"""Parameters, thop's rules, memory access, peak memory and depth, by hand. Operations: test_operators.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.blocks.gsconv import GSConv
from models.blocks.hetero import HetConv
from models.blocks.reshape import shuffle_channels
from models.summary import layer_costs
from models.yolo import DetectionModel
from utils.counting.conventions import CONVENTIONS, EXPLAINED, KINDS_OF
from utils.counting.measure import (
    call_on_meta,
    count_parameters,
    measure,
    meta_copy,
    thop_flops,
)
from utils.counting.meter import Cost, Meter, in_sequence


class Apply(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(x)


class Attend(nn.MultiheadAttention):
    """Of a sequence to itself."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x)[0]


def meta(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta")


def cost_of(function: Callable[[Tensor], object], *shape: int) -> Cost:
    return measure(Apply(function), meta(*shape))


def access(cost: Cost) -> tuple[int, int]:
    """Values read and written; a float has four bytes."""
    assert cost.bytes_read % 4 == cost.bytes_written % 4 == 0
    return cost.bytes_read // 4, cost.bytes_written // 4


def on_meta(name: str, nc: int | None = None) -> DetectionModel:
    with torch.device("meta"):
        return DetectionModel(name, nc=nc).eval()


# ---- parameters and the call without data ----


def test_parameters() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(4, 2))
    assert count_parameters(module) == 8 * 3 * 9 + 8 + 4 * 2 + 2
    module[0].requires_grad_(False)
    assert count_parameters(module, trainable=True) == 10


def test_operations_of_convolutions() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8), nn.SiLU())
    # 10 * 10 outputs * 8 channels * (4 / 2) inputs * 9 taps, twice
    assert measure(module, meta(1, 4, 10, 10)).flops() == 2 * 100 * 8 * 2 * 9


def test_a_meta_call_computes_nothing_and_changes_nothing() -> None:
    norm = nn.BatchNorm2d(2).train()
    y = call_on_meta(norm, meta(4, 2, 3, 3))
    assert y.is_meta
    assert y.shape == (4, 2, 3, 3)
    assert norm.num_batches_tracked == 0
    assert norm.weight.device.type == "cpu"


def test_a_meta_copy_leaves_the_original_alone() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2))
    module[1].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    copied = meta_copy(module)
    assert all(tensor.is_meta for tensor in copied.state_dict().values())
    assert not any(tensor.is_meta for tensor in module.state_dict().values())
    assert copied[0].weight is copied[1].weight
    assert not copied[0].bias.requires_grad and copied[0].weight.requires_grad


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s-transformer", "yolov5n-csppc", "yolov5-bifpn"])
def test_products_are_those_of_torchs_own_counter(name: str) -> None:
    model, image = on_meta(name), meta(1, 3, 128, 128)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    assert measure(model, image).flops() == counter.get_total_flops()


def test_weights_that_are_always_zero_are_not_counted() -> None:
    # per output: 8 / 4 inputs with 3 x 3 kernels and 6 with 1 x 1; 16 outputs on 100 places, twice
    assert measure(HetConv(8, 16, p=4), meta(1, 8, 10, 10)).flops() == 2 * 100 * 16 * (2 * 9 + 6)


def test_a_convention_adds_up_its_kinds() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8), nn.SiLU()).eval()
    cost = measure(module, meta(1, 4, 10, 10))
    # 800 values: 4 products and sums, a bias, 8 of the norm, 1 of the activation
    assert [cost.flops(c) for c in CONVENTIONS] == [
        800 * 8, 800 * 16, 800 * 18, 800 * 2 * (4 + 4), 800 * 10
    ]  # fmt: skip
    assert set(EXPLAINED) == set(CONVENTIONS)
    assert set(KINDS_OF) == set(CONVENTIONS) - {"thop"}


# ---- thop ----


def test_thop_counts_batch_norm_too() -> None:
    module = nn.Sequential(nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8))
    # 100 * 8 * 4 multiply-adds, and thop takes 4 operations for each of 800 normalised values; times 2
    expected = 2 * (3200 + 4 * 800)
    assert measure(module.eval(), meta(1, 4, 10, 10)).thop == expected
    assert thop_flops(module, torch.zeros(1, 4, 10, 10)) in (None, expected)
    assert not hasattr(module, "total_ops")


LAYERS = [
    (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 9, 9)),
    (nn.Conv1d(4, 6, 3), (1, 4, 9)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2), (1, 4, 9, 9)),
    (nn.BatchNorm2d(4), (1, 4, 9, 9)),
    (nn.BatchNorm2d(4, affine=False), (1, 4, 9, 9)),
    (nn.InstanceNorm2d(4), (1, 4, 9, 9)),
    (nn.LayerNorm(9), (1, 4, 9, 9)),
    (nn.GroupNorm(2, 4), (1, 4, 9, 9)),
    (nn.PReLU(), (1, 4, 9, 9)),
    (nn.LeakyReLU(), (1, 4, 9, 9)),
    (nn.Softmax(dim=1), (2, 4, 9, 9)),
    (nn.AvgPool2d(3, stride=2), (1, 4, 9, 9)),
    (nn.AdaptiveAvgPool2d(1), (1, 4, 9, 9)),
    (nn.AdaptiveAvgPool2d((2, 4)), (1, 4, 9, 9)),
    (nn.MaxPool2d(3), (1, 4, 9, 9)),
    *((nn.Upsample(scale_factor=2, mode=mode), (1, 4, 9, 9)) for mode in ("nearest", "bilinear", "bicubic")),
    (nn.UpsamplingBilinear2d(scale_factor=2), (1, 4, 9, 9)),
    (nn.Linear(9, 5), (1, 4, 9, 9)),
    (Attend(8, 2), (5, 1, 8)),
    (GSConv(4, 8), (1, 4, 9, 9)),
]


@pytest.mark.filterwarnings("ignore")  # thop asks for its Python version in a deprecated way
@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_rules_are_those_of_the_thop_package(layer: nn.Module, shape: tuple[int, ...]) -> None:
    pytest.importorskip("thop")
    counted = measure(layer.eval(), meta(*shape)).thop
    assert counted == thop_flops(nn.Sequential(layer), meta(*shape))
    silent = (nn.LeakyReLU, nn.MaxPool2d, nn.GroupNorm, Attend)  # thop has no rule, or it says 0
    assert (counted == 0) == isinstance(layer, silent)


@pytest.mark.filterwarnings("ignore")  # as above
@pytest.mark.parametrize(
    "name",
    ["yolov5n", "yolov5s-ghost", "yolov5s-transformer", "yolov5n-slimneck", "yolov3-tiny", "yolov5n-csphet"],
)
@pytest.mark.parametrize("fused", [False, True])
def test_whole_models_agree_with_the_thop_package(name: str, fused: bool) -> None:
    pytest.importorskip("thop")
    model = on_meta(name)
    if fused:
        model.fuse()
    assert measure(model, meta(1, 3, 256, 256)).thop == thop_flops(model, meta(1, 3, 256, 256))


def test_the_thop_package_on_tensors_with_data_counts_the_same() -> None:
    thop = pytest.importorskip("thop")
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.Upsample(scale_factor=2))
    macs, _ = thop.profile(module, inputs=(torch.rand(1, 3, 12, 12),), verbose=False)
    # 8 * 10 * 10 outputs: 27 taps and 4 for the norm each; 8 * 20 * 20 for the upsampling
    assert 2 * macs == measure(module.eval(), meta(1, 3, 12, 12)).thop == 2 * (800 * (27 + 4) + 3200)


def test_recurrent_layers_are_named() -> None:
    cost = measure(nn.Sequential(nn.LSTM(4, 4), Apply(lambda pair: pair[0])), meta(3, 1, 4))
    assert cost.unknown_to_thop == ("nn.LSTM",)
    # torch sees through them: 4 gates of 4 values from 4 inputs and from 4 states, in 3 steps
    assert cost.flops("conv") == 2 * 3 * (16 * 4 + 16 * 4)


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


# ---- whole networks ----


@pytest.mark.parametrize("name", ["yolov5n", "yolov5s-transformer", "yolov5n-csphet"])
@pytest.mark.parametrize("training", [False, True])
def test_layers_add_up_to_the_network(name: str, training: bool) -> None:
    model = on_meta(name).train(training)
    costs = [layer.cost for layer in layer_costs(model.model, model.layers, 3, 128)]
    assert in_sequence(costs) == measure(model, meta(1, 3, 128, 128))


def test_counting_in_inference_mode() -> None:
    model = on_meta("yolov5s-transformer")
    expected = measure(model, meta(1, 3, 64, 64))
    with torch.inference_mode():
        meter = Meter()
        image = meta(1, 3, 64, 64)
        meter.follow(image)
        with meter:
            output = model(image)
        found = meter.take(output)
    assert found.operations == expected.operations
    assert (found.depth, found.unknown) == (expected.depth, ())


def test_folding_leaves_the_products() -> None:
    model, image = on_meta("yolov5n-gsconv"), meta(1, 3, 128, 128)
    before = measure(model, image)
    after = measure(model.fuse(), image)
    assert before.flops("conv") == after.flops("conv") == after.flops("bn") < before.flops("bn")
    assert before.operations["elementwise"] == after.operations["elementwise"]
    assert after.bytes_written < before.bytes_written
    assert before.depth == after.depth
