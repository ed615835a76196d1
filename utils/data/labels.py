"""Reading YOLO label files: what is sound is kept, what is not is repaired or dropped and named."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from utils.data.report import Fault, counted
from utils.errors import UserError
from utils.reading import read_bytes

ROUNDING = 1e-3  # an edge this far outside the image comes from printed decimals, not from a mistake
MOST_BYTES, MOST_ROWS = 8 << 20, 100_000  # of a label file
# what is said of rows that `wrongly_separated` knows
SEPARATION = re.compile(
    r"separated by (commas|semicolons); write blanks|written with .* commas; write points"
)
SEPARATORS = r"[,;\s]+"  # also those that only others write
LARGEST_SIDE = 1.1  # a box wider than this was not clipped to the image but given in other units


@dataclass
class Labels:
    """The rows of one label file."""

    boxes: np.ndarray = field(default_factory=lambda: np.zeros((0, 5), np.float32))
    """(n, 5) float32: class, x centre, y centre, width, height, normalised to 0–1"""
    polygons: list[np.ndarray] = field(default_factory=list)
    """n arrays (k, 2) float32 of x, y in 0–1; k = 0 where the row was a box"""
    faults: list[Fault] = field(default_factory=list)


def label_path(image: str) -> str:
    """Where the labels of an image lie: the last folder `images` becomes `labels`, the suffix `.txt`."""
    before, found, after = f"/{image}".replace("\\", "/").rpartition("/images/")
    path = (f"{before}/labels/{after}" if found else after)[1:]
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{name.rpartition('.')[0] or name}.txt"


def is_yolo(path: str | os.PathLike[str], *, separators: str = r"\s+") -> bool:
    """Whether the first row of a text file could be one of labels."""
    try:
        content = read_bytes(path, MOST_BYTES).decode("utf-8-sig")
        first = next((line for line in content.splitlines() if line.strip()), "")
        fields = [part for part in re.split(separators, first) if part]
        return len(fields) >= 5 and all(math.isfinite(float(value)) for value in fields)
    except (OSError, ValueError):  # of which a UserError is one
        return False


def wrongly_separated(fields: Sequence[str]) -> str:
    """What is wrong with what stands between or in the numbers of a row, and the cure; empty for nothing."""
    text = " ".join(fields)
    if len(fields) >= 5 and "," in text and all(re.fullmatch(r"-?\d+(,\d+)?", value) for value in fields):
        return "written with decimal commas; write points"
    for mark, name in ((",", "commas"), (";", "semicolons")):
        parts = [part for part in re.split(rf"[{mark}\s]+", text) if part]
        if mark in text and len(parts) >= 5 and all(map(is_number, parts[1:])):
            return f"separated by {name}; write blanks"
    return ""


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_labels(content: bytes, classes: int) -> Labels:
    """Parse one file: rows `class xc yc w h` or `class x1 y1 x2 y2 x3 y3 …`, normalised, in any mixture.

    Args:
        content: the bytes of the file.
        classes: class numbers run from 0 to `classes - 1`.

    Raises:
        UserError: more rows than any picture has objects.
    """
    if content.count(b"\n") + content.count(b"\r") > MOST_ROWS:
        raise UserError(f"more than {MOST_ROWS:,} rows")
    if plain := _parse_sound_boxes(content, classes):
        return plain
    text, faults = _decode(content)
    boxes: list[tuple[float, ...]] = []
    polygons: list[np.ndarray] = []
    rows: dict[tuple[float, ...], int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        fields = line.split()
        if not fields:
            continue
        try:
            values = _numbers(fields, classes)
            box, points, clipped = _geometry(values)
            key = (values[0], *(points.ravel() if len(points) else box))
            if key in rows:
                raise _Bad("duplicate row", f"same as line {rows[key]}")
        except _Bad as bad:
            kind, detail = bad.args
            faults.append(Fault(kind, number, detail))
            continue
        if clipped:
            faults.append(Fault("slightly out of bounds", number, clipped))
        rows[key] = number
        boxes.append((values[0], *box))
        polygons.append(points)
    return Labels(np.array(boxes, np.float32).reshape(-1, 5), polygons, faults)


class _Bad(Exception):
    """A row that has to be dropped; its arguments are the kind and the detail of a `Fault`."""


def _parse_sound_boxes(content: bytes, classes: int) -> Labels | None:
    """The short way for a file of boxes with nothing wrong, as nearly all are; None for any other file."""
    lines = [line.split() for line in content.splitlines()]
    rows = [row for row in lines if row]
    if any(len(row) != 5 for row in rows):
        return None
    if not rows:
        return Labels()
    try:
        table = np.array(rows, dtype=np.float64)
    except ValueError:
        return None
    if not np.isfinite(table).all():
        return None
    cls, centre, size = table[:, 0], table[:, 1:3], table[:, 3:5]
    inside = (centre - size / 2 >= -ROUNDING).all() and (centre + size / 2 <= 1 + ROUNDING).all()
    known = ((cls >= 0) & (cls < classes) & (cls == np.floor(cls))).all()
    if not (inside and known and (size > 0).all()) or len(set(map(tuple, table.tolist()))) < len(rows):
        return None
    return Labels(table.astype(np.float32), [np.zeros((0, 2), np.float32)] * len(rows))


def _decode(content: bytes) -> tuple[str, list[Fault]]:
    """The text of a label file. Other encodings than ASCII are read as well as possible and reported."""
    encoding = "utf-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding, detail = "utf-16", "UTF-16 instead of UTF-8"
    elif b"\0" in content:
        content, detail = content.replace(b"\0", b""), "null bytes: a binary file, or UTF-16 without its mark"
    else:
        try:
            return content.decode("utf-8-sig"), []
        except UnicodeDecodeError as error:
            detail = f"byte 0x{content[error.start]:02x} at offset {error.start} is not UTF-8"
    return content.decode(encoding, "replace"), [Fault("wrong encoding", 0, detail)]


def _numbers(fields: list[str], classes: int) -> list[float]:
    """A row as numbers, class first. Raises `_Bad` when the columns or the class make no sense."""
    count = len(fields)
    if count != 5 and (count < 7 or count % 2 == 0):
        hint = wrongly_separated(fields) or ("a prediction with its confidence?" if count == 6 else "")
        columns = f"{counted(count, 'column')}{hint and f' ({hint})'}"
        raise _Bad("wrong column count", f"{columns}; a box has 5, a polygon 7 or 9 or 11 …")
    try:
        values = [float(value) for value in fields]
    except ValueError as error:
        raise _Bad("not a number", wrongly_separated(fields) or str(error)[-60:]) from error
    if not all(map(math.isfinite, values)):
        raise _Bad("not finite", " ".join(fields)[:60])
    if values[0] != int(values[0]):
        hint = "; does it stand last?" if count == 5 and values[4] == int(values[4]) else ""
        raise _Bad("class not an integer", f"class {fields[0]}{hint}")
    if not 0 <= values[0] < classes:
        raise _Bad("class out of range", f"class {int(values[0])}, names has 0 to {classes - 1}")
    return values


def _geometry(values: list[float]) -> tuple[tuple[float, ...], np.ndarray, str]:
    """(xc, yc, w, h), the polygon (k, 2) or (0, 2), and a word about clipping. Raises `_Bad`."""
    points = np.zeros((0, 2), np.float32)
    if len(values) == 5:
        xc, yc, w, h = values[1:]
        if w <= 0 or h <= 0:
            raise _Bad("no area", f"width {w:g}, height {h:g}")
        edges = (xc - w / 2, yc - h / 2, xc + w / 2, yc + h / 2)
    else:
        corners = np.array(values[1:]).reshape(-1, 2)
        low, high = corners.min(0), corners.max(0)
        if (high - low <= 0).any() or _polygon_area(corners) == 0:
            raise _Bad("degenerate polygon", f"{len(corners)} points without area")
        edges = (low[0], low[1], high[0], high[1])
        points = corners.clip(0, 1).astype(np.float32)
    beyond = max(-edges[0], -edges[1], edges[2] - 1, edges[3] - 1)
    if beyond <= ROUNDING:
        return _centred(*edges), points, ""
    where = "edges at {:g} {:g} {:g} {:g}".format(*edges)
    centre = ((edges[0] + edges[2]) / 2, (edges[1] + edges[3]) / 2)
    side = max(edges[2] - edges[0], edges[3] - edges[1])
    if side > LARGEST_SIDE or not (0 < centre[0] < 1 and 0 < centre[1] < 1):
        hint = "; pixels instead of fractions of the image?" if max(edges) > 2 else ""
        raise _Bad("out of bounds", where + hint)
    return _centred(*(min(max(edge, 0.0), 1.0) for edge in edges)), points, where


def _centred(x1: float, y1: float, x2: float, y2: float) -> tuple[float, float, float, float]:
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def _polygon_area(points: np.ndarray) -> float:
    """Twice the signed area (shoelace formula)."""
    x, y = points.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1))
