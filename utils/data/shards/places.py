"""How tar shards are named in a data yaml, and how a picture in one is addressed.

A picture in a shard has a path as any other: `train-000000.tar@512+20480/000012.jpg` is the name, and at the
same time says where the bytes are. So it depends on nothing but its path, as a file does.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from utils.errors import UserError
from utils.files import expand
from utils.optional import require

SUFFIX = ".tar"
MOST_SHARDS = 100_000  # that one pattern may stand for
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # one letter would be a drive of Windows
_MEMBER = re.compile(r"(.+\.tar(?:\?.*)?)@(\d{1,18})\+(\d{1,12})/[^/]+", re.DOTALL | re.IGNORECASE)
_RANGE = re.compile(r"\{(\d{1,12})\.\.(\d{1,12})(?:\.\.\d{1,12})?\}")
PACKAGE = "webdataset"  # brings braceexpand


@dataclass(frozen=True)
class Shards:
    """A source of a split: tar files in their order. Stands where the `Path` of a folder could."""

    written: str
    addresses: tuple[str, ...]  # paths or URLs

    def __str__(self) -> str:
        return self.written

    @property
    def suffix(self) -> str:
        return SUFFIX

    @property
    def local(self) -> Path | None:
        """The folder of the first shard, where it lies on disk."""
        return None if is_remote(self.addresses[0]) else Path(self.addresses[0]).parent

    def exists(self) -> bool:
        """Whether any may be there: what is behind an address is found out when it is read."""
        return any(is_remote(address) or os.path.exists(address) for address in self.addresses)  # noqa: PTH110

    def is_dir(self) -> bool:
        return False

    def is_file(self) -> bool:
        return False


Place: TypeAlias = Path | Shards


def is_remote(address: str) -> bool:
    """Whether something is behind an address (`https://`, `s3://`, …) and not on a disk."""
    return bool(_REMOTE.match(address))


def are_shards(source: str) -> bool:
    """Whether the entry of a data yaml names tar files."""
    return source.split("?")[0].lower().endswith(SUFFIX)


def open_shards(source: str, base: Path) -> Shards:
    """The shards that an entry of a data yaml stands for: `a-{000000..000012}.tar`, on disk also with `*`.

    Args:
        base: what a relative path refers to.

    Raises:
        UserError: more than anybody has, or a `*` in an address.
    """
    places = expand_braces(source)
    if is_remote(source):
        if "*" in source:
            raise UserError(f"'{source}': servers do not list files; write {{000000..000012}} in place of *")
        return Shards(source, places)
    paths = [str(base / expand(place)) for place in places]
    found = [name for path in paths for name in (sorted(glob.glob(path)) if "*" in path else [path])]  # noqa: PTH207
    return Shards(str(base / expand(source)), tuple(found or paths))


def expand_braces(pattern: str) -> tuple[str, ...]:
    """All names of a pattern as shells and webdataset expand it.

    Raises:
        UserError: unbalanced braces, or too many names.
    """
    if "{" not in pattern:
        return (pattern,)
    count = 1
    for first, last in _RANGE.findall(pattern):
        count *= abs(int(last) - int(first)) + 1
    if count * (pattern.count(",") + 1) > MOST_SHARDS:
        raise UserError(f"'{pattern}': more than {MOST_SHARDS:,} shards")
    braceexpand = require("braceexpand", PACKAGE)
    try:
        return tuple(braceexpand.braceexpand(pattern))
    except braceexpand.UnbalancedBracesError as error:
        raise UserError(f"'{pattern}': a brace is missing") from error


def parted(sources: Sequence[Place]) -> tuple[list[Path], list[Shards]]:
    """The sources that are files and folders, and those that are shards."""
    files = [source for source in sources if isinstance(source, Path)]
    return files, [source for source in sources if isinstance(source, Shards)]


def member_path(address: str, offset: int, size: int, name: str) -> str:
    """The path of a picture in a shard; `name` has no folder."""
    return f"{address}@{offset}+{size}/{name}"


def of_member(path: str) -> tuple[str, int, int] | None:
    """Shard, offset and size of such a path; None for any other."""
    found = _MEMBER.fullmatch(path) if "@" in path else None
    return None if found is None else (found[1], int(found[2]), int(found[3]))
