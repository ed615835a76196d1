"""Partial convolution and FasterNet: what is convolved, what passes, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from models.blocks.partial import CSPPC, FasterNetBlock, PatchEmbed, PatchMerging, PConv


def test_only_the_first_channels_change() -> None:
    x = torch.randn(2, 8, 5, 5)
    block = PConv(8, n_div=4)
    y = block(x)
    assert torch.equal(y[:, 2:], x[:, 2:])
    assert torch.equal(y[:, :2], block.partial_conv3(x[:, :2]))


def test_a_quarter_of_the_channels_costs_a_sixteenth() -> None:
    # (64 / 4)^2 * 9 of 64^2 * 9
    assert sum(p.numel() for p in PConv(64).parameters()) * 16 == 64 * 64 * 9


def test_split_shell_joins_every_piece() -> None:
    stack = CSPPC(16, 32, n=3)
    assert stack.cv1.conv.out_channels == 2 * 16  # two pieces of 32 * 0.5
    assert stack.cv2.conv.in_channels == (2 + 3) * 16
    assert stack(torch.zeros(1, 16, 4, 4)).shape == (1, 32, 4, 4)


def test_fasternet_block_is_a_residual() -> None:
    x = torch.randn(2, 8, 5, 5)
    block = FasterNetBlock(8, 8)
    torch.nn.init.zeros_(block.mlp[3].weight)
    assert torch.equal(block(x), x)
    assert block.mlp[0].out_channels == 16


def test_patches_do_not_overlap() -> None:
    x = torch.zeros(1, 3, 8, 8, requires_grad=True)
    embed = PatchEmbed(3, 4).eval()
    embed(x)[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, :4, :4].all() and x.grad.count_nonzero() == 3 * 16
    assert PatchMerging(4, 8)(torch.zeros(2, 4, 6, 6)).shape == (2, 8, 3, 3)


def test_misuse() -> None:
    with pytest.raises(
        ValueError, match="PConv convolves 1 in n_div channels: dim must be a multiple of 4, got 6"
    ):
        PConv(6)
    with pytest.raises(ValueError, match="multiple of 0, got 8"):
        PConv(8, n_div=0)
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        CSPPC(8, 12)  # half of 12 channels
    with pytest.raises(
        ValueError, match="FasterNetBlock keeps its channels: c1 must equal c2, got c1 = 8, c2 = 16"
    ):
        FasterNetBlock(8, 16)
