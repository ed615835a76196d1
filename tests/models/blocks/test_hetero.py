"""HetConv against its definition, filter by filter, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.blocks.hetero import C3Het, CSPHet, HetConv


def by_definition(block: HetConv, x: Tensor) -> Tensor:
    """One convolution a set with whole kernels: 3x3 on its own channels, the middle weight on the others."""
    sets = block.sets
    outputs = []
    for index, pair in enumerate(block.filters):
        own = [c for c in range(block.c1) if c % sets == index]
        others = [c for c in range(block.c1) if c % sets != index]
        kernel = torch.zeros(block.c2 // sets, block.c1, 3, 3)
        kernel[:, own] = pair[0].weight
        kernel[:, others, 1, 1] = pair[1].weight[:, :, 0, 0]
        outputs.append(F.conv2d(x, kernel, stride=block.stride, padding=1))
    return torch.stack(outputs, dim=2).flatten(1, 2)  # (B, c2/p, p, H, W): the sets interleave


@pytest.mark.parametrize(("c1", "c2", "s", "p"), [(12, 8, 1, 4), (6, 9, 2, 3), (4, 4, 1, 2), (4, 8, 1, 4)])
def test_two_convolutions_do_what_the_filters_say(c1: int, c2: int, s: int, p: int) -> None:
    torch.manual_seed(0)
    block = HetConv(c1, c2, s, p)
    x = torch.randn(2, c1, 7, 6)
    torch.testing.assert_close(block(x), by_definition(block, x), rtol=1e-4, atol=1e-5)


def test_weights_of_the_two_kernels() -> None:
    block = HetConv(8, 16, p=4)
    pointwise, spatial = block.kernels()
    assert spatial.shape == (16, 2, 3, 3)
    assert pointwise.shape == (16, 8, 1, 1)
    assert int((pointwise == 0).sum()) == block.structural_zeros == 16 * 2
    # 3x3 on 2 of 8 inputs, 1x1 on the other 6, for 16 filters
    assert sum(p.numel() for p in block.parameters()) == 16 * (2 * 9 + 6)


def test_stacks_hold_pairs() -> None:
    assert [len(pair) for pair in CSPHet(16, 32, n=2).m] == [2, 2]
    assert [len(pair) for pair in C3Het(16, 32, n=2).m] == [2, 2]
    assert CSPHet(16, 32, p=2).m[0][0].sets == 2


def test_misuse() -> None:
    with pytest.raises(ValueError, match="HetConv has p = 4 sets: c1 must be a multiple of it, got 6"):
        HetConv(6, 8)
    with pytest.raises(ValueError, match="c2 must be a multiple of it, got 6"):
        HetConv(8, 6)
    with pytest.raises(ValueError, match="needs p >= 2 sets, got 1"):
        HetConv(8, 8, p=1)
