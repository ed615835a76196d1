"""In which order the channels of a tensor lie in memory, while that is still open."""

from __future__ import annotations

from collections.abc import Sequence


class Layout:
    """The order of the rows (output channels) of one tensor, and what consumers need of it.

    A convolution can write its channels in any order; what reads them as a whole, in a slice, or beside
    another tensor may need a certain one. Consumers say so with `require`, in turn; a requirement that is met
    holds for good.

    Attributes:
        order: the row at each place in memory.
    """

    def __init__(self, size: int, frozen: bool = False) -> None:
        self.order = list(range(size))
        self._met: list[tuple[Sequence[int], bool]] = []
        self._frozen = frozen

    def __len__(self) -> int:
        return len(self.order)

    def positions(self) -> list[int]:
        """Where each row lies in memory."""
        return inverse(self.order)

    def freeze(self) -> None:
        """Keep the order as it is from now on."""
        self._frozen = True

    def require(self, rows: Sequence[int], exact: bool) -> bool:
        """Make `rows` neighbours, in that order when `exact`; False when earlier requirements forbid it."""
        if not are_neighbours(self.order, rows, exact):
            order = self._moved(rows, exact)
            if self._frozen or not all(are_neighbours(order, *earlier) for earlier in self._met):
                return False
            self.order = order
        self._met.append((tuple(rows), exact))
        return True

    def _moved(self, rows: Sequence[int], exact: bool) -> list[int]:
        """The order with these rows brought together at the place of the first of them."""
        wanted = set(rows)
        together = list(rows) if exact else [row for row in self.order if row in wanted]
        start = next(place for place, row in enumerate(self.order) if row in wanted)
        after = [row for row in self.order[start:] if row not in wanted]
        return [*self.order[:start], *together, *after]


def are_neighbours(order: Sequence[int], rows: Sequence[int], exact: bool) -> bool:
    """Whether rows lie next to each other when all lie in this order; in their own order when `exact`."""
    place = inverse(order)
    positions = [place[row] for row in rows]
    if not exact:
        positions.sort()
    return positions == list(range(positions[0], positions[0] + len(positions)))


def inverse(order: Sequence[int]) -> list[int]:
    """The place of each row, from the row at each place."""
    return sorted(range(len(order)), key=order.__getitem__)
