"""Darknet's `obj.data`: where lists of pictures and class names are; labels are YOLO text.

A label lies beside its picture, or in `labels` for a picture in `images`. Paths are relative to wherever
Darknet was started: the working directory, the folder of the file and its parents are tried. CVAT's "YOLO
1.1" writes them as seen from a folder `data` that its zip has not; without it they lie beside the file.
"""

from __future__ import annotations

from pathlib import Path

from utils.console import LOGGER
from utils.data.whereabouts import cut_off
from utils.errors import UserError
from utils.files import expand
from utils.reading import read_lines

KIND = "Darknet obj.data"
SPLITS = {"train": ("train",), "val": ("valid", "val"), "test": ("test",)}
MOST_UP = 3  # folders above the file that paths may be relative to


def settings(file: Path) -> dict[str, str]:
    """The keys and values of the file.

    Raises:
        UserError: it has other lines.
    """
    found = {}
    for line in read_lines(file):
        key, equals, value = line.partition("=")
        if not equals:
            raise UserError(f"{file}: expected lines like 'train = data/train.txt', found {line[:60]!r}")
        found[key.strip().lower()] = value.strip()
    return found


def names(file: Path) -> list[str]:
    """The class names in their order.

    Raises:
        UserError: they are not there.
    """
    listed = settings(file).get("names")
    place = _find(file, "names", listed) if listed else None
    if place is None:
        raise UserError(
            f"{file}: 'names' must be a file with a class name a line, found {listed or 'nothing'}"
        )
    return read_lines(place)


def list_of(file: Path, split: str) -> Path | None:
    """The list of pictures of a split; None when the file has none.

    Raises:
        UserError: it is not there.
    """
    content = settings(file)
    listed = next((content[key] for key in SPLITS[split] if content.get(key)), None)
    if listed is None:
        return None
    place = _find(file, split, listed)
    if place is None:
        raise UserError(f"{file}: {split}: no such file: '{listed}'")
    return place


def _find(file: Path, key: str, name: str) -> Path | None:
    wanted = expand(name.replace("\\", "/"))
    bases = (Path(), *file.absolute().parents[:MOST_UP])
    there = next((base / wanted for base in bases if (base / wanted).exists()), None)
    if there is not None or (found := cut_off(name, file.parent)) is None:
        return there
    LOGGER.info("%s: %s: '%s' is not there as written; took %s (%s)", file, key, name, *found)
    return found[0]
