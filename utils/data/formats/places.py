"""Where the pictures of an annotation file lie, and where the annotation of a picture lies."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.data.formats.labelstudio import original_name
from utils.data.images import IMAGE_SUFFIXES

MOST_FOLDERS = 2000  # that are looked into for pictures
DEPTH = 2  # of folders below the one of the file, and below that one's parent
SAMPLE = 30  # pictures that decide for all
LONGEST = 6  # last parts of a path that may be of use here


def find_pictures(file: Path, names: Sequence[str]) -> tuple[list[str], str]:
    """The paths of pictures that an annotation file names, and the folder that they were found in.

    The folder is the one of the file, its parent, or one below these: the first that has all pictures of a
    sample, else the one with the most. A name may be a path of another machine, of which the last parts are
    tried, or lack its suffix. What is not there gets the path that it would have.
    """
    sample = [*names[:: max(1, len(names) // SAMPLE)]][:SAMPLE]
    best, most = file.parent, 0
    for folder in _folders(file):
        hits = sum(_find(str(folder), name) is not None for name in sample)
        if hits > most:
            best, most = folder, hits
        if hits == len(sample):
            break
    _listing.cache_clear()
    root = str(best)
    found = [_find(root, name) or os.path.normpath(os.path.join(root, name)) for name in names]  # noqa: PTH118
    _listing.cache_clear()
    return found, root


def _folders(file: Path) -> Iterator[Path]:
    """The folders in which pictures may lie, nearest first."""
    start, seen = file.parent, 0
    up = 3 if "ImageSets" in file.parts else 1
    for base in (start, *[parent for parent in start.absolute().parents[:up] if parent.name]):
        level = [base]
        for depth in range(DEPTH + 1):
            yield from level
            seen += len(level)
            if depth == DEPTH or seen > MOST_FOLDERS:
                break
            level = [inner for folder in level for inner in _inside(folder)][:MOST_FOLDERS]


def _inside(folder: Path) -> list[Path]:
    try:
        entries = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    except OSError:
        return []
    return [path for path in map(Path, entries) if not path.name.startswith(".")]


def _find(root: str, name: str) -> str | None:
    """The path of a picture below a folder, by the longest end of its name that is there."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") and os.path.isfile(name):  # noqa: PTH113
        return name
    ends = ["/".join(parts[start:]) for start in range(max(0, len(parts) - LONGEST), len(parts))]
    for end in (*ends, original_name(ends[-1]) if ends else ""):
        if os.path.splitext(end)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122
            path = os.path.normpath(os.path.join(root, end))  # noqa: PTH118
            if os.path.isfile(path):  # noqa: PTH113
                return path
        elif end:
            folder, _, stem = end.rpartition("/")
            listed = _listing(os.path.join(root, folder)).get(stem)  # noqa: PTH118
            if listed:
                return listed
    return None


@functools.lru_cache(maxsize=MOST_FOLDERS)
def _listing(folder: str) -> dict[str, str]:
    """The pictures of a folder by their names without suffix."""
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208
    except (OSError, ValueError):
        return {}
    split = ((name, *os.path.splitext(name)) for name in names)  # noqa: PTH122
    return {
        stem: os.path.normpath(os.path.join(folder, name))  # noqa: PTH118
        for name, stem, suffix in split
        if suffix.lower() in IMAGE_SUFFIXES
    }


# ---- one annotation a picture ----

# of a picture's path: the folder that is replaced, what it becomes, and whether folders below it go
Rule = tuple[str, str, bool]
BESIDE: Rule = ("", "", False)
RULES: dict[str, tuple[Rule, ...]] = {
    ".xml": (
        *((folder, "Annotations", flat) for folder in ("JPEGImages", "images") for flat in (False, True)),
        *(
            ("images", folder, flat)
            for folder in ("annotations", "annotations/xmls", "labels")
            for flat in (False, True)
        ),
        BESIDE,
    ),
    ".json": (
        *(("images", folder, flat) for folder in ("annotations", "labels", "json") for flat in (False, True)),
        BESIDE,
    ),
}


def annotation_path(image: str, suffix: str, rule: Rule) -> str:
    """Where the annotation of a picture lies by a rule; empty when the rule says nothing about it."""
    replaced, becomes, flat = rule
    path = image.replace("\\", "/")
    if replaced:
        before, found, after = f"/{path}".rpartition(f"/{replaced}/")
        if not found:
            return ""
        path = f"{before}/{becomes}/{after.rpartition('/')[2] if flat else after}"[1:]
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}{suffix}"
