"""Where the pictures of an annotation file lie, and where the annotation of a picture lies."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from utils.data.formats.labelstudio import original_name
from utils.data.images import IMAGE_SUFFIXES

MOST_FOLDERS = 2000  # that are looked into for pictures
DEPTH = 2  # of folders below the one of the file, and below that one's parent
SAMPLE = 30  # pictures that decide for all
SPLITS = ("train", "val", "test")  # of which a folder may have a longer name
LONGEST = 6  # last parts of a path that may be of use here


def find_pictures(file: Path, names: Sequence[str]) -> tuple[list[str], str]:
    """The paths of pictures that an annotation file names, and the folder that they were found in.

    The folder is the one of the file, its parent, or one below these: the first that has all pictures of a
    sample, else the one with the most. Folders that are called like a word of the file, as `train2017` is for
    `instances_train.json`, come before others: splits may use the same names for pictures. A name may be
    a path of another machine, of which the last parts are tried, or lack its suffix. What is not there gets
    the path that it would have.
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
    """The folders in which pictures may lie: first those of the file's folder, then of the ones above it.

    Of these that are equally near, the ones come first that are called like a word of the file's name.
    """
    in_voc = "ImageSets" in file.parts
    words = {"jpegimages"} if in_voc else set(re.split(r"[\W_]+", file.stem.lower()))
    splits = tuple(word for word in SPLITS if word in words)

    def is_other(folder: Path) -> bool:
        name = folder.name.lower()
        return name not in words and not name.startswith(splits)

    start, up = file.parent, 2 if in_voc else 1
    yield start
    for base in (start, *[parent for parent in start.absolute().parents[:up] if parent.name]):
        yield from sorted(_below(base), key=is_other)


def _below(base: Path) -> Iterator[Path]:
    """A folder and those in it, level by level."""
    level, seen = [base], 0
    for _ in range(DEPTH + 1):
        yield from level
        seen += len(level)
        if seen > MOST_FOLDERS:
            return
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
    if os.path.isabs(name) and os.path.isfile(name):  # noqa: PTH113, PTH117
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
OTHERS = ("annotations", "annotations/xmls")


def _rules(replaced: str, *becomes: str) -> list[Rule]:
    return [(replaced, folder, flat) for folder in becomes for flat in (False, True)]


RULES: dict[str, tuple[Rule, ...]] = {
    ".xml": (
        *_rules("JPEGImages", "Annotations"),
        *_rules("images", "Annotations", *OTHERS, "labels"),
        BESIDE,
    ),
    ".json": (*_rules("images", "annotations", "labels", "json"), BESIDE),
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
