"""How a loss is named: `Inner-CIoU(ratio=0.75)` is a base, CIoU, and what is done to it, with its number.

    formula := part { "-" part }          part := NAME [ "(" number { "," number } ")" ]
    number  := NAME "=" VALUE

The base stands last. What is before it may stand in any order: what it does has an order of its own, in
which the canonical text is written, outermost first. Numbers in the last parentheses may be those of any
part; where two know a number by the same name, each has its own parentheses. Nothing is evaluated.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

VALUE = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
NUMBER = re.compile(rf"\s*(\w+)\s*=\s*({VALUE})\s*([,)])", re.ASCII)


class Number(NamedTuple):
    """A number that a part takes: what it is when nobody says, and between which limits it may lie."""

    default: float
    low: float
    high: float


@dataclass(frozen=True)
class Part:
    """A name of the grammar and what it stands for.

    Attributes:
        function: takes the numbers by keyword, after what its registry says.
        numbers: by name, in the order in which they are written.
        alone: the base that is meant where this part, which is none, stands last.
        not_with: bases that it cannot stand before.
        fault: what is wrong with the numbers together, or nothing.
    """

    name: str
    function: Callable[..., Any]
    numbers: Mapping[str, Number] = field(default_factory=dict)
    alone: str = ""
    not_with: tuple[str, ...] = ()
    fault: Callable[..., str] = lambda **numbers: ""

    @property
    def kind(self) -> str:
        """The name without its version: one of a kind can be used."""
        return self.name.partition("-v")[0]


class Bound(NamedTuple):
    """A part and its numbers."""

    part: Part
    numbers: dict[str, float]

    def __str__(self) -> str:
        return self.part.name + _written(self.numbers)

    @property
    def function(self) -> Callable[..., Any]:
        return partial(self.part.function, **self.numbers)


class Formula(NamedTuple):
    """A base and what is done to it, outermost first. As text it is canonical and says every number."""

    modifiers: tuple[Bound, ...]
    base: Bound

    def __str__(self) -> str:
        parts = [*self.modifiers, self.base]
        if self.modifiers and self.modifiers[-1].part.alone == self.base.part.name:
            parts.pop()
        numbers = [item for bound in parts for item in bound.numbers.items()]
        if len(dict(numbers)) < len(numbers):
            return "-".join(map(str, parts))
        return "-".join(bound.part.name for bound in parts) + _written(dict(numbers))


class _Piece(NamedTuple):
    name: str
    letter: int  # where it stands in the text, from 1
    told: dict[str, float]


def read(text: object, bases: Mapping[str, Part], modifiers: Mapping[str, Part]) -> Formula:
    """The formula of a text.

    Args:
        bases: what may stand last; two names of one part are synonyms.
        modifiers: what may stand before it, outermost first.

    Raises:
        ValueError: no formula; one line says at which letter, and what may have been meant.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected a name such as {', '.join([*bases][:4])}, found {text!r}")
    pieces = _pieces(text, {**modifiers, **bases})
    last = pieces[-1]
    if last.name in bases:
        before, base = pieces[:-1], bases[last.name]
    else:
        before, alone = pieces, modifiers[last.name].alone
        if not alone:
            raise _error(text, last.letter, f"{last.name} needs a base behind it, as in {last.name}-CIoU")
        base = bases[alone]
    for piece in before:
        _check_modifier(text, piece, base, modifiers)
    kinds = Counter(modifiers[piece.name].kind for piece in before)
    if kinds and (twice := kinds.most_common(1)[0])[1] > 1:
        raise _error(text, before[-1].letter, f"{twice[0]} is there {twice[1]} times")
    parts = [modifiers[piece.name] for piece in before]
    parts += [base] if last.name in bases else []
    _share_out(text, last, parts, pieces)
    told = [_bound(text, part, piece) for part, piece in zip(parts, pieces)]
    if last.name not in bases:
        told.append(Bound(base, {name: number.default for name, number in base.numbers.items()}))
    order = [part.name for part in modifiers.values()]
    return Formula(tuple(sorted(told[:-1], key=lambda bound: order.index(bound.part.name))), told[-1])


def _pieces(text: str, parts: Mapping[str, Part]) -> list[_Piece]:
    """Cut a text at its hyphens, those that do not belong to a name."""
    names = re.compile(rf"({'|'.join(map(re.escape, sorted(parts, key=len, reverse=True)))})(?=[-(]|\Z)")
    pieces, place = [], 0
    while True:
        if not (found := names.match(text, place)):
            raise _error(text, place + 1, _unknown(text[place:], parts))
        name, letter, told, place = found[1], place + 1, dict[str, float](), found.end()
        if text[place : place + 1] == "(":
            told, place = _numbers(text, place + 1)
        pieces.append(_Piece(name, letter, told))
        if place == len(text):
            return pieces
        if text[place] != "-":
            raise _error(text, place + 1, f"expected '-' or the end behind {name}, found {text[place]!r}")
        place += 1


def _numbers(text: str, place: int) -> tuple[dict[str, float], int]:
    """The numbers of a parenthesis that is open, and the place behind its end."""
    told: dict[str, float] = {}
    end = ","
    while end == ",":
        if not (found := NUMBER.match(text, place)):
            raise _error(text, place + 1, "expected NAME=NUMBER, then ',' or ')'")
        name, value, end = found.groups()
        if name in told:
            raise _error(text, found.start(1) + 1, f"{name} is told twice")
        told[name], place = float(value), found.end()
    return told, place


def _check_modifier(text: str, piece: _Piece, base: Part, modifiers: Mapping[str, Part]) -> None:
    if piece.name not in modifiers:
        raise _error(text, piece.letter, f"{piece.name} is a base, and a base stands last")
    if base.name in modifiers[piece.name].not_with:
        raise _error(text, piece.letter, f"{piece.name} means nothing for {base.name}")


def _share_out(text: str, last: _Piece, parts: list[Part], pieces: list[_Piece]) -> None:
    """Give each number of the last parentheses to the part that knows it."""
    for name in list(last.told):
        owners = [
            i
            for i, (part, piece) in enumerate(zip(parts, pieces))
            if name in part.numbers and (piece is last or name not in piece.told)
        ]
        if len(owners) > 1:
            both, first = " and ".join(parts[i].name for i in owners), parts[owners[0]].name
            hint = f"write it behind its name, {first}({name}=…)-…"
            raise _error(text, last.letter, f"{name} is a number of {both}; {hint}")
        if owners and pieces[owners[0]] is not last:
            pieces[owners[0]].told[name] = last.told.pop(name)


def _bound(text: str, part: Part, piece: _Piece) -> Bound:
    for name, value in piece.told.items():
        if name not in part.numbers:
            known = f"it takes {', '.join(part.numbers)}" if part.numbers else "it takes none"
            raise _error(text, piece.letter, f"{part.name} has no number {name}; {known}")
        low, high = part.numbers[name][1:]
        if not low <= value <= high:
            raise _error(text, piece.letter, f"{name} must lie between {low:g} and {high:g}, found {value:g}")
    numbers = {name: float(piece.told.get(name, number.default)) for name, number in part.numbers.items()}
    if fault := part.fault(**numbers):
        raise _error(text, piece.letter, fault)
    return Bound(part, numbers)


def _written(numbers: Mapping[str, float]) -> str:
    """Numbers in parentheses, exactly; nothing when there are none."""
    text = ", ".join(f"{name}={repr(value).removesuffix('.0')}" for name, value in numbers.items())
    return f"({text})" if text else ""


def _unknown(rest: str, parts: Mapping[str, Part]) -> str:
    """What to say of a text that begins with no name."""
    known = {name.lower(): name for name in parts}
    whole = rest.partition("(")[0]
    word = whole.partition("-")[0]
    if not word:
        return f"a name is missing; there are {', '.join(known.values())}"
    near = [
        known[match]
        for wrong, cutoff in ((whole, 0.8), (word, 0.6))
        for match in difflib.get_close_matches(wrong.lower(), known, n=1, cutoff=cutoff)
    ]
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known.values())}"
    return f"unknown name {_shown(word)}; {hint}"


def _error(text: str, letter: int, fault: str) -> ValueError:
    return ValueError(f"{_shown(text)}, letter {letter}: {fault}")


def _shown(text: str) -> str:
    """A text in quotes, on one line."""
    return repr(text if len(text) <= 100 else f"{text[:99]}…")
