"""Mobile blocks: MobileNetV3 against torchvision's, PP-LCNet's widths, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.blocks.mobile import InvertedResidual, LCNetBlock, SqueezeExcite, round_to_eights
from models.parse import parse_model
from models.yolo import DetectionModel


@pytest.mark.parametrize(("value", "rounded"), [(17, 16), (18, 24), (22, 24), (24, 24), (3, 8)])
def test_rounding_to_eights(value: int, rounded: int) -> None:
    # 22 is nearer to 24; 18 is nearer to 16, but that would be more than 10 % below
    assert round_to_eights(value) == rounded


@pytest.mark.parametrize(
    ("cfg", "name", "layers"),
    [
        ("yolov5n-mobilenetv3-backbone", "mobilenet_v3_small", 12),
        ("yolov5s-mobilenetv3-backbone", "mobilenet_v3_large", 16),
    ],
)
@torch.no_grad()
def test_backbone_equals_torchvision(cfg: str, name: str, layers: int) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)(weights=None).features[:layers].eval()
    for part in reference.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    ours = DetectionModel(cfg).model[:layers].eval()
    # the same layers in the same order under other names
    weights = list(reference.state_dict().values())
    assert [t.shape for t in weights] == [t.shape for t in ours.state_dict().values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights)))
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(x), reference(x), rtol=1e-4, atol=1e-4)


def test_hidden_channels_scale_with_the_width() -> None:
    rows = [[-1, 1, "Conv", [32]], [-1, 1, "InvertedResidual", [64, 128, 5, 2]]]
    cfg = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 0.5, "anchors": 2, "backbone": rows, "head": []}
    block = parse_model(cfg)[0][1]
    assert block.conv[0].conv.weight.shape[:2] == (64, 16)
    assert block(torch.zeros(1, 16, 8, 8)).shape == (1, 32, 4, 4)


@pytest.mark.parametrize(("size", "channels"), [("n", 8), ("s", 16), ("m", 24), ("l", 32), ("x", 40)])
def test_lcnet_widths_are_the_published_scales(size: str, channels: int) -> None:
    # PP-LCNet x0.5, x1, x1.5, x2 and x2.5 of 16 channels in the stem and 512 at the end
    model = DetectionModel(f"yolov5{size}-lcnet-backbone")
    assert (model.layers[0].channels, model.layers[13].channels) == (channels, 32 * channels)


def test_squeeze_excite_scales_channels() -> None:
    x = torch.randn(2, 8, 5, 5)
    y = SqueezeExcite(8, 2)(x)
    scale = y / x
    torch.testing.assert_close(scale, scale[:, :, :1, :1].expand_as(scale))


def test_lcnet_block() -> None:
    block = LCNetBlock(8, 16, k=5, s=2, se=True)
    assert block(torch.randn(2, 8, 9, 9)).shape == (2, 16, 5, 5)
    # depthwise 8 * 25 + 16, squeeze 8 * 2 + 2, excite 2 * 8 + 8, pointwise 8 * 16 + 32
    assert sum(p.numel() for p in block.parameters()) == 216 + 18 + 24 + 160


def test_misuse() -> None:
    for block in (lambda: LCNetBlock(8, 8, k=4), lambda: InvertedResidual(8, 8, 16, k=2)):
        with pytest.raises(ValueError, match="k must be odd"):
            block()
    with pytest.raises(ValueError, match="needs its hidden channels as second argument, got 0"):
        InvertedResidual(8, 8, 0)
