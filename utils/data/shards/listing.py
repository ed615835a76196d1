"""`train-000000.index.json` beside `train-000000.tar`: what is in a shard, so that no start has to read it.

`dataset.py shard` writes it; a shard of another hand has none, and is read once. It is as little trusted as
the shard: every value is checked, and the last header in the tar has to agree. A picture is still read from
the tar, and has to have the size that was listed. On a disk it must not be older than the tar, whose labels
may have been mended since; behind an address nobody can tell.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from utils.data.images import MOST_BYTES, most_pixels
from utils.data.packing import SMALLEST_SIDE, Shape
from utils.data.shards.places import SUFFIX, is_remote
from utils.data.shards.ranges import Missing, read_range, state_of
from utils.data.shards.tar import BLOCK, read_members
from utils.errors import UserError

END = ".index.json"
VERSION = 1
MOST_LISTING = 256 << 20  # bytes


class Row(NamedTuple):
    """A sample: the file name of its picture, where that is in the tar, and its labels as YOLO text."""

    name: str
    offset: int
    size: int
    height: int
    width: int
    text: str

    @property
    def shape(self) -> Shape:
        return self.height, self.width


@dataclass(frozen=True)
class Listing:
    """What is in a shard of `size` bytes, in its order."""

    size: int
    rows: Sequence[Row]

    def to_bytes(self) -> bytes:
        content = {"version": VERSION, "size": self.size, "samples": self.rows}
        return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()


def listing_address(shard: str) -> str:
    """Where the listing of a shard is."""
    path, mark, query = shard.partition("?")
    return f"{path[: -len(SUFFIX)]}{END}{mark}{query}"


def read_listing(shard: str, size: int) -> Listing | str:
    """The listing of a shard of `size` bytes; else why it is not used, "" when there is none.

    Raises:
        UserError: its server does not answer as it should.
    """
    address = listing_address(shard)
    try:
        length, stamp = state_of(address)
        if not is_remote(shard) and int(stamp) < int(state_of(shard).stamp):
            return "older than the shard, which is read instead; remove it, or `touch` it if it is right"
        if length > MOST_LISTING:
            return f"it has {length:,} bytes, at most {MOST_LISTING:,} are read"
        content = json.loads(read_range(address, 0, length))
        rows = [_row(values, size) for values in content["samples"]]
    except Missing:
        return ""
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        return f"damaged: {' '.join(str(error).split())[:100] or type(error).__name__}"
    if content.get("version") != VERSION or content.get("size") != size:
        return "of another version or another shard"
    return Listing(size, rows) if not rows or _agrees(shard, rows[-1], size) else "of another shard"


def _row(values: Any, size: int) -> Row:
    """One row, every value checked.

    Raises:
        ValueError, TypeError: it is none.
    """
    name, *numbers, text = values
    offset, length, height, width = numbers
    row = Row(name, offset, length, height, width, text)
    if not isinstance(name, str) or not isinstance(text, str) or any(type(n) is not int for n in numbers):
        raise ValueError("a value of another type")
    if not name or any(mark in name for mark in "/\\@\0") or not name.isprintable():
        raise ValueError("a name that is none")
    if not (BLOCK <= row.offset <= row.offset + row.size <= size and 0 < row.size <= MOST_BYTES):
        raise ValueError("a place outside the shard")
    if min(row.shape) < SMALLEST_SIDE or row.height * row.width > most_pixels():
        raise ValueError("a picture of another size than is read")
    return row


def _agrees(shard: str, row: Row, size: int) -> bool:
    """Whether the header before a picture is one, of the same length."""
    start = row.offset - BLOCK
    header = read_range(shard, start, BLOCK) + bytes(2 * BLOCK)
    try:
        found = next(read_members(lambda at, n: header[at : at + n], size - start, shard), None)
    except UserError:
        return False
    return found is not None and found.size == row.size
