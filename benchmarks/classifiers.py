"""The published classifiers whose blocks and backbones this project uses, as a check on both.

Papers give parameters and multiply-adds of whole ImageNet classifiers. Here the backbone of a model yaml, or
the same blocks at another size, gets the paper's classification head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from models.blocks.conv import Conv
from models.blocks.dual import DualConv
from models.cfg import load_cfg
from models.parse import parse_model

CLASSES = 1000
POOL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())  # they hold nothing, so that all may share them
FEATURES = 1280  # before the last layer of FasterNet and PP-LCNet


def shufflenetv2(stages: Sequence[int] = (116, 232, 464), features: int = 1024) -> nn.Module:
    """ShuffleNetV2 (arXiv 1807.11164, table 5) with the given channels in stages 2, 3 and 4."""
    rows: list[list[Any]] = [[-1, 1, "ShuffleStem", [24]]]
    for channels, units in zip(stages, (4, 8, 4)):
        rows.append([-1, 1, "ShuffleNetV2", [channels, 2, False]])
        rows.append([-1, units - 1, "ShuffleNetV2", [channels, 1, False]])
    backbone, channels = _backbone(rows)
    last = Conv(channels, features, act=nn.ReLU())
    return nn.Sequential(backbone, last, *POOL, nn.Linear(features, CLASSES))


def fasternet(width: int, depths: Sequence[int] = (1, 2, 8, 2)) -> nn.Module:
    """FasterNet (arXiv 2303.03667, table 1) with `width` channels in its first stage."""
    rows: list[list[Any]] = []
    for stage, blocks in enumerate(depths):
        channels = width * 2**stage
        rows.append([-1, 1, "PatchMerging" if stage else "PatchEmbed", [channels]])
        rows.append([-1, blocks, "FasterNetBlock", [channels]])
    return _pooled(rows, nn.ReLU())


def lcnet(scale: float) -> nn.Module:
    """PP-LCNet (arXiv 2109.15099, table 1): our yaml's backbone, whose width 0.5 is the paper's scale 1."""
    rows = load_cfg("yolov5s-lcnet-backbone.yaml")["backbone"]
    return _pooled(rows, nn.Hardswish(), width=scale / 2)


def mobilenetv3(size: str) -> nn.Module:
    """MobileNetV3 (arXiv 1905.02244, tables 1 and 2), "small" or "large"."""
    letter, features, hidden = {"small": ("n", 576, 1024), "large": ("s", 960, 1280)}[size]
    backbone, channels = _backbone(load_cfg(f"yolov5{letter}-mobilenetv3-backbone.yaml")["backbone"])
    last = Conv(channels, features, act=nn.Hardswish())
    head = (nn.Linear(features, hidden), nn.Hardswish(), nn.Linear(hidden, CLASSES))
    return nn.Sequential(backbone, last, *POOL, *head)


def dual_mobilenetv2(g: int, whole_block: bool) -> nn.Module:
    """torchvision's MobileNetV2 with 100 classes and DualConv in its inverted residuals (arXiv 2202.07481).

    Args:
        g: groups of DualConv; 0 leaves the model as it is.
        whole_block: replace all three convolutions of a residual by one DualConv + BN; otherwise only the
            depthwise 3x3 and the 1x1 behind it.
    """
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2(num_classes=100)
    for block in model.features if g else ():
        if not hasattr(block, "use_res_connect"):
            continue
        convs = [part for part in block.modules() if isinstance(part, nn.Conv2d)]
        norm, stride = block.conv[-1], block.stride
        first, kept = (convs[0], ()) if whole_block else (convs[-1], block.conv[:-3])
        c1 = first.in_channels
        block.conv = nn.Sequential(*kept, DualConv(c1, convs[-1].out_channels, stride, g), norm)
    return model


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    build.__name__: build for build in (shufflenetv2, fasternet, lcnet, mobilenetv3, dual_mobilenetv2)
}


def _backbone(rows: list[list[Any]], width: float = 1.0) -> tuple[nn.Sequential, int]:
    """The layers of backbone rows, and the channels of the last one."""
    cfg = {"nc": 1, "anchors": 1, "depth_multiple": 1.0, "width_multiple": width}
    modules, layers = parse_model({**cfg, "backbone": rows, "head": []})
    return modules, layers[-1].channels


def _pooled(rows: list[list[Any]], activation: nn.Module, width: float = 1.0) -> nn.Module:
    """A classifier that pools its backbone's map before the last convolution."""
    backbone, channels = _backbone(rows, width)
    pool, flatten = POOL
    neck = nn.Conv2d(channels, FEATURES, kernel_size=1, bias=False)
    return nn.Sequential(backbone, pool, neck, activation, flatten, nn.Linear(FEATURES, CLASSES))
