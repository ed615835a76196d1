"""What a network costs, counted on tensors without data: no arithmetic, no memory, no change to it."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from utils.counting.meter import Cost, Meter

ModuleType = TypeVar("ModuleType", bound=nn.Module)


def count_parameters(module: nn.Module, trainable: bool = False) -> int:
    """Number of parameters; with `trainable` only those that take a gradient."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


def meta_copy(module: ModuleType) -> ModuleType:
    """A copy whose parameters and buffers have shapes and no data; the original is not touched."""
    copies: dict[int, Any] = {}
    for parameter in module.parameters():
        empty = parameter.detach().to("meta")
        copies[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        copies[id(buffer)] = buffer.detach().to("meta")
    return copy.deepcopy(module, copies)


@torch.no_grad()
def call_on_meta(module: nn.Module, inputs: Any, around: AbstractContextManager[Any] | None = None) -> Any:
    """The module's output as tensors without data, in the module's own train or eval mode.

    Costs no arithmetic and changes nothing: parameters and buffers are replaced by empty ones for the call.
    `inputs` are meta tensors; `around` is entered for the call alone.
    """
    state = dict(module.named_parameters()) | dict(module.named_buffers())
    empty = {name: tensor.detach().to("meta") for name, tensor in state.items()}
    with around or nullcontext():
        return torch.func.functional_call(module, empty, (inputs,))


def measure(module: nn.Module, inputs: Any) -> Cost:
    """The cost of one call of the module in its own train or eval mode. `inputs` are meta tensors."""
    meter = Meter()
    meter.follow(inputs)
    return meter.take(call_on_meta(module, inputs, around=meter))


def thop_flops(module: nn.Module, image: Tensor) -> int | None:
    """2 x the multiply-adds that the thop package itself counts in eval mode; None when it is not installed.

    Takes a copy on meta tensors. `measure` repeats thop's rules without the package.
    """
    try:
        import thop  # optional, for comparison with published tables
    except ImportError:
        return None
    macs, _ = thop.profile(meta_copy(module).eval(), inputs=(image.to("meta"),), verbose=False)
    return int(2 * macs)
