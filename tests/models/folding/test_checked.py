"""Networks whose trace does not tell what they do: the result is theirs all the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.blocks.reshape import shuffle_channels
from models.folding.checked import KEPT, fold


class Block(nn.Module):
    """Two convolutions and an activation in place, in a flow of its own."""

    def __init__(self, flow: Callable[[Block, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.wide = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(16, 8, 1)
        self.act = nn.ReLU(inplace=True)
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.flow(self, x)


def activated_copy(n: Block, x: Tensor) -> Tensor:
    a = n.a(x)  # as it was before the activation of a copy of it
    return n.wide(n.act(torch.cat([a, n.b(x)], dim=1))) + a


def activated_shuffle(n: Block, x: Tensor) -> Tensor:
    a = n.a(x)
    return n.b(n.act(shuffle_channels(a, 2))) + a


def activated_original(n: Block, x: Tensor) -> Tensor:
    a = n.a(x)
    copy = torch.cat([a, n.b(x)], dim=1)
    n.act(a)
    return n.wide(copy) + a


def summed_in_place(n: Block, x: Tensor) -> Tensor:
    a = n.a(x)
    same = a.view(a.shape)
    a += n.b(x)
    return same


def asks_for_types(n: Block, x: Tensor) -> Tensor:
    return n.a(x) if isinstance(x, Tensor) else n.b(x)


def channels_last(n: Block, x: Tensor) -> Tensor:
    return n.b((n.a(x).permute(0, 2, 3, 1) * 0.5).permute(0, 3, 1, 2))


def halves_of_rows(n: Block, x: Tensor) -> Tensor:
    top, bottom = n.a(x).permute(0, 2, 3, 1).chunk(2, 1)
    return n.b(torch.cat([bottom, top], dim=1).permute(0, 3, 1, 2))


def by_keyword(n: Block, x: Tensor) -> Tensor:
    return n.wide(torch.cat(tensors=[n.a(input=x), torch.add(input=n.b(x), other=x)], dim=1))


def reversed_pieces(n: Block, x: Tensor) -> Tensor:
    return n.b(torch.cat(n.a(x).chunk(4, 1)[::-1], 1))


def empty_piece(n: Block, x: Tensor) -> Tensor:
    a = n.a(x)
    return torch.cat([a[:, 4:4], a], dim=1)


FLOWS = [
    activated_copy, activated_shuffle, activated_original, summed_in_place, asks_for_types, channels_last,
    halves_of_rows, by_keyword, reversed_pieces, empty_piece,
]  # fmt: skip


@pytest.mark.parametrize("flow", FLOWS)
@torch.no_grad()
def test_the_result_is_that_of_the_network(flow: Callable[[Block, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Block(flow), nn.Conv2d(8, 8, 1)).double().eval()
    folded, *_ = fold(network, (1, 3, 16, 16))
    for shape in ((1, 3, 16, 16), (2, 3, 8, 24)):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(folded(x), network(x), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_only_the_block_that_cannot_be_folded_stays() -> None:
    shuffled = Block(lambda n, x: n.b(shuffle_channels(n.a(x), 2)))
    network = nn.Sequential(nn.Conv2d(3, 8, 1), Block(asks_for_types), shuffled).eval()
    folded, rules, _ = fold(network, (1, 3, 16, 16))
    assert rules[KEPT] == 1 and rules["channel permutations carried into weights"] == 1
    assert [type(part) for part in folded.modules()].count(Block) == 1
    assert "shuffle" not in folded.code


@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_keywords_of_layers_are_kept(bias: bool) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 4, stride=4)
            self.attention = nn.MultiheadAttention(8, 2, bias=bias, batch_first=True)
            self.register_buffer("mask", torch.triu(torch.full((16, 16), -9.0), 1))

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x).flatten(2).transpose(1, 2)
            return self.attention(y, y, value=y, attn_mask=self.mask)[0]

    network = Attention().double().eval()
    folded, *_ = fold(network, (1, 3, 16, 16))
    x = torch.randn((2, 3, 16, 16), dtype=torch.float64)
    torch.testing.assert_close(folded(x), network(x), rtol=1e-9, atol=1e-9)
