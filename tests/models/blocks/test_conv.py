"""Convolution units against hand-computed numbers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.blocks.conv import (
    Conv,
    CrossConv,
    DWConv,
    DWConvTranspose2d,
    Focus,
    MixConv2d,
    autopad,
    fold_batch_norm,
)


@pytest.mark.parametrize(
    ("k", "d", "expected"),
    [(1, 1, 0), (3, 1, 1), (6, 1, 3), (3, 2, 2), (5, 3, 6), ((1, 3), 1, (0, 1)), ((5, 3), 2, (4, 2))],
)  # reach d * (k - 1) + 1, halved: 3 at dilation 2 reaches 5, pad 2
def test_autopad(k: int | tuple[int, int], d: int, expected: int | tuple[int, int]) -> None:
    assert autopad(k, None, d) == expected


def test_given_padding_wins() -> None:
    assert autopad(3, 0) == 0
    assert autopad((3, 3), (1, 0)) == (1, 0)


def test_conv_by_hand() -> None:
    conv = Conv(1, 1, k=1).eval()
    nn.init.constant_(conv.conv.weight, 2.0)
    assert isinstance(conv.bn, nn.BatchNorm2d)
    nn.init.constant_(conv.bn.running_mean, 1.0)  # type: ignore[arg-type]
    nn.init.constant_(conv.bn.running_var, 4.0 - 1e-3)  # type: ignore[arg-type]  # + eps = 4, root 2
    # x = 3: conv 6, BN (6 - 1) / 2 = 2.5, SiLU 2.5 / (1 + e^-2.5) = 2.5 * 0.924142 = 2.310355
    y = conv(torch.full((1, 1, 1, 1), 3.0))
    assert y.item() == pytest.approx(2.310355, abs=1e-5)


def test_conv_constants_and_keys() -> None:
    conv = Conv(3, 8, 3, 2)
    assert isinstance(conv.bn, nn.BatchNorm2d)
    assert (conv.bn.eps, conv.bn.momentum, conv.conv.bias) == (1e-3, 0.03, None)
    assert {key.split(".")[0] for key in conv.state_dict()} == {"conv", "bn"}
    assert conv(torch.zeros(2, 3, 9, 8)).shape == (2, 8, 5, 4)


@pytest.mark.parametrize("act", [3, 1, "relu", None])
def test_act_that_is_neither_flag_nor_module_is_refused(act: object) -> None:
    with pytest.raises(ValueError, match="act must be true, false or a module"):
        Conv(8, 8, act=act)  # type: ignore[arg-type]


def test_folding_a_conv_with_bias_by_hand() -> None:
    conv, bn = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0).eval()
    for tensor, value in ((conv.weight, 2), (conv.bias, 3), (bn.weight, 4), (bn.bias, 5)):
        nn.init.constant_(tensor, value)  # type: ignore[arg-type]
    nn.init.constant_(bn.running_mean, 1)  # type: ignore[arg-type]
    nn.init.constant_(bn.running_var, 16)  # type: ignore[arg-type]
    fused = fold_batch_norm(conv, bn)
    # 4 / sqrt(16) = 1 times the conv, and 5 + (3 - 1) * 1 = 7 as bias
    assert (fused.weight.item(), fused.bias.item()) == (2, 7)  # type: ignore[union-attr]


def test_batch_norm_without_statistics_cannot_be_folded() -> None:
    with pytest.raises(ValueError, match="without running statistics"):
        fold_batch_norm(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False))


def test_depthwise_groups_are_the_greatest_common_divisor() -> None:
    assert DWConv(12, 18, 3).conv.groups == 6
    assert DWConvTranspose2d(12, 18, 4, 2, 1).groups == 6


def test_focus_takes_rows_before_columns() -> None:
    focus = Focus(1, 4, act=False).eval()
    nn.init.zeros_(focus.conv.conv.weight)
    for channel in range(4):
        focus.conv.conv.weight.data[channel, channel] = 1  # the identity, but for BN's eps
    x = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    expected = torch.tensor([0.0, 2.0, 1.0, 3.0])  # (0,0), (1,0), (0,1), (1,1)
    torch.testing.assert_close(focus(x).flatten() * (1 + 1e-3) ** 0.5, expected)


def test_cross_conv_kernels_are_a_row_and_a_column() -> None:
    cross = CrossConv(8, 16, k=3, s=2)
    assert cross.cv1.conv.kernel_size == (1, 3)
    assert cross.cv2.conv.kernel_size == (3, 1)
    assert cross(torch.zeros(2, 8, 8, 8)).shape == (2, 16, 4, 4)


@pytest.mark.parametrize(
    ("c2", "k", "equal", "shares"),
    [
        (16, (1, 3), True, [8, 8]),
        (17, (1, 3, 5), True, [6, 5, 6]),  # ceil(3i / 16) - 1: channels 0-5, 6-10, 11-16
        (20, (1, 3), False, [18, 2]),  # weights per channel 1 and 9: 18 * 1 = 2 * 9
        (100, (3, 5), False, [74, 26]),  # 1/9 : 1/25, 100 * 25 / 34 = 73.5
    ],
)
def test_mixed_kernels_share_the_channels(
    c2: int, k: tuple[int, ...], equal: bool, shares: list[int]
) -> None:
    mixed = MixConv2d(4, c2, k, equal_ch=equal)
    assert [branch.weight.shape[0] for branch in mixed.m] == shares  # type: ignore[union-attr, index]
    assert mixed(torch.zeros(2, 4, 6, 6)).shape == (2, c2, 6, 6)


def test_too_few_channels_for_the_kernels() -> None:
    with pytest.raises(ValueError, match="4 channels are too few"):
        MixConv2d(4, 4, (1, 9), equal_ch=False)
