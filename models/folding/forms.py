"""Which of several equal forms a place of a folded network takes.

All forms of a place are equal by algebra; which of them is fastest hangs on the runtime, the CPU and the size
of the map. `Folding.choose` asks a `Chooser` wherever there is a choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

KINDS = {
    "groups": "a convolution in so many groups; fewer are wider, with zeros in the weights",
    "depthwise": "a depthwise convolution, or a dense one with zeros in the weights",
    "sum": "one convolution of what lies side by side, or a sum of one for each",
    "slices": "a convolution that writes its slices as tensors of their own, or one that is cut",
    "upsample": "a 1x1 convolution before the map is enlarged, or after it",
    "pools": "poolings one after the other, or one of a wider window beside it",
    "entries": "convolutions of one map apart, or one for all whose output is cut",
    "partial": "a convolution of some channels beside the others, or one of all with identity rows",
}
_TEXT = re.compile(r"(\w+) (\d+)>(\d+) k(\d+)x(\d+)/(\d+) n(\d+) @(\d+)x(\d+)")


@dataclass(frozen=True)
class Site:
    """A place with a choice, by what it is and not by where it is: equal places take equal forms.

    Attributes:
        kind: one of `KINDS`.
        inputs, outputs: channels read and written.
        kernel: (height, width).
        stride: of the convolution or pooling.
        pieces: groups of the convolution, terms of the sum, slices, or convolutions of one map.
        side: (height, width) of the map that is read.
    """

    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: int
    pieces: int
    side: tuple[int, int]

    def __str__(self) -> str:
        size = f"k{self.kernel[0]}x{self.kernel[1]}/{self.stride}"
        return (
            f"{self.kind} {self.inputs}>{self.outputs} {size} n{self.pieces} @{self.side[0]}x{self.side[1]}"
        )

    @classmethod
    def parse(cls, text: str) -> Site:
        """The site that `str` wrote.

        Raises:
            ValueError: another text.
        """
        found = _TEXT.fullmatch(text)
        if found is None or found[1] not in KINDS:
            raise ValueError(f"'{text[:60]}' names no place of a folded network")
        inputs, outputs, height, width, stride, pieces, *side = map(int, found.groups()[1:])
        return cls(found[1], inputs, outputs, (height, width), stride, pieces, (side[0], side[1]))


# given a site and the names of its forms, one of these; the first is that of the rule
Chooser: TypeAlias = Callable[[Site, Sequence[str]], str]


def by_rule(site: Site, forms: Sequence[str]) -> str:
    """The form that is best on most machines, as far as is known without measuring."""
    return forms[0]


def as_measured(found: Mapping[Site, str], otherwise: Chooser = by_rule) -> Chooser:
    """The forms that were found; a site that is unknown, or has no such form, is as `otherwise` says."""

    def choose(site: Site, forms: Sequence[str]) -> str:
        return form if (form := found.get(site)) in forms else otherwise(site, forms)  # type: ignore[return-value]

    return choose
