"""RFB: how far its branches see, how its sum is scaled, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.blocks.conv import Conv
from models.blocks.rfb import RFB


def impulse_response(branch: nn.Module) -> Tensor:
    """(25, 25) bool: the pixels that one pixel in the middle reaches when every weight is 1."""
    for part in branch.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.ones_(part.weight)
    x = torch.zeros(1, 1, 25, 25)
    x[..., 12, 12] = 1
    return branch.eval()(x)[0, 0] > 1e-6


@pytest.mark.parametrize(
    ("branch", "offsets"),
    [
        (0, [-1, 0, 1]),  # 3x3
        (
            1,
            [-4, -3, -2, -1, 0, 1, 2, 3, 4],
        ),  # 3x3 reaches 1 pixel, its taps at -3, 0, 3 are next to each other
        (2, list(range(-7, 8))),  # two 3x3 reach 2 pixels, taps at -5, 0, 5: 5 + 2 = 7
    ],
)
def test_branches_reach_3_9_and_15_pixels(branch: int, offsets: list[int]) -> None:
    reached = impulse_response(RFB(1, 4, act=False).branches[branch])  # hidden 4 / 4 = 1
    expected = torch.zeros(25, 25, dtype=torch.bool)
    for offset in offsets:
        expected[12 + offset, [12 + other for other in offsets]] = True
    assert torch.equal(reached, expected)


def test_dilated_taps_are_apart() -> None:
    dilated = RFB(1, 4, act=False).branches[2][-1]  # type: ignore[index]
    assert impulse_response(dilated).nonzero().unique().tolist() == [7, 12, 17]  # 12 - 5, 12, 12 + 5


def test_sum_by_hand() -> None:
    block = RFB(4, 4, scale=0.1, act=nn.ReLU()).eval()
    assert isinstance(block.cv.bn, nn.BatchNorm2d)
    nn.init.zeros_(block.cv.conv.weight)
    nn.init.constant_(block.cv.bn.bias, -30.0)
    # shortcut x, branches 0 + bias -30: ReLU(x - 0.1 * 30) = ReLU(x - 3)
    x = torch.tensor([1.0, 3.0, 5.0, 8.0]).reshape(1, 4, 1, 1)
    torch.testing.assert_close(block(x).flatten(), torch.tensor([0.0, 0.0, 2.0, 5.0]))


def test_which_convolutions_are_linear() -> None:
    block = RFB(4, 4)
    assert isinstance(block.cv.act, nn.Identity)
    assert isinstance(block.act, nn.SiLU)
    linear = [[isinstance(conv.act, nn.Identity) for conv in branch] for branch in block.branches]  # type: ignore[attr-defined]
    assert linear == [[False, True], [False, False, True], [False, False, False, True]]


@pytest.mark.parametrize(
    ("c2", "s", "size"), [(8, 1, (9, 10)), (16, 1, (9, 10)), (8, 2, (5, 5)), (16, 2, (5, 5))]
)
def test_shapes_and_shortcut(c2: int, s: int, size: tuple[int, int]) -> None:
    block = RFB(8, c2, s)
    assert block(torch.zeros(2, 8, 9, 10)).shape == (2, c2, *size)  # ceil(9 / 2), ceil(10 / 2)
    assert isinstance(block.shortcut, nn.Identity if (c2, s) == (8, 1) else Conv)


def test_hidden_channels() -> None:
    # e = 0.125: 16 / 8 = 2 channels a branch, three of them joined
    assert RFB(8, 16, e=0.125).cv.conv.in_channels == 6


def test_misuse() -> None:
    with pytest.raises(ValueError, match=r"RFB: branches need c2 \* e >= 1 channels, got c2 = 3, e = 0\.25"):
        RFB(8, 3)
    with pytest.raises(ValueError, match="RFB: scale must not be 0"):
        RFB(8, 8, scale=0)
