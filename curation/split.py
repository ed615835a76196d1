"""Split a data set into training, validation and test: by chance, with each class in its share everywhere.

Iterative stratification (Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label Data", 2011):
the rarest class that is left goes first, each of its groups to the split that lacks most of that class. A
group is a picture, or with `--group` all pictures whose path has the same match of a regular expression:
frames of one video, pictures of one patient. Pictures without objects count as a class of their own. The same
seed gives the same splits.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curation.opening import open_data
from curation.writing import Folder, check_free, coco_content, make_folder, shots
from utils.console import LOGGER, setup_console
from utils.data.formats.opening import open_source
from utils.data.index import DatasetIndex, build_index
from utils.data.report import counted
from utils.data.shards.places import parted
from utils.data.spec import SPLITS, DataSpec
from utils.errors import UserError
from utils.files import ROOT, write_text
from utils.flags import SEED, SHARE, CommandConfig, flag, not_empty

ROUNDING = 1e-6


@dataclass(frozen=True)
class Config(CommandConfig):
    """Split a data set into training, validation and test."""

    data: str = flag(
        "", "data yaml, folder or file of annotations; its splits are put together", rule=not_empty
    )
    ratios: tuple[float, ...] = flag(
        (0.8, 0.1, 0.1), "shares of train, val and test (or of train and val)", rule=SHARE
    )
    seed: int = flag(0, "seed of chance", rule=SEED)
    group: str = flag("", "regular expression on a picture's path; those with the same match stay together")
    out: str = flag("", "folder to make (default: beside the data, with -split behind its name)")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.ratios) not in (2, 3) or abs(sum(self.ratios) - 1) > ROUNDING:
            raise ValueError(f"--ratios must be two or three shares that add up to 1, found {self.ratios}")


def run(config: Config) -> None:
    """Write list files and a data yaml, and say what is in each split.

    Raises:
        UserError: the data cannot be read, there are too few groups, or `--out` exists.
    """
    setup_console()
    check_free(config.out)
    spec = open_data(config.data)
    out = config.out or _beside(spec)
    check_free(out)
    sources = list(dict.fromkeys(s for split in SPLITS for s in getattr(spec, split) if s.exists()))
    files, shards = parted(sources)
    if shards:
        raise UserError(
            f"'{shards[0]}' is made of tar shards, whose pictures no list can name; "
            "split the data set that they were made from"
        )
    index = build_index(files, spec.names, cache=False)
    LOGGER.info(index.report.summary())
    index.report.check_usable("the data")
    order = _first_of_each(index)
    groups = group_numbers([Path(index.path(i)).as_posix() for i in order], config.group)
    counts = class_counts(index, order, len(spec.names))
    parts = [order[chosen] for chosen in stratify(counts, groups, config.ratios, config.seed)]
    place = make_folder(out, lambda root, at: _write(root, at, spec, files, index, parts))
    LOGGER.info(_table(spec, index, parts))
    LOGGER.info(f"{groups.max() + 1:,} groups; {place / 'data.yaml'} is the data set")


def _beside(spec: DataSpec) -> str:
    own = spec.file.parent
    if own == ROOT / "data":  # the yamls that come with this program; the pictures are elsewhere
        own = spec.root.parent
    return str(own / f"{spec.file.stem}-split")


def _first_of_each(index: DatasetIndex) -> np.ndarray:
    """The numbers of the pictures, of one that stands there several times the first."""
    seen: dict[str, int] = {}
    for number, path in enumerate(index.paths()):
        seen.setdefault(str(Path(path).absolute()), number)
    if len(seen) < len(index):
        more = len(index) - len(seen)
        stand = "stands" if more == 1 else "stand"
        LOGGER.info(f"{counted(more, 'picture')} {stand} in several splits; each is taken once")
    return np.array([*seen.values()], np.int64)


def group_numbers(paths: Sequence[str], expression: str) -> np.ndarray:
    """(N,) the group of each path: what its first group matches, else the match; alone where there is none.

    Raises:
        UserError: no regular expression, or it matches nothing.
    """
    if not expression:
        return np.arange(len(paths))
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise UserError(f"--group: {expression!r} is no regular expression: {error}") from error
    found = [pattern.search(path) for path in paths]
    alone = sum(match is None for match in found)
    if alone == len(paths):
        raise UserError(f"--group: {expression!r} matches no path, such as '{paths[0]}'")
    if alone:
        LOGGER.info(
            f"--group matches {len(paths) - alone:,} of {len(paths):,} paths; the others are groups of one"
        )
    keys: dict[object, int] = {}
    return np.array(
        [
            keys.setdefault(
                number if match is None else (match[1] if pattern.groups else match[0],), len(keys)
            )
            for number, match in enumerate(found)
        ]
    )


def class_counts(index: DatasetIndex, pictures: np.ndarray, classes: int) -> np.ndarray:
    """(N, classes + 1) boxes of each class on each picture, and 1 in the last column where there is none."""
    counts = np.zeros((len(pictures), classes + 1))
    for row, picture in enumerate(pictures):
        own = index.labels(int(picture))[:, 0].astype(int)
        np.add.at(counts[row], own if len(own) else [classes], 1)
    return counts


def stratify(counts: np.ndarray, groups: np.ndarray, ratios: Sequence[float], seed: int) -> list[np.ndarray]:
    """The sorted numbers of the pictures of each split.

    Args:
        counts: (N, C) how much of each class is on each picture.
        groups: (N,) the group of each picture, from 0 without a gap.

    Raises:
        UserError: fewer groups than splits.
    """
    shares = np.array(ratios)
    total = int(groups.max()) + 1
    if total < (shares > 0).sum():
        too_few = counted(total, "group")
        raise UserError(f"{too_few} cannot fill {(shares > 0).sum()} splits; see --group and --ratios")
    sums = np.zeros((total, counts.shape[1] + 1))  # of each group: its classes, and its pictures
    np.add.at(sums, groups, np.column_stack([counts, np.ones(len(counts))]))
    lacking = shares[:, None] * sums.sum(0)  # (splits, C + 1) what each split is still to get
    order = np.random.default_rng(seed).permutation(total)
    order = order[np.argsort(-sums[order, -1], kind="stable")]  # large groups first: small ones fill the gaps
    split_of, left = np.full(total, -1), sums[:, :-1].copy()
    while (split_of < 0).any():
        remaining = left.sum(0)
        rarest = int(np.where(remaining > 0, remaining, np.inf).argmin())
        for group in order[(left[order, rarest] > 0) & (split_of[order] < 0)]:
            split = _neediest(lacking, rarest, shares)
            split_of[group] = split
            lacking[split] -= sums[group]
            left[group] = 0
    _fill_empty(split_of, shares, sums[:, -1])
    return [np.flatnonzero(split_of[groups] == split) for split in range(len(shares))]


def _neediest(lacking: np.ndarray, cls: int, shares: np.ndarray) -> int:
    """The split that lacks most of a class, of equals most pictures."""
    usable = np.flatnonzero(shares > 0)
    best = lacking[usable, cls].max()
    equals = usable[lacking[usable, cls] >= best - ROUNDING]
    return int(equals[lacking[equals, -1].argmax()])


def _fill_empty(split_of: np.ndarray, shares: np.ndarray, sizes: np.ndarray) -> None:
    """Give a split that got nothing the smallest group of the one with the most groups."""
    for split in np.flatnonzero(shares > 0):
        if not (split_of == split).any():
            richest = np.bincount(split_of).argmax()
            own = np.flatnonzero(split_of == richest)
            split_of[own[sizes[own].argmin()]] = split


def _write(
    root: Path,
    place: Path,
    spec: DataSpec,
    sources: Sequence[Path],
    index: DatasetIndex,
    parts: Sequence[np.ndarray],
) -> None:
    """A list of pictures for each split; where their labels would not be found by it, COCO's JSON."""
    labels = {
        image: label
        for source in map(open_source, sources)
        for image, label in zip(source.images, source.labels)
    }
    folder, listed = Folder(root, place, spec.names, copy=False), {}
    for split, part in zip(SPLITS, parts):
        paths = [index.path(int(i)) for i in part]
        if not paths:
            continue
        lines = "".join(f"{Path(path).absolute()}\n" for path in paths)
        listed[split] = f"{split}.txt"
        if not _is_enough(root / listed[split], lines, [labels[path] for path in paths]):
            listed[split] = f"{split}.json"
            content = coco_content(
                spec.names, shots(_subset(index, part)), lambda shot: str(Path(shot.source).absolute())
            )
            write_text(root / listed[split], json.dumps(content), durable=False)
    folder.describe({"train": [], "val": [], **listed})


def _is_enough(file: Path, lines: str, labels: Sequence[str]) -> bool:
    """Write a list of pictures, and keep it when their labels are found by it."""
    try:
        write_text(file, lines, durable=False)
    except UnicodeEncodeError:  # names whose bytes are no text
        return False
    found = [Path(label) for label in open_source(file).labels]
    if found == [Path(label).absolute() for label in labels]:
        return True
    file.unlink()
    return False


def _subset(index: DatasetIndex, part: np.ndarray) -> DatasetIndex:
    """Some pictures with their labels."""
    runs = [slice(index.offsets[i], index.offsets[i + 1]) for i in part]
    chosen = index.subset(part).with_boxes([index.boxes[run] for run in runs])
    polygons = [polygon for i in part for polygon in index.polygons(int(i))]
    ends = np.cumsum([0, *map(len, polygons)])
    points = np.concatenate([np.zeros((0, 2), np.float32), *polygons])
    return dataclasses.replace(chosen, points=points, point_offsets=ends, names=index.names)


def _table(spec: DataSpec, index: DatasetIndex, parts: Sequence[np.ndarray]) -> str:
    """Pictures of each split, and the boxes of each class in it."""
    counts = class_counts(index, np.arange(len(index)), len(spec.names))
    rows = [("pictures", [len(part) for part in parts])]
    rows += [(name, [int(counts[part, cls].sum()) for part in parts]) for cls, name in spec.names.items()]
    rows.append(("no object", [int(counts[part, -1].sum()) for part in parts]))
    width = max(len(name) for name, _ in rows)
    head = " ".join(f"{split:>8}" for split in SPLITS[: len(parts)])
    lines = [f"{'':{width}} {head}"]
    lines += [f"{name:{width}} {' '.join(f'{value:>8,}' for value in values)}" for name, values in rows]
    return "\n".join(lines)
