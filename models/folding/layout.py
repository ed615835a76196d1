"""In which order the channels of a tensor lie in memory, while that is still open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class _Wish:
    """Rows that lie next to each other; in just this order when `exact`."""

    rows: tuple[int, ...]
    exact: bool

    def holds(self, order: Sequence[int]) -> bool:
        place = inverse(order)
        positions = [place[row] for row in self.rows]
        return is_run(positions if self.exact else sorted(positions))


class Layout:
    """The order of the rows (output channels) of one tensor, and what consumers need of it.

    A convolution can write its channels in any order; what reads them as a whole, in a slice, or beside
    another tensor may need a certain one. Consumers say so with `require`, in turn; a wish that is granted
    holds for good.

    Attributes:
        order: the row at each place in memory.
    """

    def __init__(self, size: int) -> None:
        self.order = list(range(size))
        self._wishes: list[_Wish] = []
        self._frozen = False

    def freeze(self) -> None:
        """Keep the order as it is from now on."""
        self._frozen = True

    def require(self, rows: Sequence[int], exact: bool) -> bool:
        """Make `rows` neighbours, in that order when `exact`; False when earlier wishes forbid it."""
        wish = _Wish(tuple(rows), exact)
        if not wish.holds(self.order):
            order = self._moved(wish)
            if self._frozen or not all(earlier.holds(order) for earlier in self._wishes):
                return False
            self.order = order
        self._wishes.append(wish)
        return True

    def _moved(self, wish: _Wish) -> list[int]:
        """The order with the wished rows brought together at the place of the first of them."""
        wanted = set(wish.rows)
        together = list(wish.rows) if wish.exact else [row for row in self.order if row in wanted]
        start = next(place for place, row in enumerate(self.order) if row in wanted)
        after = [row for row in self.order[start:] if row not in wanted]
        return self.order[:start] + together + after


def inverse(order: Sequence[int]) -> list[int]:
    """The place of each row, from the row at each place."""
    return sorted(range(len(order)), key=order.__getitem__)


def is_run(places: Sequence[int]) -> bool:
    """Whether numbers count up by one."""
    return all(place == places[0] + offset for offset, place in enumerate(places))
