"""The folders of a data set: which images a source stands for, labels without image, where not to write."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.console import LOGGER
from utils.data.images import IMAGE_SUFFIXES
from utils.data.report import ACTIONS, Fault, counted, plural
from utils.data.whereabouts import cut_off
from utils.errors import UserError
from utils.reading import read_lines

MOST_UP = 3  # folders above a list that its entries may be relative to
MOST_TRIED = 20  # entries of a list, to find what they are relative to


def list_images(sources: Iterable[Path]) -> list[str]:
    """All image paths of `sources`, each source sorted, in the order of the sources.

    Raises:
        UserError: a source does not exist, or is a file that is neither a list nor an image.
    """
    found: list[str] = []
    for source in sources:
        if source.is_dir():
            found += sorted(_walk(source))
        elif not source.exists():
            raise UserError(f"image source '{source}' does not exist")
        elif source.suffix.lower() == ".txt":
            found += _read_list(source)
        elif source.suffix.lower() in IMAGE_SUFFIXES:
            found.append(str(source))
        else:
            raise UserError(f"image source '{source}' is neither a folder, a .txt list nor an image")
    return found


def has_pictures(source: Path) -> bool:
    """Whether there is a picture in a folder, or the source is a file."""
    return source.is_file() or next(iter(_walk(source)), None) is not None


def _walk(folder: Path) -> Iterable[str]:
    for parent, inner, files in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not _leads_back(folder, os.path.join(parent, name))]  # noqa: PTH118
        for name in files:
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith("."):  # noqa: PTH122
                yield os.path.join(parent, name)  # noqa: PTH118 - Path costs more than the rest of the loop


def _leads_back(top: Path, path: str) -> bool:
    """Whether a folder is a link to one of those above it, in which nobody would ever come to an end."""
    if not os.path.islink(path):  # noqa: PTH114
        return False
    target, parents = os.path.realpath(path), Path(path).parents
    return any(os.path.realpath(parent) == target for parent in parents if parent.is_relative_to(top))


def _read_list(file: Path) -> list[str]:
    entries = read_lines(file)
    relative = [line for line in entries if not os.path.isabs(line)]  # noqa: PTH117
    base, before = _base_of_list(file, relative) if relative else (Path(), "")
    return [os.path.normpath(base / line.removeprefix(before)) for line in entries]


def _base_of_list(file: Path, entries: Sequence[str]) -> tuple[Path, str]:
    """The folder that entries are relative to: of the list, the working directory, or one above the list;
    and with which folders they begin that are not there.

    The first entry that is there decides for all: two look-ups for each of 100 000 would take longer than the
    scan. Only where none of the first is there as written, they may begin with folders too many.
    """
    bases = [file.parent, Path(), *file.absolute().parents[1:MOST_UP]]
    for entry in entries[:MOST_TRIED]:
        for base in bases:
            if os.path.exists(base / entry):  # noqa: PTH110
                return base, ""
    entry = entries[0]
    found = cut_off(entry, file.parent)
    end = found[0].relative_to(file.parent).as_posix() if found else ""
    if found is None or not entry.endswith(end):
        return file.parent, ""
    LOGGER.info("%s: '%s' is not there as written; took %s (%s)", file, entry, *found)
    return file.parent, entry.removesuffix(end)


def find_orphans(sources: Sequence[Path], labels: list[str]) -> list[Fault]:
    """Label files that no image claims, in the label folders of sources that are folders."""
    if not all(source.is_dir() for source in sources):
        return []  # a list may well name a part of what lies in a folder
    expected = set(labels)
    faults = []
    for folder in sorted({os.path.dirname(path) for path in labels}):  # noqa: PTH120
        if os.path.isdir(folder):  # noqa: PTH112
            files = sorted(entry.path for entry in os.scandir(folder) if entry.name.endswith(".txt"))
            orphans = [path for path in files if path not in expected and _looks_like_labels(path)]
            faults += [Fault("label without image", 0, "no image of this name", path) for path in orphans]
    return faults


TELLING = (".json", ".xml", ".csv")  # files of annotations


def no_images(sources: Sequence[Path]) -> str:
    """What to say of sources without an image: what is there instead, and which folder may be meant."""
    told = [source for source in sources if source.suffix.lower() in TELLING and source.is_file()]
    if told and len(told) == len(sources):
        return f"{told[0]}: it tells of no pictures"
    places = ", ".join(f"'{source}'" for source in sources)
    said = f"no images found in {places}; known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}"
    for folder in (source for source in sources if source.is_dir()):
        texts = sum(1 for _ in folder.rglob("*.txt"))
        before, found, after = f"{folder}".replace(os.sep, "/").rpartition("/labels")
        images = Path(f"{before}/images{after}") if found else folder.parent / "images"
        if texts and images.is_dir():
            said += (
                f"; it has {counted(texts, '.txt file')}: name the folder of the images, '{images}', "
                "not of the labels"
            )
    return said


def without_boxes(faults: Sequence[Fault]) -> str:
    """Which faults of a scan have cost all boxes; empty when none did."""
    unknown = next((fault for fault in faults if fault.kind == "unknown class"), None)
    if unknown is not None:
        return f"its classes are not those of the data yaml: {unknown.detail}"
    dropped = [fault for fault in faults if ACTIONS[fault.kind] == "row dropped"]
    if not dropped:
        return ""
    (kind, count), first = Counter(fault.kind for fault in dropped).most_common(1)[0], dropped[0]
    rows = "the only label row was" if len(dropped) == 1 else f"all {len(dropped)} label rows were"
    return f"{rows} dropped, {count} for '{kind}'; {first.place}: {first.detail}"


def found_instead_of_labels(images: Sequence[str], labels: Sequence[str], faults: Sequence[Fault]) -> str:
    """Why a split has no box: where the labels of its images should be, and what is there.

    Args:
        labels: the label file that each image would have.
        faults: of the scan.
    """
    if why := without_boxes(faults):
        return why
    place, found = Path(labels[0]).parent, Counter[tuple[str, str]]()
    for folder in sorted({str(Path(path).parent) for path in (*images, *labels)}):
        if os.path.isdir(folder):  # noqa: PTH112
            suffixes = (Path(name).suffix for name in os.listdir(folder))  # noqa: PTH208
            found.update((folder, suffix) for suffix in suffixes if suffix.lower() not in IMAGE_SUFFIXES)
    lists = (
        f"{count} '{suffix}' {plural('file', count)} in {folder}"
        for (folder, suffix), count in found.most_common(3)
        if suffix
    )
    if any(os.path.exists(label) for label in labels):  # noqa: PTH110
        state = "all label files are empty"
    elif place.is_dir():
        state = f"no .txt file in {place} has the name of an image"
    else:
        state = f"the folder {place} does not exist"
    return (
        f"{state}; {Path(images[0]).name} would have {labels[0]}; found: {', '.join(lists) or 'nothing else'}"
    )


def _looks_like_labels(path: str) -> bool:
    """Not a readme or a list of class names that happens to lie beside the images."""
    return "/labels/" in path or Path(path).stem.isdecimal()


def is_writable(folder: Path) -> bool:
    """Whether a cache may be kept in a folder; where it is marked read-only, root must not write either."""
    anybody = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    return bool(folder.stat().st_mode & anybody) and os.access(folder, os.W_OK)
