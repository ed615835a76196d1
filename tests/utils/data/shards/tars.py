"""Tar files made by hand, sound ones and others."""

from __future__ import annotations

import contextlib
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np

from utils.data.images import ImageError, read_image
from utils.data.index import build_index
from utils.data.shards.listing import END
from utils.data.shards.places import open_shards

ROW = b"0 0.5 0.5 0.2 0.2\n"


def picture(width: int = 40, height: int = 30, suffix: str = ".jpg") -> bytes:
    good, content = cv2.imencode(suffix, np.full((height, width, 3), 128, np.uint8))
    assert good
    return content.tobytes()


def tar_of(members: Mapping[str, bytes] | list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar with these files in it, names as they are."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form, encoding="utf-8") as tar:
        for name, content in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_of(members))
    return path


def header(name: str, size: int | bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """The 512 bytes before a file, with any size written into it and a sum that is right."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT, "utf-8")[:512])
    block[124:136] = size if isinstance(size, bytes) else f"{size:011o}\0".encode()
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


def listed(read_from: bytes) -> list[str]:
    """What Python's own reader finds."""
    with tarfile.open(fileobj=io.BytesIO(read_from), encoding="utf-8") as tar:
        return [member.name for member in tar if member.isreg()]


def read_shard(path: Path) -> None:
    """Scan a shard and read its pictures; what cannot be read is a UserError."""
    index = build_index([open_shards(str(path), Path())], {0: "a"}, cache=False)
    for place in index.paths():
        with contextlib.suppress(ImageError):
            read_image(place)


def read_listed_shard(path: Path) -> None:
    """The same by way of its listing: whatever that says, it is the picture that is there, or nothing."""
    shard = path.with_name(path.name.replace(END, ".tar"))
    index = build_index([open_shards(str(shard), Path())], {0: "a"}, cache=False)
    for number, place in enumerate(index.paths()):
        with contextlib.suppress(ImageError):
            assert read_image(place).shape == (30, 40, 3) and index.shape(number)
