"""Published classifiers from our blocks against torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.classifiers import CLASSIFIERS, dual_mobilenetv2, lcnet, mobilenetv3, shufflenetv2
from utils.counting.measure import count_parameters, measure

models = pytest.importorskip("torchvision.models")


def costs(module: nn.Module) -> tuple[int, int]:
    return count_parameters(module), measure(
        module.eval(), torch.empty(1, 3, 224, 224, device="meta")
    ).flops()


@pytest.mark.parametrize(
    ("ours", "name"),
    [
        (lambda: shufflenetv2((48, 96, 192)), "shufflenet_v2_x0_5"),
        (lambda: shufflenetv2(), "shufflenet_v2_x1_0"),
        (lambda: shufflenetv2((244, 488, 976), 2048), "shufflenet_v2_x2_0"),
        (lambda: mobilenetv3("small"), "mobilenet_v3_small"),
        (lambda: mobilenetv3("large"), "mobilenet_v3_large"),
    ],
)
def test_costs_equal_torchvision(ours, name: str) -> None:
    with torch.device("meta"):
        assert costs(ours()) == costs(getattr(models, name)())


def test_dual_convolution_by_hand() -> None:
    with torch.device("meta"):
        plain, dual = dual_mobilenetv2(0, True), dual_mobilenetv2(4, True)
        pairs = dual_mobilenetv2(4, False)
    assert count_parameters(plain) == count_parameters(models.mobilenet_v2(num_classes=100))
    # the first residual: depthwise 32 * 9, BN, 1x1 32 * 16, BN; instead 32 * 16 * (9 / 4 + 1), BN
    assert count_parameters(plain.features[1]) == 288 + 64 + 512 + 32
    assert count_parameters(dual.features[1]) == 1664 + 32
    # the second one keeps its 1x1 from 16 to 96 channels and that one's BN
    assert count_parameters(pairs.features[2]) == 16 * 96 + 2 * 96 + 96 * 24 * 13 // 4 + 2 * 24
    assert dual(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 100)


def test_every_classifier_has_its_classes() -> None:
    arguments = {"fasternet": {"width": 40}, "lcnet": {"scale": 1.0}, "mobilenetv3": {"size": "small"}}
    image = torch.empty(2, 3, 64, 64, device="meta")
    with torch.device("meta"):
        for name in ("shufflenetv2", *arguments):
            assert CLASSIFIERS[name](**arguments.get(name, {})).eval()(image).shape == (2, 1000)
        assert lcnet(0.25)[0][-1].pointwise.conv.out_channels == 128  # 512 * 0.25
