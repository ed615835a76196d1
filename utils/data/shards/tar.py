"""The members of a tar and the samples that they form, found without unpacking anything.

A header is parsed by Python's tarfile; the walk from one to the next is our own, since tarfile takes a
damaged header in the middle for the end, and believes sizes. Samples follow webdataset's rule: neighbours of
the same name up to the first dot.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from utils.console import printable
from utils.data.images import IMAGE_SUFFIXES
from utils.errors import UserError

BLOCK = 512  # bytes of a header; what follows is filled up to a multiple
MOST_HEADER = 1 << 16  # bytes of a long name
AGAIN = "copy or make it again, or take it out of the data yaml"
LONGEST_NAME = 255  # bytes that file systems take for one
REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
WITHOUT_DATA = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE),
    *(tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE),
)
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7z": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
LABELS = ("txt", "json")  # what tells of a picture, the first that is there
# as webdataset.tariterators.base_plus_ext
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_RECORD = re.compile(rb"(\d{1,7}) ([^=]{1,200})=")

Read: TypeAlias = Callable[[int, int], bytes]  # offset, number of bytes


class Member(NamedTuple):
    """A file in a tar."""

    name: str
    offset: int
    size: int  # bytes


@dataclass
class Sample:
    """A picture and what belongs to it."""

    key: str
    picture: Member | None = None
    label: Member | None = None
    others: list[Member] = field(
        default_factory=list
    )  # pictures beyond the first, or with dots in their names

    @property
    def name(self) -> str:
        """What the picture is called: without folders, which mean nothing here, and in plain characters."""
        name = (self.picture or self.others[0]).name.replace("\\", "/").rpartition("/")[2]
        return printable(name).replace("@", "_")


def read_members(read: Read, size: int, place: str) -> Iterator[Member]:
    """The regular files of a tar in their order.

    Args:
        read: gives bytes of the tar.
        size: of the tar in bytes; whatever a header claims stays inside.
        place: the tar, as messages name it.

    Raises:
        UserError: not a tar, damaged, cut off, or with sparse files.
    """
    at = 0
    longer: dict[str, str] = {}  # what a header before the member's own says of it
    while True:
        if at + BLOCK > size:
            raise UserError(
                f"{place}: {_no_tar(b'') if not size else f'cut off: it has no end mark; {AGAIN}'}"
            )
        block = read(at, BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except (tarfile.HeaderError, ValueError) as error:
            if not block.strip(b"\0"):
                return
            damage = f"damaged at byte {at:,}: no header of a file; {AGAIN}"
            raise UserError(f"{place}: {damage if at else _no_tar(block)}") from error
        at += BLOCK
        name = longer.get("path", header.name)
        length = 0 if header.type in WITHOUT_DATA else header.size
        if header.type in REGULAR:
            length = int(longer.get("size", length))
        if not 0 <= length <= size - at:
            raise UserError(
                f"{place}: damaged: '{_shown(name)}' would have {length:,} bytes, more than the tar; {AGAIN}"
            )
        if header.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            if length > MOST_HEADER:
                raise UserError(
                    f"{place}: a header of {length:,} bytes at byte {at:,}, at most {MOST_HEADER:,}"
                )
            longer |= _of_header(header.type, read(at, length), place)
        elif header.type in REGULAR:
            yield Member(name, at, length)
            longer = {}
        elif header.type == tarfile.GNUTYPE_SPARSE:
            raise UserError(f"{place}: '{_shown(name)}' is stored as a sparse file, which is not read")
        elif header.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            longer = {}
        at += -(-length // BLOCK) * BLOCK


def _of_header(kind: bytes, content: bytes, place: str) -> dict[str, str]:
    """What a header of its own says of the next member: its name, its size."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": content.partition(b"\0")[0].decode("utf-8", "surrogateescape")}
    found, at = {}, 0
    while (record := _RECORD.match(content, at)) is not None:
        end = at + int(record[1])
        if not record.end() <= end <= len(content):
            break
        key, value = record[2].decode("utf-8", "replace"), content[record.end() : end - 1]
        if key.startswith("GNU.sparse"):
            raise UserError(f"{place}: it has sparse files, which are not read")
        if key == "size" and not (value.isdigit() and len(value) < 16):
            raise UserError(f"{place}: damaged: a size of {printable(repr(value[:20]))}")
        if key in ("path", "size"):
            found[key] = value.decode("utf-8", "surrogateescape")
        at = end
    return found


def _no_tar(block: bytes) -> str:
    kind = next((kind for start, kind in COMPRESSED.items() if block.startswith(start)), "")
    if kind:
        return f"compressed with {kind}; pictures are read from the middle, so unpack it to a plain .tar"
    return f"{'not a tar' if block else 'not a tar: it is empty'}; {AGAIN}"


def _shown(name: str) -> str:
    return printable(name)[:80]


def read_samples(members: Iterator[Member]) -> Iterator[Sample]:
    """Neighbours with the same name up to the first dot; others are passed over."""
    sample: Sample | None = None
    for member in members:
        found = _KEY.fullmatch(member.name)
        if found is None or len(member.name.encode("utf-8", "replace").rpartition(b"/")[2]) > LONGEST_NAME:
            continue
        key, extension = found[1], found[2].lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = Sample(key)
        if f".{extension}" in IMAGE_SUFFIXES and sample.picture is None:
            sample.picture = member
        elif f".{extension.rpartition('.')[2]}" in IMAGE_SUFFIXES:
            sample.others.append(member)
        elif extension in LABELS and (sample.label is None or extension == LABELS[0]):
            sample.label = member
    if sample is not None:
        yield sample
