"""thop's rules, by hand and against the package."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.blocks.gsconv import GSConv
from tests.utils.counting.functions import Apply, meta, on_meta
from utils.counting.measure import measure, thop_flops


class Attend(nn.MultiheadAttention):
    """Of a sequence to itself."""

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, x, x)[0]


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
