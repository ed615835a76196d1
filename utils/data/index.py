"""One scan of a split becomes a packed index: a handful of flat arrays, however many images there are.

Lists of Python objects would be copied into every worker process page by page, as their reference counts
change; these arrays are shared. `label_cache.py` keeps what was found beside the labels.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from utils.console import LOGGER, progress
from utils.data import label_cache
from utils.data.folders import find_orphans, found_instead_of_labels, no_images
from utils.data.formats.opening import YOLO, Source, key_of, open_source
from utils.data.formats.record import Annotated, Broken
from utils.data.images import ImageError, image_shape
from utils.data.labels import MOST_BYTES, ROUNDING, Labels, parse_labels
from utils.data.report import MEANT, Fault, LabelReport
from utils.data.shared import SharedArray
from utils.data.slips import explain_slip
from utils.data.workers import WorkerPool
from utils.errors import UserError
from utils.pipeline import outcome
from utils.reading import read_bytes

SMALLEST_SIDE = 10  # pixels
SLIPS, SLIP_SHARE = 2, 0.01  # so many rows, or such a share, may name a class too many by mistake
CHUNK = 128
PROCESSES_FROM = 4000  # images; below, starting processes costs more than it saves
Found: TypeAlias = tuple[dict[str, np.ndarray], list[Fault]]  # arrays as in `DatasetIndex`, and all faults

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
        return _unlabelled(joined, _ends(map(len, paths)), self.shapes[chosen])

    def with_boxes(self, boxes: Sequence[np.ndarray]) -> DatasetIndex:
        """The same pictures, each with (n, 5) class, xc, yc, w, h normalised, and no polygons."""
        joined = np.concatenate([np.zeros((0, 5), np.float32), *boxes])
        return dataclasses.replace(
            _unlabelled(self.path_bytes, self.path_offsets, self.shapes),
            boxes=joined,
            offsets=_ends(map(len, boxes)),
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


# dtype, and the size of the second axis where there is one
FORMS: dict[str, tuple[type, tuple[int, ...]]] = {
    "path_bytes": (np.uint8, ()), "path_offsets": (np.int64, ()), "shapes": (np.int32, (2,)),
    "boxes": (np.float32, (5,)), "offsets": (np.int64, ()), "points": (np.float32, (2,)),
    "point_offsets": (np.int64, ()),
}  # fmt: skip
ARRAYS = tuple(FORMS)


def build_index(
    sources: Sequence[Path],
    names: dict[int, str],
    *,
    single_cls: bool = False,
    strict: bool = False,
    cache: bool = True,
) -> DatasetIndex:
    """Scan the images of `sources` and their labels.

    Args:
        sources: folders (searched recursively), list files (`.txt`, one path a line, relative to the file's
            folder or to the working directory), single images, or files of annotations: `formats/opening.py`.
        names: class number -> name; labels with other classes are dropped.
        single_cls: every label becomes class 0, after the check against `names`.
        strict: any fault is an error.
        cache: read and write the cache beside the labels; where that folder is read-only, nothing is kept.

    Raises:
        UserError: no usable image, or with `strict` any fault.
    """
    opened = [open_source(source) for source in sources]
    images = [image for source in opened for image in source.images]
    labels = [label for source in opened for label in source.labels]
    if not images:
        raise UserError(no_images(sources))
    usual = all(source.kind == YOLO for source in opened)
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
    arrays, faults = found
    empty = int((np.diff(arrays["offsets"]) == 0).sum())
    faults = [*faults, *(find_orphans(sources, labels) if usual else [])]
    report = LabelReport(faults, images=len(arrays["shapes"]), backgrounds=empty, boxes=len(arrays["boxes"]))
    above = f"class {len(names)}, "  # as the detail of a class that is one too large begins
    texts = report.is_suspicious and all(source.read is None for source in opened)
    if texts and (slip := explain_slip(labels, names)):
        report.nothing_to_learn = slip
    elif not report.boxes:
        report.nothing_to_learn = found_instead_of_labels(images, labels, faults)
    elif (arrays["boxes"][:, 0] > 0).all() and sum(fault.detail.startswith(above) for fault in faults) > max(
        SLIPS, report.boxes * SLIP_SHARE
    ):
        report.nothing_to_learn = f"classes seem to count from 1: {above}but none of class 0, the first name"
    index = DatasetIndex(**arrays, names=names, report=report)
    wrong = [fault for fault in faults if fault.kind not in MEANT]
    first = wrong[0] if wrong else None
    if strict and first:
        total = f"{len(wrong)} faults in all, fatal with --strict"
        raise UserError(f"{first.place}: {first.kind} ({first.detail}); {total}")
    if first and not len(index):
        raise UserError(f"none of {len(images)} images can be used; the first: {first.place}: {first.kind}")
    if single_cls:
        index.boxes[:, 0] = 0
    return index


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
    for name, (dtype, columns) in FORMS.items():
        array = arrays[name]
        if array.dtype != dtype or array.ndim != 1 + len(columns) or array.shape[1:] != columns:
            return False
    count, rows = len(arrays["shapes"]), len(arrays["boxes"])
    ends = {
        "path_offsets": (count, "path_bytes"),
        "offsets": (count, "boxes"),
        "point_offsets": (rows, "points"),
    }
    for name, (runs, target) in ends.items():
        offsets = arrays[name]
        if len(offsets) != runs + 1 or offsets[0] != 0 or offsets[-1] != len(arrays[target]):
            return False
        if (np.diff(offsets) < 0).any():
            return False
    boxes, shapes = arrays["boxes"], arrays["shapes"]
    cls, edge = boxes[:, 0], 1 + ROUNDING
    inside = ((cls >= 0) & (cls < classes) & (cls == np.floor(cls))).all()
    inside &= ((boxes[:, 1:] >= -ROUNDING) & (boxes[:, 1:] <= edge + ROUNDING)).all()
    points = arrays["points"]
    known = ((points >= 0) & (points <= 1)).all() and (shapes >= SMALLEST_SIDE).all() and inside
    raw, places = arrays["path_bytes"].tobytes(), arrays["path_offsets"]
    paths = {raw[a:b] for a, b in itertools.pairwise(places.tolist())}
    return bool(known) and paths <= set(map(os.fsencode, images))


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
    chunks = [slice(start, start + CHUNK) for start in range(0, len(images), CHUNK)]
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
    return _concatenate(parts)


def _scan_chunk(images: list[str], labels: Sequence[Row], classes: int) -> Found:
    paths: list[bytes] = []
    shapes: list[tuple[int, int]] = []
    rows: list[Labels] = []
    faults: list[Fault] = []
    for image, label in zip(images, labels):
        shape, content = _scan_one(image, label, classes)
        faults += content.faults
        if shape is not None:
            paths.append(os.fsencode(image))
            shapes.append(shape)
            rows.append(content)
    polygons = [polygon for found in rows for polygon in found.polygons]
    arrays = {
        "path_bytes": np.frombuffer(b"".join(paths), np.uint8),
        "path_offsets": _ends(len(path) for path in paths),
        "shapes": np.array(shapes, np.int32).reshape(-1, 2),
        "boxes": np.concatenate([np.zeros((0, 5), np.float32), *(found.boxes for found in rows)]),
        "offsets": _ends(len(found.boxes) for found in rows),
        "points": np.concatenate([np.zeros((0, 2), np.float32), *polygons]),
        "point_offsets": _ends(len(polygon) for polygon in polygons),
    }
    return arrays, faults


def _scan_one(image: str, label: Row, classes: int) -> tuple[tuple[int, int] | None, Labels]:
    """Height and width of an image, None when it cannot be used, and its labels with all faults."""
    if label is None:  # told of already
        return None, Labels()
    try:
        shape = image_shape(image)
    except ImageError as error:
        return None, Labels(faults=[Fault(f"{error.kind} image", 0, error.reason, image)])
    if min(shape) < SMALLEST_SIDE:
        detail = f"{shape[1]}x{shape[0]} pixels, at least {SMALLEST_SIDE} a side are needed"
        return None, Labels(faults=[Fault("image too small", 0, detail, image)])
    labels = Labels()
    file = label if isinstance(label, str) else label.place
    try:
        content = read_bytes(label, MOST_BYTES) if isinstance(label, str) else label.label_text(shape)
        labels = parse_labels(content, classes)
    except FileNotFoundError:
        pass
    except Broken as broken:
        return None, Labels(faults=[Fault(broken.kind, 0, broken.detail, image)])
    except (OSError, UserError) as error:
        detail = getattr(error, "strerror", None) or str(error)
        return None, Labels(faults=[Fault("unreadable label file", 0, detail, file)])
    if isinstance(label, str):
        labels.faults = [fault._replace(file=label) for fault in labels.faults]
    else:
        labels.faults = [label.named(fault) for fault in labels.faults]
    return shape, labels


def _concatenate(parts: list[Found]) -> Found:
    def joined(name: str) -> np.ndarray:
        arrays = [part[name] for part, _ in parts]
        if not name.endswith("offsets"):
            return np.concatenate(arrays)
        return _ends(length for array in arrays for length in np.diff(array))

    return {name: joined(name) for name in ARRAYS}, [fault for _, faults in parts for fault in faults]


def _ends(lengths: Iterable[int]) -> np.ndarray:
    """Offsets (n + 1,) int64 of runs of these lengths."""
    return np.concatenate([[0], np.cumsum(np.fromiter(lengths, np.int64))]).astype(np.int64)
