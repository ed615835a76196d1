"""One scan of a split becomes a packed index: a handful of flat arrays, however many images there are.

Lists of Python objects would be copied into every worker process page by page, as their reference counts
change; these arrays are shared. `label_cache.py` keeps what was found beside the labels.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from utils.console import LOGGER, printable, progress
from utils.data import label_cache
from utils.data.folders import find_orphans, found_instead_of_labels, no_images, without_boxes
from utils.data.formats.opening import YOLO, Source, key_of, open_source
from utils.data.formats.record import Annotated, Broken
from utils.data.images import image_shape
from utils.data.labels import MOST_BYTES, Labels, parse_labels
from utils.data.packing import (
    ARRAYS,
    Found,
    Shape,
    concatenate,
    ends,
    is_consistent,
    measured,
    pack,
    parsed,
)
from utils.data.report import MEANT, Fault, LabelReport, counted
from utils.data.shards.places import Place, parted
from utils.data.shards.scan import scan_shards
from utils.data.shared import SharedArray
from utils.data.slips import explain_slip
from utils.data.workers import WorkerPool
from utils.errors import UserError
from utils.pipeline import outcome
from utils.reading import read_bytes

SLIPS, SLIP_SHARE = 2, 0.01  # so many rows, or such a share, may name a class too many by mistake
CHUNK = 128
PROCESSES_FROM = 4000  # images; below, starting processes costs more than it saves

# what tells of the boxes of an image: a label file, another format, or nothing that can be used
Row: TypeAlias = str | Annotated | None


@dataclass
class DatasetIndex:
    """The images and labels of one split, N images with M boxes in all."""

    path_bytes: np.ndarray  # (P,) uint8: all paths, one after the other
    path_offsets: np.ndarray  # (N + 1,) int64 into path_bytes
    shapes: np.ndarray  # (N, 2) int32: height, width in pixels, upright
    boxes: np.ndarray  # (M, 5) float32: class, xc, yc, w, h normalised
    offsets: np.ndarray  # (N + 1,) int64: image i has the boxes offsets[i]:offsets[i + 1]
    points: np.ndarray  # (K, 2) float32: polygon corners x, y normalised
    point_offsets: np.ndarray  # (M + 1,) int64 into points; box j has no polygon when both ends are equal
    names: dict[int, str]
    report: LabelReport = field(default_factory=LabelReport)
    _shared: dict[str, SharedArray] = field(default_factory=dict, init=False)

    def __len__(self) -> int:
        return len(self.shapes)

    def path(self, i: int) -> str:
        """The path of image `i`, absolute or relative to the working directory as the source was."""
        return os.fsdecode(self.path_bytes[self.path_offsets[i] : self.path_offsets[i + 1]].tobytes())

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of image `i` in pixels, upright."""
        height, width = self.shapes[i]
        return int(height), int(width)

    def paths(self) -> list[str]:
        return [self.path(i) for i in range(len(self))]

    def labels(self, i: int) -> np.ndarray:
        """(n, 5) float32 class, xc, yc, w, h of image `i`: a view, not to be written to."""
        return self.boxes[self.offsets[i] : self.offsets[i + 1]]

    def polygons(self, i: int) -> list[np.ndarray]:
        """For each box of image `i` its polygon, (k, 2) float32 x, y in 0–1; k = 0 where there is none."""
        ends = self.point_offsets[self.offsets[i] : self.offsets[i + 1] + 1]
        return [self.points[a:b] for a, b in itertools.pairwise(ends)]

    @property
    def has_polygons(self) -> bool:
        return len(self.points) > 0

    def subset(self, chosen: np.ndarray) -> DatasetIndex:
        """The pictures with these numbers, in that order, without labels."""
        paths = [self.path_bytes[a:b] for a, b in (self.path_offsets[i : i + 2] for i in chosen)]
        joined = np.concatenate([np.zeros(0, np.uint8), *paths])
        return _unlabelled(joined, ends(map(len, paths)), self.shapes[chosen])

    def with_boxes(self, boxes: Sequence[np.ndarray]) -> DatasetIndex:
        """The same pictures, each with (n, 5) class, xc, yc, w, h normalised, and no polygons."""
        joined = np.concatenate([np.zeros((0, 5), np.float32), *boxes])
        return dataclasses.replace(
            _unlabelled(self.path_bytes, self.path_offsets, self.shapes),
            boxes=joined,
            offsets=ends(map(len, boxes)),
            point_offsets=np.zeros(len(joined) + 1, np.int64),
        )

    def share(self) -> None:
        """Move the arrays into memory that worker processes see too; they then travel without values."""
        if not self._shared:
            self._shared = {name: SharedArray.of(getattr(self, name)) for name in ARRAYS}
            self._use_shared()

    def _use_shared(self) -> None:
        for name, array in self._shared.items():
            setattr(self, name, array.view())

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self._shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._use_shared()


def build_index(
    sources: Sequence[Place],
    names: dict[int, str],
    *,
    single_cls: bool = False,
    strict: bool = False,
    cache: bool = True,
) -> DatasetIndex:
    """Scan the images of `sources` and their labels.

    Args:
        sources: folders (searched recursively), list files (`.txt`, one path a line, relative to the file's
            folder or to the working directory), single images, files of annotations
            (`formats/opening.py`), or tar shards, which come behind the others.
        names: class number -> name; labels with other classes are dropped.
        single_cls: every label becomes class 0, after the check against `names`.
        strict: any fault is an error.
        cache: read and write the cache beside the labels; where that folder is read-only, nothing is kept.

    Raises:
        UserError: no usable image, or with `strict` any fault.
    """
    files, shards = parted(sources)
    of_files = _of_files(files, names, cache=cache) if files else None
    parts = [of_files.found] if of_files else []
    parts += [scan_shards(shards, names, cache=cache)] if shards else []
    arrays, faults = concatenate(parts) if len(parts) > 1 else parts[0]
    empty = int((np.diff(arrays["offsets"]) == 0).sum())
    report = LabelReport(faults, images=len(arrays["shapes"]), backgrounds=empty, boxes=len(arrays["boxes"]))
    if not report.images and not faults:
        raise UserError(no_images(files) if files else f"no pictures in {', '.join(map(str, shards))}")
    report.nothing_to_learn = _why_nothing(report, arrays["boxes"], of_files, names)
    index = DatasetIndex(**arrays, names=names, report=report)
    wrong = [fault for fault in faults if fault.kind not in MEANT]
    first = wrong[0] if wrong else None
    if strict and first:
        total = f"{counted(len(wrong), 'fault')} in all, fatal with --strict"
        raise UserError(f"{first.place}: {first.kind} ({first.detail}); {total}")
    if first and not len(index):
        images, why = counted(len(report.left_out), "image"), f"{first.place}: {first.kind} ({first.detail})"
        raise UserError(f"none of {images} can be used; the first: {why}")
    if single_cls:
        index.boxes[:, 0] = 0
    return index


@dataclass
class _OfFiles:
    """What a scan of files and folders found, and where."""

    found: Found
    images: list[str]
    labels: list[str]
    texts: bool  # whether all labels are YOLO text


def _of_files(sources: Sequence[Path], names: dict[int, str], *, cache: bool) -> _OfFiles:
    """Scan files, or take what an earlier scan has kept.

    Raises:
        UserError: they have no image.
    """
    opened = [open_source(source) for source in sources]
    images = [image for source in opened for image in source.images]
    labels = [label for source in opened for label in source.labels]
    if not images:
        raise UserError(no_images(sources))
    for source in opened:
        if source.kind != YOLO:
            LOGGER.info(source.said)
    key = label_cache.fingerprint(images, labels, key_of(opened, names))
    file = label_cache.cache_file(sources, labels[0])
    found = label_cache.load(file, key, ARRAYS) if cache else None
    if found is None or not _is_sound(found[0], images, len(names)):
        found = _scan_all(opened, names)
        if cache:
            label_cache.save(file, key, *found)
    if all(source.kind == YOLO for source in opened):
        found = found[0], [*found[1], *find_orphans(sources, labels)]
    return _OfFiles(found, images, labels, all(source.read is None for source in opened))


def _why_nothing(
    report: LabelReport, boxes: np.ndarray, files: _OfFiles | None, names: dict[int, str]
) -> str:
    """Why labels teach nothing, or the wrong thing; empty when they do not."""
    above = f"class {len(names)}, "  # as the detail of a class that is one too large begins
    if (
        files is not None
        and files.texts
        and report.is_suspicious
        and (slip := explain_slip(files.labels, names))
    ):
        return slip
    if not report.boxes:
        if files is not None:
            return found_instead_of_labels(files.images, files.labels, report.faults)
        return without_boxes(report.faults) or (
            "no picture has a label; beside 000012.jpg in a shard belongs 000012.txt or 000012.json"
        )
    slips = sum(fault.detail.startswith(above) for fault in report.faults)
    if (boxes[:, 0] > 0).all() and slips > max(SLIPS, report.boxes * SLIP_SHARE):
        return f"classes seem to count from 1: {above}but none of class 0, the first name"
    return ""


def index_pictures(images: Sequence[str]) -> DatasetIndex:
    """Pictures alone, without labels; the report names those that cannot be used."""
    arrays, faults = _scan(list(images), [""] * len(images), 0)
    return DatasetIndex(**arrays, names={}, report=LabelReport(faults, images=len(arrays["shapes"])))


def _unlabelled(path_bytes: np.ndarray, path_offsets: np.ndarray, shapes: np.ndarray) -> DatasetIndex:
    return DatasetIndex(
        path_bytes=path_bytes,
        path_offsets=path_offsets,
        shapes=shapes,
        boxes=np.zeros((0, 5), np.float32),
        offsets=np.zeros(len(shapes) + 1, np.int64),
        points=np.zeros((0, 2), np.float32),
        point_offsets=np.zeros(1, np.int64),
        names={},
    )


def _is_sound(arrays: dict[str, np.ndarray], images: Sequence[str], classes: int) -> bool:
    """Whether arrays of a cache are of the form that a scan gives: no other files, places or classes."""
    if not is_consistent(arrays, classes):
        return False
    raw, places = arrays["path_bytes"].tobytes(), arrays["path_offsets"]
    paths = {raw[a:b] for a, b in itertools.pairwise(places.tolist())}
    return paths <= set(map(os.fsencode, images))


def _scan_all(sources: Sequence[Source], names: dict[int, str]) -> Found:
    """Scan the images of all sources, with the labels as files or as annotations."""
    parts = [source.rows(names) for source in sources]
    arrays, faults = _scan(
        [image for source in sources for image in source.images],
        [row for rows, _ in parts for row in rows],
        len(names),
    )
    return arrays, [*(fault for _, found in parts for fault in found), *faults]


def _scan(images: list[str], labels: Sequence[Row], classes: int) -> Found:
    """Threads wait for the disk together; for a large set, processes parse together as well."""
    chunks = [slice(start, start + CHUNK) for start in range(0, max(len(images), 1), CHUNK)]
    cores = os.cpu_count() or 1
    many = len(images) >= PROCESSES_FROM and cores > 1
    pool: Executor = WorkerPool(min(8, cores)) if many else ThreadPoolExecutor(min(8, cores + 2))
    try:
        jobs = [pool.submit(_scan_chunk, images[chunk], labels[chunk], classes) for chunk in chunks]
        parts = [outcome(job) for job in progress(jobs, "scanning labels", unit=f" x {CHUNK} images")]
    except BrokenProcessPool as error:
        raise UserError("a process that reads labels has died; out of memory?") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return concatenate(parts)


def _scan_chunk(images: list[str], labels: Sequence[Row], classes: int) -> Found:
    paths: list[str] = []
    shapes: list[Shape] = []
    rows: list[Labels] = []
    faults: list[Fault] = []
    for image, label in zip(images, labels):
        shape, content = _scan_one(image, label, classes)
        faults += content.faults
        if shape is not None:
            paths.append(image)
            shapes.append(shape)
            rows.append(content)
    return pack(paths, shapes, rows), faults


def _scan_one(image: str, label: Row, classes: int) -> tuple[Shape | None, Labels]:
    """Height and width of an image, None when it cannot be used, and its labels with all faults."""
    if label is None:  # told of already
        return None, Labels()
    shape, faults = measured(image, lambda: image_shape(image))
    if shape is None:
        if isinstance(label, Annotated) and label.missing:
            faults = [_with_hint(fault, label.missing) for fault in faults]
        return None, Labels(faults=faults)
    file = label if isinstance(label, str) else label.place
    try:
        if isinstance(label, str):
            return shape, parsed(read_bytes(label, MOST_BYTES), classes, label)
        labels = parse_labels(label.label_text(shape), classes)
    except FileNotFoundError:
        return shape, Labels()
    except Broken as broken:
        return None, Labels(faults=[Fault(broken.kind, 0, broken.detail, image)])
    except (OSError, UserError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        return None, Labels(faults=[Fault("unreadable label file", 0, detail, file)])
    labels.faults = [label.named(fault) for fault in labels.faults]
    return shape, labels


def _with_hint(fault: Fault, hint: str) -> Fault:
    if fault.kind != "missing image":
        return fault
    return fault._replace(detail=f"{fault.detail}; {printable(hint)}")
