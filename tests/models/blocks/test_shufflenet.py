"""ShuffleNetV2 against torchvision's, its detection form, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.blocks.reshape import shuffle_channels
from models.blocks.shufflenet import ShuffleNetV2, ShuffleNetV2X, ShuffleStem
from models.yolo import DetectionModel


def test_two_groups_interleave() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 3, 1)
    assert shuffle_channels(x, groups=2)[1, :, 2, 0].tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle_channels(x, groups=3)[1, :, 2, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_stride_1_passes_half_of_the_channels() -> None:
    x = torch.randn(2, 8, 4, 4)
    y = ShuffleNetV2(8, 8)(x)
    assert torch.equal(y[:, 0::2], x[:, :4])  # the left half, interleaved with the right one


@torch.no_grad()
def test_backbone_equals_torchvision() -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    reference = torchvision.models.shufflenet_v2_x1_0(weights=None).eval()
    for part in reference.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eps = 1e-3
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    ours = DetectionModel("yolov5n-shufflenetv2-backbone.yaml").model[:7].eval()
    stages = [reference.conv1, reference.maxpool, reference.stage2, reference.stage3, reference.stage4]
    # the same layers in the same order under other names
    weights = [tensor for stage in stages for tensor in stage.state_dict().values()]
    assert [t.shape for t in weights] == [t.shape for t in ours.state_dict().values()]
    ours.load_state_dict(dict(zip(ours.state_dict(), weights)))
    x = torch.randn(1, 3, 64, 64)
    expected = x
    for stage in stages:
        expected = stage(expected)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def test_the_detection_form_has_one_more_depthwise_in_each_branch() -> None:
    def depthwise(block: nn.Module) -> list[int]:
        convs = [part for part in block.modules() if isinstance(part, nn.Conv2d)]
        return [conv.stride[0] for conv in convs if conv.groups > 1]

    assert depthwise(ShuffleNetV2(8, 8)) == [1]
    assert depthwise(ShuffleNetV2X(8, 8)) == [1, 1]
    assert depthwise(ShuffleNetV2(8, 16, 2)) == [2, 2]
    assert depthwise(ShuffleNetV2X(8, 16, 2)) == [2, 1, 1, 2]  # branch1 after, branch2 before its stride
    assert ShuffleNetV2X(8, 16, 2)(torch.zeros(1, 8, 6, 6)).shape == (1, 16, 3, 3)


def test_depthwise_biases_are_optional() -> None:
    assert ShuffleNetV2(8, 8).branch2[3].bias is not None
    assert ShuffleNetV2(8, 8, 1, False).branch2[3].bias is None


def test_stem_quarters_the_map() -> None:
    assert ShuffleStem(3, 24)(torch.zeros(1, 3, 64, 96)).shape == (1, 24, 16, 24)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((8, 16, 1), "ShuffleNetV2 keeps its channels at stride 1: c1 must equal c2, got c1 = 8, c2 = 16"),
        ((7, 7, 1), "c2 must be even, got 7"),
        ((8, 9, 2), "c2 must be even, got 9"),
        ((8, 8, 3), "ShuffleNetV2 takes stride 1 or 2, got 3"),
    ],
)
def test_misuse(arguments: tuple[int, int, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        ShuffleNetV2(*arguments)
