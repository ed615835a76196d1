"""How a name in a model yaml becomes a module: `BLOCKS`, `@register`, and the rules that wire a row.

A block is usable from a yaml as soon as its class stands under `@register(rule)`. The rule turns what the
yaml row says (a `Row`) into what the constructor wants (a `Wiring`); nothing else in the project knows the
block's name. Rules report a user's mistake as `ValueError`; the parser adds file, layer and block.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

from torch import nn

from models.aliases import ALIASES


@dataclass(frozen=True)
class Row:
    """One yaml row as a rule sees it.

    Attributes:
        channels: output channels of the layers that `from` names, in that order.
        args: the row's arguments, strings already resolved.
        number: repeats, `depth_multiple` already applied.
        scale: maps a channel count of the yaml to the one used, applying `width_multiple`.
    """

    channels: tuple[int, ...]
    args: tuple[Any, ...]
    number: int
    scale: Callable[[int], int]

    @property
    def c1(self) -> int:
        """Input channels of a block that takes exactly one input."""
        if len(self.channels) != 1:
            raise ValueError(f"takes one input, got {len(self.channels)}; join them with a Concat before it")
        return self.channels[0]

    @property
    def c2(self) -> int:
        """Scaled output channels: the row's first argument."""
        wanted = self.args[0] if self.args else None
        if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 1:
            raise ValueError(f"needs its output channels (an integer >= 1) as first argument, got {wanted!r}")
        return self.scale(wanted)

    def argument(self, position: int, default: int) -> int:
        """The integer at `position` of the arguments, or `default` when the row stops before it."""
        value = self.args[position] if position < len(self.args) else default
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"argument {position + 1} must be an integer, got {value!r}")
        return value


@dataclass(frozen=True)
class Wiring:
    """What a rule decides: constructor `args`, output channels `c2`, how often the module is repeated in a
    sequence, and whether its forward takes the list of all inputs (`joins`) instead of a single tensor."""

    args: tuple[Any, ...]
    c2: int
    repeats: int = 1
    joins: bool = False


Rule = Callable[[Row], Wiring]
Block = TypeVar("Block", bound=type[nn.Module])


class Entry(NamedTuple):
    """A block, the rule that wires it, and what its tests need; see `register`."""

    block: Callable[..., nn.Module]
    rule: Rule
    example: tuple[Any, ...] = ()
    levels: int = 1


BLOCKS: dict[str, Entry] = {}
KNOWN = "models/blocks has every known block"
EXAMPLE_CHANNELS = 32  # of the maps that a block is tested on


def register(
    rule: Rule | None = None,
    name: str | None = None,
    *,
    example: tuple[Any, ...] | None = None,
    levels: int = 1,
) -> Callable[[Block], Block]:
    """Class decorator: make a block known to yamls under its class name (or `name`), wired by `rule`.

    Args:
        example: arguments of a yaml row that makes the block for its tests, on maps of 32 channels. Without
            it the output channels alone, or nothing where the rule is `same`, `per_channel` or `keeping`.
        levels: how many maps the block takes, finest first, each half as high and wide as the one before.

    Raises:
        TypeError: no rule, or something that is none; the message names the block.
        ValueError: there is a block of this name.
    """
    if isinstance(rule, type):  # `@register` without brackets, where the class stands in the rule's place
        raise _without_rule(rule.__name__)

    def enter(block: Block) -> Block:
        key = name or block.__name__
        if rule is None or not callable(rule):
            raise _without_rule(key)
        if key in BLOCKS:
            raise ValueError(f"block '{key}' is registered twice")
        default = () if rule in (same, per_channel, keeping) else (EXAMPLE_CHANNELS,)
        BLOCKS[key] = Entry(block, rule, default if example is None else example, levels)
        return block

    return enter


def _without_rule(name: str) -> TypeError:
    stock = ", ".join(rule.__name__ for rule in (scaled, stacked, same, per_channel, keeping))
    return TypeError(f"block '{name}' needs a rule, as in @register(scaled); stock rules are {stock}")


def lookup(name: str) -> Entry:
    """The entry of a yaml's module name, or of our block that a public name means (`models/aliases.py`).

    Any other `nn.X` is torch's layer, taken to keep its channels.

    Raises:
        ValueError: there is no such block; the message proposes the nearest name.
    """
    if name in BLOCKS:
        return BLOCKS[name]
    if name in ALIASES:
        own, added = ALIASES[name]
        return _with_arguments(BLOCKS[own], added) if added else BLOCKS[own]
    if name.startswith("nn."):
        layer = getattr(nn, name[3:], None)
        if isinstance(layer, type) and issubclass(layer, nn.Module):
            return Entry(layer, same)
        raise ValueError(f"unknown block '{name}'{nearest(name, (f'nn.{key}' for key in dir(nn)), KNOWN)}")
    raise ValueError(f"unknown block '{name}'{nearest(name, (*ALIASES, *BLOCKS), KNOWN)}")


def _with_arguments(entry: Entry, added: tuple[Any, ...]) -> Entry:
    """The entry for rows that lack the last arguments."""
    return entry._replace(rule=lambda row: entry.rule(replace(row, args=(*row.args, *added))))


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """The end of a message about an unknown name: the known one that is nearest, or `otherwise`."""
    # compare without case first: 'GSconv' and 'gsconv' mean GSConv, whatever the letters' cost
    by_folded = {key.lower(): key for key in known}
    near = difflib.get_close_matches(name.lower(), by_folded, n=1, cutoff=0.5)
    return f"; did you mean '{by_folded[near[0]]}'?" if near else f"; {otherwise}"


def make_divisible(value: float, divisor: int) -> int:
    """The least multiple of `divisor` that is >= `value`."""
    return math.ceil(value / divisor) * divisor


# ---- the stock rules ----


def scaled(row: Row) -> Wiring:
    """`Block(c1, c2, *rest)`: the first argument is the output channels, scaled; repeats stand outside."""
    return Wiring((row.c1, row.c2, *row.args[1:]), row.c2, row.number)


def stacked(row: Row) -> Wiring:
    """`Block(c1, c2, n, *rest)`: as `scaled`, but the block repeats its own inside n times."""
    return Wiring((row.c1, row.c2, row.number, *row.args[1:]), row.c2)


def same(row: Row) -> Wiring:
    """`Block(*args)`: the arguments as they stand; as many channels come out as went in."""
    return Wiring(row.args, row.c1, row.number)


def per_channel(row: Row) -> Wiring:
    """`Block(c1, *args)`: a layer with one setting per channel, whose count the yaml leaves to us."""
    return Wiring((row.c1, *row.args), row.c1, row.number)


def keeping(row: Row) -> Wiring:
    """`Block(c1, *args)`: as `per_channel`, of a block whose public yamls also write its channels first.

    A first argument that is the number of channels that come in, as it stands or scaled, is left out; so is
    a second one that repeats it, as the number that comes out. `null` stands for the channels, whatever they
    are: what follows it is taken as it is.
    """
    args, first = row.args, row.args[0] if row.args else None
    if args and first is None:
        return Wiring((row.c1, *args[1:]), row.c1, row.number)
    if isinstance(first, int) and not isinstance(first, bool) and first > 0:
        written = row.c1 in (first, row.scale(first))
        again = args[1:2] == (first,) and not isinstance(args[1], bool)
        args = args[1 + again :] if written else args
    return Wiring((row.c1, *args), row.c1, row.number)


register(scaled, "nn.Conv2d", example=(32, 3, 1, 1))(nn.Conv2d)
register(scaled, "nn.ConvTranspose2d", example=(32, 2, 2))(nn.ConvTranspose2d)
register(per_channel, "nn.BatchNorm2d")(nn.BatchNorm2d)
register(per_channel, "nn.InstanceNorm2d")(nn.InstanceNorm2d)
