"""Branches side by side that become one convolution for inference: what RepVGG, DBB and MobileOne share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.conv import Conv, batch_norm_terms
from models.blocks.taking import Take

Kernel: TypeAlias = tuple[Tensor, Tensor]  # (c2, c1 / g, k, k) and (c2,), in double precision


def check_middle(block: str, k: object, least: int = 3) -> None:
    """Raise a ValueError unless k x k taps have one in the middle."""
    if not isinstance(k, int) or isinstance(k, bool) or k < least or k % 2 == 0:
        raise ValueError(
            f"{block} adds a 1x1 convolution to the middle of k x k: k must be odd and >= {least}, got {k!r}"
        )


def folded(unit: nn.Module) -> Kernel:
    """Kernel and bias of a Conv without activation; it may be fused already."""
    assert isinstance(unit, Conv)
    weight = unit.conv.weight.detach().double()
    if not isinstance(unit.bn, nn.BatchNorm2d):
        assert unit.conv.bias is not None
        return weight, unit.conv.bias.detach().double()
    scale, shift = batch_norm_terms(unit.bn)
    return weight * scale.reshape(-1, 1, 1, 1), shift


def of_norm(norm: nn.BatchNorm2d, like: Tensor) -> Kernel:
    """A BatchNorm alone, as a convolution with a kernel (c, c / g, k, k) like another's."""
    scale, shift = batch_norm_terms(norm)
    rows, middle = torch.arange(len(scale), device=scale.device), like.shape[-1] // 2
    kernel = torch.zeros_like(like, dtype=scale.dtype)
    kernel[rows, rows % like.shape[1], middle, middle] = scale
    return kernel, shift


def merged(first: Kernel, others: Iterable[Kernel]) -> Kernel:
    """The sum of convolutions; smaller kernels lie in the middle of the first one's."""
    kernel, bias = first
    for small, shift in others:
        around = (kernel.shape[-1] - small.shape[-1]) // 2
        kernel, bias = kernel + F.pad(small, (around,) * 4), bias + shift
    return kernel, bias


def become(unit: Conv, kernel: Kernel) -> nn.Conv2d:
    """The convolution of a Conv, which has this kernel and bias from now on, and no BatchNorm behind it."""
    conv, grad = unit.conv, unit.conv.weight.requires_grad
    weight, bias = (value.detach().to(conv.weight) for value in kernel)
    conv.weight, conv.bias = (
        nn.Parameter(weight, requires_grad=grad),
        nn.Parameter(bias, requires_grad=grad),
    )
    unit.bn = nn.Identity()  # who fuses a whole network calls this unit's own `fuse` too
    return conv


def silence(take: Take, norms: Iterable[nn.Module | None]) -> None:
    """Let what ends in these BatchNorms add nothing at first; what is none is passed over."""
    for norm in norms:
        if isinstance(norm, nn.BatchNorm2d):
            take(norm.weight, torch.zeros_like(norm.weight))
            take(norm.bias, torch.zeros_like(norm.bias))
