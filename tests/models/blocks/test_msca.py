"""MSCA: which convolutions it has, and what it computes with weights that one can follow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.blocks.msca import MSCA
from models.registry import BLOCKS, Row

KERNELS = {
    "conv0": (5, 5),
    "conv0_1": (1, 7),
    "conv0_2": (7, 1),
    "conv1_1": (1, 11),
    "conv1_2": (11, 1),
    "conv2_1": (1, 21),
    "conv2_2": (21, 1),
}


def centred(channels: int) -> MSCA:
    """Every depthwise kernel 1 in its centre and `conv3` the identity, all biases 0: attention is 4 x."""
    block = MSCA(channels)
    for name, part in block.named_children():
        assert isinstance(part, nn.Conv2d)
        nn.init.zeros_(part.weight)
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        if name != "conv3":
            part.weight.data[:, 0, part.kernel_size[0] // 2, part.kernel_size[1] // 2] = 1
    nn.init.dirac_(block.conv3.weight)
    return block


def reached(block: MSCA) -> Tensor:
    """(51, 51) bool: the pixels whose output changes with the one in the middle; the input is 1 elsewhere."""
    x = torch.ones(1, 1, 51, 51)
    still = block(x)
    x[..., 25, 25] = 2
    return (block(x) - still)[0, 0].abs() > 1e-4


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name: str) -> None:
    part = getattr(MSCA(8), name)
    assert part.kernel_size == KERNELS[name]
    assert part.groups == 8
    assert part.bias is not None


def test_attention_multiplies_the_input() -> None:
    block = centred(2)
    x = torch.tensor([3.0, -5.0]).reshape(1, 2, 1, 1)
    block.conv0.weight.data *= 2
    # conv0 gives 2x, each of three strips gives 2x again: attention 8x, times x: 8 * 9 and 8 * 25
    assert block(x).flatten().tolist() == [72, 200]
    nn.init.constant_(block.conv3.bias, 2.0)  # type: ignore[arg-type]
    assert block(x).flatten().tolist() == [(24 + 2) * 3, (-40 + 2) * -5]


def test_only_the_last_convolution_mixes_channels() -> None:
    block = centred(2)
    block.conv3.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(2, 2, 1, 1)
    # attention of the other channel: -20 * 3 and 12 * -5
    assert block(torch.tensor([3.0, -5.0]).reshape(1, 2, 1, 1)).flatten().tolist() == [-60, -60]


@pytest.mark.parametrize(("strip", "reach"), [("conv0", 3), ("conv1", 5), ("conv2", 10)])
def test_a_pair_of_strips_reaches_a_square(strip: str, reach: int) -> None:
    block = centred(1)
    for half in ("_1", "_2"):
        nn.init.ones_(getattr(block, strip + half).weight)
    where = reached(block).nonzero()
    square = [[y, x] for y in range(25 - reach, 26 + reach) for x in range(25 - reach, 26 + reach)]
    assert where.tolist() == square


def test_a_row_needs_no_arguments() -> None:
    block, rule, *_ = BLOCKS["MSCA"]
    wiring = rule(Row((24,), (), 1, scale=lambda c: c // 2))
    assert wiring.c2 == 24
    assert block(*wiring.args)(torch.zeros(2, 24, 4, 6)).shape == (2, 24, 4, 6)
