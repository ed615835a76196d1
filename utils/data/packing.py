"""What a scan finds, packed into flat arrays: of files (`index.py`) as of tar shards (`shards/scan.py`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from utils.data.images import ImageError
from utils.data.labels import ROUNDING, Labels, parse_labels
from utils.data.report import Fault

SMALLEST_SIDE = 10  # pixels
Shape: TypeAlias = tuple[int, int]  # height, width in pixels, upright
Found: TypeAlias = tuple[dict[str, np.ndarray], list[Fault]]  # arrays as in `DatasetIndex`, and all faults

# dtype, and the size of the second axis where there is one
FORMS: dict[str, tuple[type, tuple[int, ...]]] = {
    "path_bytes": (np.uint8, ()), "path_offsets": (np.int64, ()), "shapes": (np.int32, (2,)),
    "boxes": (np.float32, (5,)), "offsets": (np.int64, ()), "points": (np.float32, (2,)),
    "point_offsets": (np.int64, ()),
}  # fmt: skip
ARRAYS = tuple(FORMS)


def measured(image: str, shape_of: Callable[[], Shape]) -> tuple[Shape | None, list[Fault]]:
    """Height and width of an image, None when it cannot be used, and why."""
    try:
        shape = shape_of()
    except ImageError as error:
        return None, [Fault(f"{error.kind} image", 0, error.reason, image)]
    if min(shape) < SMALLEST_SIDE:
        detail = f"{shape[1]}x{shape[0]} pixels, at least {SMALLEST_SIDE} a side are needed"
        return None, [Fault("image too small", 0, detail, image)]
    return shape, []


def parsed(content: bytes, classes: int, file: str) -> Labels:
    """The rows of a label file, and its faults under its name.

    Raises:
        UserError: more rows than any picture has objects.
    """
    labels = parse_labels(content, classes)
    labels.faults = [fault._replace(file=file) for fault in labels.faults]
    return labels


def pack(paths: Sequence[str], shapes: Sequence[Shape], rows: Sequence[Labels]) -> dict[str, np.ndarray]:
    """The arrays of a `DatasetIndex` for some images with their labels."""
    encoded = [os.fsencode(path) for path in paths]
    polygons = [polygon for found in rows for polygon in found.polygons]
    return {
        "path_bytes": np.frombuffer(b"".join(encoded), np.uint8),
        "path_offsets": ends(len(path) for path in encoded),
        "shapes": np.array(shapes, np.int32).reshape(-1, 2),
        "boxes": np.concatenate([np.zeros((0, 5), np.float32), *(found.boxes for found in rows)]),
        "offsets": ends(len(found.boxes) for found in rows),
        "points": np.concatenate([np.zeros((0, 2), np.float32), *polygons]),
        "point_offsets": ends(len(polygon) for polygon in polygons),
    }


def concatenate(parts: Sequence[Found]) -> Found:
    """Several scans, one after the other."""

    def joined(name: str) -> np.ndarray:
        arrays = [part[name] for part, _ in parts]
        if not name.endswith("offsets"):
            return np.concatenate(arrays)
        return ends(np.concatenate([np.diff(array) for array in arrays]))

    return {name: joined(name) for name in ARRAYS}, [fault for _, faults in parts for fault in faults]


def ends(lengths: Iterable[int] | np.ndarray) -> np.ndarray:
    """Offsets (n + 1,) int64 of runs of these lengths."""
    counts = lengths if isinstance(lengths, np.ndarray) else np.fromiter(lengths, np.int64)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def is_consistent(arrays: dict[str, np.ndarray], classes: int) -> bool:
    """Whether arrays of a cache are of the form that a scan gives; their paths are not looked at."""
    for name, (dtype, columns) in FORMS.items():
        array = arrays[name]
        if array.dtype != dtype or array.ndim != 1 + len(columns) or array.shape[1:] != columns:
            return False
    count, rows = len(arrays["shapes"]), len(arrays["boxes"])
    targets = {
        "path_offsets": (count, "path_bytes"),
        "offsets": (count, "boxes"),
        "point_offsets": (rows, "points"),
    }
    for name, (runs, target) in targets.items():
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
    return bool(((points >= 0) & (points <= 1)).all() and (shapes >= SMALLEST_SIDE).all() and inside)
