"""What tests of blocks look at: a block with lively statistics, a map, and what a Conv costs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.deform import DCNv2
from tests.layouts import randomise_norms


def lively(block: nn.Module) -> nn.Module:
    """The block in evaluation mode, with statistics and offsets that count."""
    torch.manual_seed(0)
    randomise_norms(block)
    for module in block.modules():
        if isinstance(module, DCNv2):
            nn.init.normal_(module.offset.weight, std=0.2)
            nn.init.normal_(module.offset.bias)  # type: ignore[arg-type]
    return block.eval()


def maps(channels: int = 16, height: int = 6, width: int = 8) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1))


def conv(c1: int, c2: int, k: int = 1) -> int:
    """Parameters of a Conv: kernel and BatchNorm."""
    return c1 * c2 * k * k + 2 * c2
