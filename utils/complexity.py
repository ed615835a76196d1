"""What a network costs: parameters, and floating-point operations counted without running it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Number of parameters; with `trainable` only those that take a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


@torch.no_grad()
def call_on_meta(module: nn.Module, inputs: Any) -> Any:
    """The module's output as tensors without data, in the module's own train or eval mode.

    Costs no arithmetic and changes nothing: parameters and buffers are replaced by empty ones for the call.
    `inputs` are meta tensors.
    """
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    empty = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    return torch.func.functional_call(module, empty, (inputs,))


def count_flops(module: nn.Module, inputs: Any) -> int:
    """Operations of one call, 2 x multiply-adds of convolutions, matrix products and attention.

    The convention of a fused network: BatchNorm, activations and pooling count nothing. `inputs` are meta
    tensors.
    """
    from torch.utils.flop_counter import FlopCounterMode  # costs a quarter of a second that few commands need

    with FlopCounterMode(display=False) as counter:
        call_on_meta(module, inputs)
    return counter.get_total_flops()


def thop_gflops(module: nn.Module, image: Tensor) -> float | None:
    """GFLOPs as the thop package counts them, BatchNorm included; None when it is not installed."""
    try:
        import thop  # optional, for comparison with published tables
    except ImportError:
        return None
    macs, _ = thop.profile(copy.deepcopy(module).eval(), inputs=(image,), verbose=False)
    return 2 * macs / 1e9
