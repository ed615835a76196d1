"""The registry: rules turn yaml rows into constructor arguments; unknown names get a proposal."""

from __future__ import annotations

import pytest
from torch import nn

from models import registry
from models.registry import BLOCKS, Row, lookup, make_divisible, per_channel, register, same, scaled, stacked


def row(*args: object, channels: tuple[int, ...] = (16,), number: int = 1) -> Row:
    """A row as the parser would give it at width 0.5."""
    return Row(channels, args, number, scale=lambda c: make_divisible(c * 0.5, 8))


def test_scaled_puts_both_channels_first_and_repeats_outside() -> None:
    wiring = scaled(row(64, 3, 2, number=4))
    assert wiring.args == (16, 32, 3, 2)  # 64 * 0.5 = 32
    assert (wiring.c2, wiring.repeats, wiring.joins) == (32, 4, False)


def test_stacked_hands_the_repeats_to_the_block() -> None:
    wiring = stacked(row(64, False, number=4))
    assert wiring.args == (16, 32, 4, False)
    assert (wiring.c2, wiring.repeats) == (32, 1)


def test_same_keeps_arguments_and_channels() -> None:
    wiring = same(row(None, 2, "nearest"))
    assert (wiring.args, wiring.c2) == ((None, 2, "nearest"), 16)


def test_per_channel_adds_the_channel_count() -> None:
    assert per_channel(row(0.001)).args == (16, 0.001)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(16.0, 16), (16.1, 24), (255 * 0.25, 64), (8.0, 8), (0.5, 8)],  # 255 / 4 = 63.75, next multiple 64
)
def test_make_divisible_rounds_up_to_eights(value: float, expected: int) -> None:
    assert make_divisible(value, 8) == expected


@pytest.mark.parametrize("args", [(), ("64",), (True,), (0,), (-8,), (2.5,)])
def test_output_channels_must_be_a_positive_integer(args: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match="output channels"):
        scaled(row(*args))


def test_a_block_with_one_input_refuses_two() -> None:
    with pytest.raises(ValueError, match="takes one input, got 2; join them with a Concat"):
        scaled(row(64, channels=(16, 32)))


@pytest.mark.parametrize(
    ("typo", "meant"),
    [("GSconv", "GSConv"), ("conv", "Conv"), ("C3Gost", "C3Ghost"), ("nn.Upsampel", "nn.Upsample")],
)
def test_unknown_block_proposes_the_nearest(typo: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"unknown block '{typo}'; did you mean '{meant}'?"):
        lookup(typo)


@pytest.mark.parametrize("name", ["os.system", "nn.functional", "nn.init", "nn.Parameter", "__import__", ""])
def test_only_modules_are_blocks(name: str) -> None:
    with pytest.raises(ValueError, match="unknown block"):
        lookup(name)


def test_torch_layers_resolve_by_name() -> None:
    assert lookup("nn.Upsample")[:2] == (nn.Upsample, same)
    assert lookup("nn.ConvTranspose2d").rule is scaled


def test_a_class_is_registered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BLOCKS", dict(BLOCKS))

    @register(scaled)
    class Fresh(nn.Module):
        pass

    assert lookup("Fresh").block is Fresh
    with pytest.raises(ValueError, match="'Fresh' is registered twice"):
        register(scaled)(Fresh)


def test_an_example_follows_from_the_rule_or_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "BLOCKS", {})
    for rule, example in ((scaled, (32,)), (stacked, (32,)), (same, ()), (per_channel, ())):
        register(rule, "Fresh")(nn.Module)
        assert registry.BLOCKS.pop("Fresh") == (nn.Module, rule, example, 1)
    register(scaled, "Fresh", example=(16, 3), levels=2)(nn.Module)
    assert registry.BLOCKS["Fresh"][2:] == ((16, 3), 2)


def test_a_missing_rule_is_named() -> None:
    class Fresh(nn.Module):
        pass

    complaint = r"block 'Fresh' needs a rule.*stock rules are scaled, stacked, same, per_channel, keeping$"
    with pytest.raises(TypeError, match=complaint):
        register(Fresh)
    for no_rule in (None, "scaled", 3):
        with pytest.raises(TypeError, match=complaint):
            register(no_rule)(Fresh)
