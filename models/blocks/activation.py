"""Which activation a convolution gets, and how a yaml names one.

The `activation:` key of a model yaml holds while that model is built and never reaches the next model: it
lives in a context variable, not in a class.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from torch import nn
from torch.nn.modules import activation as activations

Activation: TypeAlias = bool | nn.Module

_template: ContextVar[nn.Module | None] = ContextVar("activation of the model being built", default=None)


@contextmanager
def default_activation(template: nn.Module | None) -> Iterator[None]:
    """While the block runs, every `act=True` means a copy of `template` (None: SiLU)."""
    token = _template.set(template)
    try:
        yield
    finally:
        _template.reset(token)


def make_activation(act: Activation) -> nn.Module:
    """The module for an `act` argument: True is the model's default, False none, a module a copy of itself.

    Raises:
        ValueError: `act` is something else, as when a positional call is one argument off.
    """
    if isinstance(act, nn.Module):
        return copy.deepcopy(act)
    if not isinstance(act, bool):
        raise ValueError(f"act must be true, false or a module such as nn.ReLU(), got {act!r}")
    if not act:
        return nn.Identity()
    template = _template.get()
    return nn.SiLU(inplace=True) if template is None else copy.deepcopy(template)


def parse_activation(text: str) -> nn.Module:
    """Build the activation that `text` names, as in `nn.LeakyReLU(0.1)`; its arguments must be literals.

    Nothing is evaluated: the text is parsed, the name is looked up among torch's activations.

    Raises:
        ValueError: not of that form, not an activation of torch.nn, or arguments that it refuses.
    """
    rule = "write an activation of torch.nn with literal arguments, such as nn.LeakyReLU(0.1)"
    try:
        call = ast.parse(str(text).strip(), mode="eval").body
        if not isinstance(call, ast.Call):
            raise ValueError
        name = ast.unparse(call.func).removeprefix("torch.").removeprefix("nn.")
        args = [ast.literal_eval(argument) for argument in call.args]
        settings = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"activation {text!r} is not understood; {rule}") from error
    kind = nn.Identity if name == "Identity" else getattr(activations, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ValueError(f"unknown activation {text!r}; {rule}")
    try:
        return kind(*args, **settings)
    except TypeError as error:
        raise ValueError(f"activation {text!r}: {error}") from error
