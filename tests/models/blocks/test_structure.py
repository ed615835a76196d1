"""Stacks, pools, ghosts and rearrangements: identities that their definitions imply."""

from __future__ import annotations

import pytest
import torch

from models.common import (
    C3,
    C3SPP,
    C3TR,
    SPP,
    SPPF,
    Bottleneck,
    C3Ghost,
    Concat,
    Contract,
    Expand,
    GhostBottleneck,
    GhostConv,
)


def test_bottleneck_adds_its_input_only_at_equal_channels() -> None:
    assert Bottleneck(8, 8).add
    assert not Bottleneck(8, 16).add
    assert not Bottleneck(8, 8, shortcut=False).add


def test_three_small_pools_equal_one_of_each_size() -> None:
    torch.manual_seed(0)
    at_once, in_turn = SPP(8, 16).eval(), SPPF(8, 16).eval()
    in_turn.load_state_dict(at_once.state_dict())
    x = torch.randn(2, 8, 20, 20)
    assert torch.equal(at_once(x), in_turn(x))


def test_even_pool_is_refused() -> None:
    with pytest.raises(ValueError, match="odd kernel, got 4"):
        SPPF(8, 8, k=4)


def test_stack_depth_and_hidden_width() -> None:
    stack = C3(16, 32, n=3, e=0.25)
    assert len(stack.m) == 3
    assert stack.cv1.conv.out_channels == 8  # 32 * 0.25
    assert len(C3TR(16, 32, n=2).m.tr) == 2
    assert len(C3Ghost(16, 32, n=2).m) == 2
    assert isinstance(C3SPP(16, 32, (3, 5)).m, SPP)


def test_ghost_bottleneck_strides() -> None:
    assert GhostBottleneck(16, 32, s=2)(torch.zeros(2, 16, 8, 8)).shape == (2, 32, 4, 4)
    for c2, s in ((32, 1), (16, 3)):
        with pytest.raises(ValueError, match="GhostBottleneck takes s = 1 with c1 = c2, or s = 2"):
            GhostBottleneck(16, c2, s=s)


def test_ghost_halves() -> None:
    with pytest.raises(ValueError, match="c2 must be even, got 7"):
        GhostConv(8, 7)


def test_contract_and_expand_undo_each_other() -> None:
    x = torch.arange(2 * 8 * 4 * 6.0).reshape(2, 8, 4, 6)
    assert torch.equal(Expand(2)(Contract(2)(x)), x)
    assert torch.equal(Contract(2)(Expand(2)(x)), x)


def test_contract_by_hand() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    y = Contract(2)(x)
    assert y.shape == (1, 4, 2, 2)
    assert y[0, 1].tolist() == [[1, 3], [9, 11]]  # row offset 0, column offset 1


def test_concat_joins_channels() -> None:
    a, b = torch.zeros(1, 2, 3, 3), torch.ones(1, 1, 3, 3)
    assert Concat(1)([a, b]).mean((2, 3)).tolist() == [[0, 0, 1]]
