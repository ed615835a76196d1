"""DSConv and ExpandConv: their layers, receptive fields, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from models.blocks.separable import DSConv, ExpandConv


def test_layers_of_the_separable_convolution() -> None:
    block = DSConv(4, 6, k=3, s=2)
    # 4 * 9 depthwise, 4 * 6 pointwise, two BatchNorms of two values a channel
    assert sum(p.numel() for p in block.parameters()) == 36 + 24 + 2 * 4 + 2 * 6
    y = block(torch.randn(2, 4, 7, 8))
    assert y.shape == (2, 6, 4, 4)
    assert y.min() >= 0


@pytest.mark.parametrize(("k", "d"), [(3, 1), (5, 1), (5, 3), (1, 1)])
def test_the_map_keeps_its_size(k: int, d: int) -> None:
    assert DSConv(4, 4, k, 1, d)(torch.zeros(1, 4, 9, 11)).shape == (1, 4, 9, 11)


def test_each_branch_sees_what_the_docstring_says() -> None:
    torch.manual_seed(0)
    block = ExpandConv(4, 8).double().eval()
    for branch, reach in zip(block.branches, (25, 49, 81)):  # 1 + (k - 1)(1 + d), k = d = 5, 7, 9
        x = torch.rand(1, 2, 101, 101, dtype=torch.float64, requires_grad=True)
        for part in branch:  # positive weights, so that ReLU lets everything through
            torch.nn.init.ones_(part.conv1.weight)
            torch.nn.init.ones_(part.conv2.weight)
        branch(x)[0, :, 50, 50].sum().backward()
        assert x.grad is not None
        seen = x.grad[0, 0].any(dim=0).nonzero().flatten()
        assert int(seen.max() - seen.min()) + 1 == reach


def test_four_halves_are_joined() -> None:
    block = ExpandConv(8, 24)
    assert block.expand.conv1.in_channels == 4 * 4
    assert block(torch.zeros(1, 8, 5, 5)).shape == (1, 24, 5, 5)
    assert len(ExpandConv(8, 8, [3], [2]).branches) == 1


def test_misuse() -> None:
    with pytest.raises(ValueError, match="DSConv pads to keep the map's size: k must be odd, got 4"):
        DSConv(4, 4, k=4)
    with pytest.raises(ValueError, match="ExpandConv works on half of its channels: c1 must be even, got 5"):
        ExpandConv(5, 8)
    with pytest.raises(
        ValueError, match=r"one dilation for each kernel, got kernels \[3, 5\] and dilations \[2\]"
    ):
        ExpandConv(8, 8, (3, 5), (2,))
