"""The GSConv family: its shuffle, its strides, and what it refuses; test_recorded.py has its arithmetic."""

from __future__ import annotations

import pytest
import torch

from models.blocks.gsconv import (
    GSBottleneck,
    GSBottleneckC,
    GSConv,
    GSConvns,
    VoVGSCSP,
    VoVGSCSPPaper,
)


def test_even_channels_come_first() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1).expand(2, 6, 3, 1)
    assert GSConv(4, 6).mix(x)[1, :, 2, 0].tolist() == [0, 2, 4, 1, 3, 5]


def test_output_channels_must_be_even() -> None:
    with pytest.raises(ValueError, match="c2 must be even, got 5"):
        GSConv(4, 5)


def test_native_shuffle_is_rectified_and_honours_stride() -> None:
    y = GSConvns(8, 16, 3, 2)(torch.randn(2, 8, 8, 8))
    assert y.shape == (2, 16, 4, 4)
    assert y.min() >= 0


def test_bottleneck_stride_reaches_both_branches() -> None:
    x = torch.randn(2, 8, 8, 8)
    assert GSBottleneck(8, 16, s=2)(x).shape == (2, 16, 4, 4)
    assert GSBottleneckC(8, 16, s=2)(x).shape == (2, 16, 4, 4)


def test_slim_stack_has_no_unused_convolution() -> None:
    assert not [key for key in VoVGSCSP(16, 16).state_dict() if key.startswith("res")]


def test_the_published_form_counts_a_convolution_that_never_runs() -> None:
    slim, paper = VoVGSCSP(16, 16), VoVGSCSPPaper(16, 16)
    # res: 3x3 from 8 to 8 channels and a BatchNorm, 8 * 8 * 9 + 2 * 8
    assert sum(p.numel() for p in paper.res.parameters()) == 592
    assert [name for name, p in paper.named_parameters() if not p.requires_grad] == [
        f"res.{name}" for name, _ in paper.res.named_parameters()
    ]
    assert paper.gsb[0].conv_lighting[0].cv2.conv.out_channels == 2  # 8 * 0.5 channels in two halves
    assert slim.gsb[0].conv_lighting[0].cv2.conv.out_channels == 4
