"""The data yaml: where the images of each split are and what the classes are called."""

from __future__ import annotations

import re
import reprlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.console import LOGGER
from utils.data.digits import generate_digits
from utils.data.folders import has_pictures
from utils.data.formats import darknet
from utils.data.formats.opening import names_of
from utils.data.report import counted
from utils.data.shards.places import Place, Shards, are_shards, is_remote, open_shards, parted
from utils.data.unpacked import find_yaml, folders_of_splits, yaml_elsewhere
from utils.data.whereabouts import VALIDATION, search
from utils.errors import UserError
from utils.files import ROOT, expand, find_file
from utils.reading import read_yaml

SPLITS = ("train", "val", "test")
HERE = re.compile(r"\./|\.$")  # how a path begins that says where it is relative to
TWICE = (
    "%s: %s: '%s' is taken from the working directory or the repository: %s; "
    "%s is there too, and 'path: %s' means it"
)
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz")
GENERATORS: dict[str, Callable[[Path], None]] = {"digits": generate_digits}


@dataclass(frozen=True)
class DataSpec:
    """A data yaml with its paths resolved."""

    file: Path
    root: Path  # what relative paths refer to
    train: tuple[Place, ...]  # folders, list files, images or shards; empty without the split in the yaml
    val: tuple[Place, ...]
    test: tuple[Place, ...]
    names: dict[int, str]  # class number -> name, numbers from 0 without a gap

    @property
    def nc(self) -> int:
        return len(self.names)

    def classes(self, single_cls: bool) -> dict[int, str]:
        """The classes to tell apart: those of the data, or with `--single-cls` one for all of them."""
        return {0: "item"} if single_cls and self.nc > 1 else dict(self.names)


def load_data_spec(path: str | Path, needed: Sequence[str] = ("train", "val")) -> DataSpec:
    """Read a data yaml, looked up in `data/` too and with or without its suffix.

    A folder stands for the `data.yaml` in it, or for the splits that its folders are called like (`train`,
    `valid`), and Darknet's `obj.data` for the yaml that it could be. A split may be a file of annotations in
    another format (`formats/opening.py`); without `names` the classes come from there. A path that is not
    there as written is looked for by the rules of `whereabouts.py`.

    A relative `path` in it refers to the working directory, the repository root or the yaml's own folder: the
    first of them where it exists. Without `path`, so does each split; but one that begins with `.`, as `./x`,
    is looked for beside the yaml first. A `download:` key is never executed; a `generator:` key names one of
    `GENERATORS`, which makes the images below the repository root (or at an absolute `path`) when they do not
    exist yet.

    Args:
        needed: the splits that must be there, images and all. Others may point to nothing.

    Raises:
        UserError: the file, a key, a class or the images of a needed split are missing or of the wrong type.
    """
    file = _in_folder(path) or find_file(path, (ROOT / "data",), ("", ".yaml", ".yml"))
    content = _content(file)
    if not isinstance(content, dict):
        raise UserError(
            f"{file}: expected a mapping with train, val and names, found {type(content).__name__}"
        )
    if not content.get("val"):
        for key in reversed(VALIDATION):
            content["val"] = content.get(key) or content.get("val")
    names = _names(file, content) if "names" in content else {}
    sources = {split: _behind(file, content, split) for split in SPLITS}
    for split in needed:
        if not sources[split]:
            state = "empty" if split in content and content[split] is not None else "missing"
            cure = f"; python dataset.py split --data {file} takes it from train" if sources["train"] else ""
            if file.is_dir() and (elsewhere := yaml_elsewhere(file)):
                cure = f"; {elsewhere}"
            raise UserError(
                f"{file}: key '{split}' is {state}; it names a folder of images or a list of them{cure}"
            )
    bases = _bases(file, content)
    if needed and "generator" in content:
        bases = [_generate(file, content, bases, [s for split in needed for s in sources[split]])]
    splits = {
        split: tuple(
            _locate(file, content, bases, split, source, split in needed) for source in sources[split]
        )
        for split in SPLITS
    }
    if not names:
        names = _names_of_labels(file, content, [source for split in SPLITS for source in splits[split]])
    return DataSpec(file=file, root=bases[0], names=names, **splits)


def _in_folder(path: str | Path) -> Path | None:
    """The data yaml of what is a folder, or the folder, when its folders are splits.

    Raises:
        UserError: it has neither.
    """
    folder = expand(path)
    if not folder.is_dir():
        return None
    if (found := find_yaml(folder)) is not None:
        return found
    splits = folders_of_splits(folder)
    if not splits:
        cure = "write one with train, val and names, or name yours (folders train and valid in it would do)"
        raise UserError(f"folder '{path}' has no data.yaml; {yaml_elsewhere(folder) or cure}")
    LOGGER.info("%s: has no data.yaml; its splits: %s", path, ", ".join(splits.values()))
    return folder


def _content(file: Path) -> Any:
    if file.is_dir():
        return folders_of_splits(file)
    if file.suffix.lower() in ARCHIVES:
        line = f": unzip {shlex.quote(str(file))} -d {shlex.quote(file.stem)}"
        raise UserError(f"{file}: unpack it, and name the folder{line if file.suffix == '.zip' else ''}")
    return _of_darknet(file) if file.suffix == ".data" else read_yaml(file)


def _of_darknet(file: Path) -> dict[str, Any]:
    """What a data yaml in place of an `obj.data` would have."""
    lists = {split: darknet.list_of(file, split) for split in SPLITS}
    content = {split: str(place.absolute()) for split, place in lists.items() if place is not None}
    return {**content, "names": darknet.names(file)}


def _names_of_labels(file: Path, content: dict[str, Any], sources: list[Place]) -> dict[int, str]:
    """The classes of a yaml without `names`: those that files of annotations bring along."""
    there = [source for source in dict.fromkeys(parted(sources)[0]) if source.exists()]
    names = names_of(there)
    if not names and file.is_dir():
        cure = yaml_elsewhere(file) or f"write them, one a line, to classes.txt, or a {file / 'data.yaml'}"
        raise UserError(f"folder '{file}' has no data.yaml, and its labels no class names; {cure}")
    if not names:
        return _names(file, content)  # says what a yaml has to have
    LOGGER.info(
        "%s: has no names; %s by the labels: %s",
        file,
        counted(len(names), "class"),
        reprlib.repr([*names.values()]),
    )
    return _names(file, {**content, "names": names})


def _names(file: Path, content: dict[str, Any]) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(
            f"{file}: key 'names' must be a list of class names, or a mapping from 0, 1, … to them"
        )
    for number, name in names.items():
        if isinstance(number, str) and isinstance(name, int) and not isinstance(name, bool):
            raise UserError(
                f"{file}: names: '{number}: {name}' is the wrong way round; write '{name}: {number}'"
            )
        if isinstance(number, bool) or not isinstance(number, int):
            raise UserError(f"{file}: names: class number {number!r} is not an integer")
        if not isinstance(name, str | int | float) or isinstance(name, bool):
            raise UserError(f"{file}: names: class {number} is {str(name)[:40]!r}; a name is text (quote it)")
    missing = sorted(set(range(len(names))) - set(names))
    if missing:
        raise UserError(f"{file}: names: class {missing[0]} is missing; numbers run from 0 without a gap")
    nc = content.get("nc", len(names))
    if isinstance(nc, bool) or nc != len(names):
        raise UserError(f"{file}: nc is {nc!r} but names has {counted(len(names), 'class')}")
    return {number: str(names[number]) for number in range(len(names))}


def _entries(file: Path, split: str, value: Any) -> list[str]:
    """The value of a split as a list of strings; empty when there is none."""
    entries = value if isinstance(value, list) else [] if value is None or value == "" else [value]
    for entry in entries:
        if not isinstance(entry, str) or not entry:
            shown = "a list" if isinstance(entry, list) else repr(entry)
            raise UserError(f"{file}: {split}: expected a path or a list of paths, found {shown}")
    return entries


def _behind(file: Path, content: dict[str, Any], split: str) -> list[str]:
    """The entries of a split; shards may lie behind an address, also that of `path`."""
    root, entries = content.get("path"), _entries(file, split, content.get(split))
    if isinstance(root, str) and is_remote(root):
        entries = [entry if is_remote(entry) else f"{root.rstrip('/')}/{entry}" for entry in entries]
    if odd := next((entry for entry in entries if is_remote(entry) and not are_shards(entry)), None):
        raise UserError(f"{file}: {split}: '{odd}' is no tar; behind an address, only tar shards are read")
    return entries


def _bases(file: Path, content: dict[str, Any]) -> list[Path]:
    """The folders that relative splits may refer to, best first."""
    root = content.get("path", "")
    if root is not None and not isinstance(root, str):
        raise UserError(f"{file}: path: expected a folder, found {root!r}")
    anchors = [Path.cwd(), ROOT, file.parent.absolute()]
    if not root or is_remote(root):
        return anchors
    candidates = [anchor / expand(root) for anchor in anchors]
    return [folder for folder in candidates if folder.is_dir()][:1] or candidates


def _generate(file: Path, content: dict[str, Any], bases: list[Path], sources: list[str]) -> Path:
    """Make the data set unless it is there; returns its folder."""
    name = content["generator"]
    if name not in GENERATORS:
        raise UserError(f"{file}: unknown generator {name!r}; there is: {', '.join(GENERATORS)}")
    if not content.get("path"):
        raise UserError(f"{file}: key 'path' is missing; generator '{name}' puts its images there")
    if all((bases[0] / source).exists() for source in sources):
        return bases[0]
    folder = ROOT / expand(content["path"])
    if folder.exists():
        raise UserError(f"'{folder}' exists but lacks {', '.join(sources)}; remove it to have it made again")
    GENERATORS[name](folder)
    return folder


def _locate(
    file: Path, content: dict[str, Any], bases: list[Path], split: str, source: str, needed: bool
) -> Place:
    if are_shards(source):
        return _locate_shards(file, bases, split, source, needed)
    candidates = [base / expand(source) for base in bases]
    beside = file.absolute().parent / expand(source)
    unclear = not content.get("path") and beside.exists()
    if unclear and HERE.match(source) and has_pictures(beside):
        return beside
    for candidate in candidates:
        if candidate.exists():
            if unclear and not beside.samefile(candidate):
                LOGGER.info(TWICE, file, split, source, candidate, beside, file.absolute().parent)
            return candidate
    if (found := search(source, [file.parent, *bases])) is not None:
        LOGGER.info("%s: %s: '%s' is not there as written; took %s (%s)", file, split, source, *found)
        return found[0]
    if not needed:
        return candidates[0]
    places = ", ".join(f"'{candidate}'" for candidate in dict.fromkeys(candidates))
    hint = ""
    if "download" in content:
        hint = "; its 'download:' key is never executed, fetch the images yourself"
    elif file.parent == ROOT / "data":
        hint = "; nothing is downloaded: the first lines of this file say where to get them"
    raise UserError(f"{file}: {split}: no such file or folder: {places}{hint}")


def _locate_shards(file: Path, bases: list[Path], split: str, source: str, needed: bool) -> Shards:
    """The shards of a split, where the first of them is."""
    candidates = [open_shards(source, base) for base in bases[: 1 if is_remote(source) else None]]
    found = next((shards for shards in candidates if shards.exists()), None)
    if found is None and needed:
        places = ", ".join(f"'{shards.addresses[0]}'" for shards in dict.fromkeys(candidates))
        raise UserError(f"{file}: {split}: no such shard: {places}; dataset.py shard makes them")
    return found or candidates[0]
