"""Which convolutions had better write slices of their output as tensors of their own."""

from __future__ import annotations

from collections.abc import Sequence

from models.folding.convolution import Dense
from models.folding.fold import Folding
from models.folding.rules import ELEMENTWISE
from models.folding.sources import Mapped, Part, Source

MOST_PIECES = 3  # that a convolution is cut into


def slices_wanted(folding: Folding) -> dict[int, list[tuple[int, ...]]]:
    """For dense convolutions, by number, the pieces of their rows that consumers of a first walk read apart.

    A slice copies, and makes a runtime leave its own memory layout. Where nothing needs the whole output as
    one tensor, the convolution writes the pieces apart instead: `(W x)[rows] = W[rows] x`.
    """
    apart: dict[Dense, list[tuple[int, ...]]] = {}
    whole: set[Dense] = set()
    for source in folding.needed:
        if isinstance(source, Mapped) and isinstance(source.layer, ELEMENTWISE):
            continue  # goes with what it activates
        # what joins nothing reads all of its inputs
        for part in getattr(source, "parts", None) or [Part.all(read) for read in source.inputs]:
            root = _written_by(part.source)
            if root is None:
                continue
            if not part.whole:
                apart.setdefault(root, []).append(part.rows)
            elif not isinstance(source, Dense):
                whole.add(root)
    return {
        root.number: pieces
        for root, parts in apart.items()
        if root.number >= 0 and root not in whole and len(pieces := _pieces(root.rows, parts)) <= MOST_PIECES
    }


def _written_by(source: Source) -> Dense | None:
    """The dense convolution that a source is, or activates."""
    while isinstance(source, Mapped) and isinstance(source.layer, ELEMENTWISE):
        source = source.inputs[0]
    return source if isinstance(source, Dense) else None


def _pieces(rows: int, slices: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The rows in sets of those that are in the same slices."""
    wanted = [set(piece) for piece in slices]
    pieces: dict[tuple[bool, ...], list[int]] = {}
    for row in range(rows):
        pieces.setdefault(tuple(row in piece for piece in wanted), []).append(row)
    return [tuple(piece) for piece in pieces.values()]
