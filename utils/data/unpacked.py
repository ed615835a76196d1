"""The data set that a folder holds, as zips unpack to it: its yaml, its splits, or where the yaml lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from shlex import quote

from utils.data.formats import darknet
from utils.data.images import IMAGE_SUFFIXES
from utils.data.whereabouts import VALIDATION
from utils.errors import UserError
from utils.reading import read_yaml

YAMLS = ("data.yaml", "data.yml", "dataset.yaml", "obj.data")  # in a folder that stands for a data set
OF_SYSTEMS = "__MACOSX"  # beside what was packed on a Mac
DEEPEST = 4  # folders in folders that are looked into
MOST_UP = 3  # folders above
MOST_ENTRIES, MOST_A_FOLDER = 5000, 500  # that are looked at for a yaml that lies deeper
MOST_OPENED = 20  # yamls of other names, to see what they are
SHOWN = 3  # in a message


def find_yaml(folder: Path) -> Path | None:
    """The data yaml of a folder, also in the one folder in it, and so on, as unpacked zips have it."""
    places = (place / name for place in _one_in_another(folder) for name in YAMLS)
    return next((place for place in places if place.is_file() and _leads_somewhere(place)), None)


def _leads_somewhere(file: Path) -> bool:
    """Whether it is a yaml, or an `obj.data` whose list of pictures is there: one that was left behind counts
    for nothing."""
    if file.suffix != ".data":
        return True
    try:
        return darknet.list_of(file, "train") is not None
    except (UserError, OSError):
        return False


def folders_of_splits(folder: Path) -> dict[str, str]:
    """Folders that are called like splits, by split, also in `images` or in the one folder in it, and so on;
    empty without one for training."""
    called = {"train": ("train",), "val": VALIDATION, "test": ("test",)}
    for place in (folder, folder / "images", *islice(_one_in_another(folder), 1, None)):
        found = {
            split: str((place / name).absolute())
            for split, names in called.items()
            for name in reversed(names)
            if (place / name).is_dir()
        }
        if "train" in found:
            return found
    return {}


def yaml_elsewhere(folder: Path) -> str:
    """What to say of a folder that is a part of a data set, or has one somewhere in it; empty for others."""
    if (above := _above(folder)) is not None:
        return f"its yaml is above it; name that: --data {quote(str(above))}"
    below = [quote(str(file)) for file in islice(_below(folder), SHOWN)]
    if len(below) > 1:
        return f"yamls lie deeper; name one of them: --data {' or '.join(below)}"
    return f"a yaml lies deeper; name that: --data {below[0]}" if below else ""


def _inner(folder: Path) -> list[Path]:
    """The folders in a folder but hidden ones."""
    entries = (entry for entry in sorted(folder.iterdir()) if entry.name != OF_SYSTEMS)
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _one_in_another(folder: Path) -> Iterator[Path]:
    """The folder, the one folder in it, the one in that, …, as long as there is only one and no picture."""
    yield folder
    for _ in range(DEEPEST):
        inner = _inner(folder)
        if len(inner) != 1 or any(entry.suffix.lower() in IMAGE_SUFFIXES for entry in folder.iterdir()):
            return
        folder = inner[0]
        yield folder


def _above(folder: Path) -> Path | None:
    """The nearest data yaml of a folder above, relative where the folder was given so."""
    for parent in folder.absolute().parents[:MOST_UP]:
        for name in YAMLS:
            if (parent / name).is_file():
                return parent / name if folder.is_absolute() else Path(os.path.relpath(parent / name))
    return None


def _below(folder: Path) -> Iterator[Path]:
    """Files that describe data sets in the folder and below it, the nearest first."""
    level, seen, opened = [str(folder)], 0, 0
    for _ in range(DEEPEST + 1):
        inner: list[str] = []
        for place in level:
            try:
                with os.scandir(place) as listed:
                    some = [*islice(listed, min(MOST_A_FOLDER, MOST_ENTRIES - seen))]
            except OSError:
                continue
            seen += len(some)
            for entry in sorted(some, key=lambda entry: entry.name):
                if entry.is_dir(follow_symlinks=False):
                    inner += [] if entry.name.startswith((".", OF_SYSTEMS)) else [entry.path]
                elif entry.name in YAMLS:
                    yield Path(entry.path)
                elif entry.name.endswith((".yaml", ".yml")) and opened < MOST_OPENED:
                    opened += 1
                    if _describes(Path(entry.path)):
                        yield Path(entry.path)
        level = inner


def _describes(file: Path) -> bool:
    """Whether a yaml of another name is that of a data set."""
    try:
        content = read_yaml(file)
    except (UserError, OSError):
        return False
    return isinstance(content, dict) and "train" in content
