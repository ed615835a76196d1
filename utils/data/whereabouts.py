"""Where a split of a data yaml is when it is not where the yaml says: rules, told when they help."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

VALIDATION = ("val", "valid", "validation")
TOO_COMMON = {"images", "labels", "data", "dataset"}  # alone, such a name says nothing
ABSOLUTE = re.compile(r"/|~|[A-Za-z]:/")
CUT = "without its first folders"


def search(source: str, folders: Sequence[Path]) -> tuple[Path, str] | None:
    """A place that exists for the path of a split, and the rule that led there.

    Args:
        source: the path as the yaml has it.
        folders: that it may be relative to, best first; of them those that do not exist are of no use.
    """
    there = [folder for folder in folders if folder.is_dir()]
    nested = [folder / folder.absolute().name for folder in there]
    nested = [folder for folder in nested if folder.is_dir()]
    for text, why in _readings(source):
        for folder in there:
            if (folder / text).exists():
                return folder / text, why or f"relative to {folder}"
        for folder in nested:
            if (folder / text).exists():
                return folder / text, "; ".join(
                    filter(None, (why, "in a folder inside one of the same name"))
                )
    return None


def cut_off(source: str, folder: Path) -> tuple[Path, str] | None:
    """What exists in a folder for a relative path without its first folders, and the name of this rule.

    For files that give their paths as seen from where a tool was started, as those of Darknet do.
    """
    found = (folder / end for end in _ends(source.replace("\\", "/")))
    return next(((place, CUT) for place in found if os.path.exists(place)), None)  # noqa: PTH110 - of any length


def _ends(text: str) -> list[str]:
    """A path without its first part, its first two, …; what is left has to say something."""
    parts = [part for part in text.split("/") if part]
    ends = ("/".join(parts[start:]) for start in range(1, len(parts)))
    return [end for end in ends if end not in TOO_COMMON]


def _readings(source: str) -> Iterator[tuple[str, str]]:
    """What may be meant by a path, and why, what is nearest to it first."""
    found: list[tuple[str, list[str]]] = [(source, [])]
    if "\\" in source:
        found = [(source.replace("\\", "/"), ["\\ read as /"])]
    text, why = found[0]
    if ABSOLUTE.match(text):
        found = [(end, [*why, "the last parts of a path of another machine"]) for end in _ends(text)]
    elif "../" in text:
        plain = re.sub(r"^(\.{1,2}/)+", "", text)
        found.append((plain, [*why, "without the leading ../"]))
    for tail, reasons in list(found):
        parts = tail.split("/")
        if parts.count("images") == 1 and len(parts) > 1:  # images/train for train/images, and vice versa
            place = max(parts.index("images"), 1)
            turned = [*parts[: place - 1], parts[place], parts[place - 1], *parts[place + 1 :]]
            found.append(("/".join(turned), [*reasons, "two folders the other way round"]))
    for tail, reasons in list(found):
        if tail.endswith("/images"):  # pictures beside one file about them all
            found.append((tail.removesuffix("/images"), [*reasons, "without 'images'"]))
    for tail, reasons in list(found):
        for other, name in _renamed(tail):
            found.append((other, [*reasons, name]))
    yield from ((tail, "; ".join(reasons)) for tail, reasons in found)


def _renamed(path: str) -> Iterator[tuple[str, str]]:
    """The path with another word for the folder of the validation split."""
    parts = path.split("/")
    for position, part in enumerate(parts):
        for other in VALIDATION if part in VALIDATION else ():
            if other != part:
                yield "/".join([*parts[:position], other, *parts[position + 1 :]]), f"'{other}' for '{part}'"
