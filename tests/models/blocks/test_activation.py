"""Activations named by a yaml: parsed, never evaluated, and gone after the model."""

from __future__ import annotations

import pytest
from torch import nn

from models.blocks.activation import default_activation, make_activation, parse_activation
from models.blocks.conv import Conv


@pytest.mark.parametrize(
    ("text", "kind", "shown"),
    [
        ("nn.LeakyReLU(0.1)", nn.LeakyReLU, "negative_slope=0.1"),
        ("torch.nn.ReLU()", nn.ReLU, ""),
        ("Hardswish()", nn.Hardswish, ""),
        ("nn.SiLU(inplace=True)", nn.SiLU, "inplace=True"),
        ("nn.Identity()", nn.Identity, ""),
    ],
)
def test_understood(text: str, kind: type[nn.Module], shown: str) -> None:
    activation = parse_activation(text)
    assert type(activation) is kind
    assert activation.extra_repr() == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ReLU",
        "nn.ReLU",
        "nn.Conv2d(1, 1, 1)",
        "nn.NoSuchThing()",
        "__import__('os').system('true')",
        "nn.LeakyReLU(__import__('os'))",
        "nn.ReLU(wrong=1)",
        "nn.ReLU(",
        "lambda: 0",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match="activation"):
        parse_activation(text)


def test_default_holds_inside_and_ends_outside() -> None:
    with default_activation(nn.LeakyReLU(0.1)):
        inside = [Conv(4, 4).act, Conv(4, 4).act]
        assert type(Conv(4, 4, act=False).act) is nn.Identity
    assert [type(act) for act in inside] == [nn.LeakyReLU] * 2
    assert inside[0] is not inside[1]
    assert type(Conv(4, 4).act) is nn.SiLU


def test_default_ends_after_an_error() -> None:
    with pytest.raises(RuntimeError), default_activation(nn.ReLU()):
        raise RuntimeError
    assert type(make_activation(True)) is nn.SiLU
