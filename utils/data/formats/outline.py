"""What a large file of annotations says without its boxes: its format, pictures and classes.

Kept beside the folder of the file, so that a start whose index of labels is kept too need not read the file.
A data set can come with such an outline, made by anyone: it is believed as far as the file itself would be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from utils.data import label_cache
from utils.data.folders import is_writable
from utils.data.formats.record import Annotations, Broken, file_name

LARGE = 1 << 20  # bytes of a file; smaller ones are read as fast as an outline


@dataclass(frozen=True)
class Outline:
    """Names of pictures as the file has them; `ordered`: whether the format gives classes an order."""

    kind: str
    pictures: list[str]
    classes: list[str]
    ordered: bool

    @classmethod
    def of(cls, kind: str, found: Annotations) -> Outline:
        return cls(kind, [picture.path for picture in found.pictures], found.names, found.ordered)


def keep(path: Path, stamp: str, outline: Outline) -> None:
    """Keep the outline of a large file; `stamp`: size and time of the files that it was made from."""
    if path.stat().st_size < LARGE or not is_writable(_place(path).parent):
        return
    text = json.dumps(astuple(outline)).encode()
    label_cache.save(
        _place(path), f"{label_cache.VERSION} {stamp}", {"text": np.frombuffer(text, np.uint8)}, []
    )


def known(path: Path, stamp: str, kinds: Sequence[str]) -> Outline | None:
    """The outline of a file; None when there is none, or the file is another one since."""
    if path.stat().st_size < LARGE:
        return None
    found = label_cache.load(_place(path), f"{label_cache.VERSION} {stamp}", ["text"])
    if found is None:
        return None
    try:
        kind, pictures, classes, ordered = json.loads(found[0]["text"].tobytes())
        sound = kind in kinds and isinstance(ordered, bool) and all(isinstance(c, str) for c in classes)
        return Outline(kind, [*map(file_name, pictures)], [*classes], ordered) if sound else None
    except (ValueError, TypeError, RecursionError, Broken):
        return None


def _place(path: Path) -> Path:
    return label_cache.cache_file([path, Path("pictures")], str(path))
