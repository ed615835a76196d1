"""What every format is read into: pictures, each with boxes in pixels, class numbers and polygons."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from utils.console import printable
from utils.data.report import Fault, counted
from utils.errors import UserError

Opened = TypeVar("Opened")
MOST_CLASSES = 10_000
LONGEST_NAME = 200  # letters of a class name
SAME_HULL = 0.1  # pixels that the box around a polygon may differ from the box that is given
SAME_SHAPE = 0.02  # relative difference of two aspect ratios up to which one picture is the other one scaled
NONE = np.zeros((0, 2))  # the polygon of an object without one
FRACTIONS = (1.0, 1.0)  # the extent of boxes that are given in parts of the picture


class Broken(Exception):
    """An object of a picture that has to be left out: the kind and the detail of a `Fault`."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind, self.detail = kind, detail


@dataclass
class Annotated:
    """A picture and the n objects on it, as a file has them: neither clipped nor checked."""

    path: str
    extent: tuple[float, float] | None  # width, height that the boxes refer to; None: those of the picture
    boxes: np.ndarray  # (n, 4) float64 x1, y1, x2, y2 in the units of `extent`: pixels, mostly
    classes: np.ndarray  # (n,) int64 into the names of the file
    numbers: np.ndarray  # (n,) int64: which object of the file (`Annotations.counted`) this is
    polygons: list[np.ndarray]  # n arrays (k, 2) float64 x, y; k = 0 where there is none
    place: str  # the file, as faults name it
    counted: str  # what `numbers` count: lines of a text, annotations, objects
    missing: str = ""  # what to say where the picture is not there

    def label_text(self, shape: tuple[int, int]) -> bytes:
        """The rows that a YOLO label file of this picture would have.

        Training from any format goes by way of this text, so that it equals training from files. Each value
        is the shortest decimal number that stands for its float32.

        Args:
            shape: height and width of the picture in pixels, upright.

        Raises:
            Broken: the file tells of a picture of another shape, so that its pixels mean something else.
        """
        height, width = shape
        extent = self._checked_extent(width, height)
        if not len(self.boxes):
            return b""
        with np.errstate(all="ignore"):  # what is not finite is found when the rows are read
            x1, y1, x2, y2 = (self.boxes / np.array([*extent, *extent])).T
            rows = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], 1).astype(np.float32)
        texts = rows.astype(str).tolist()
        tolerance = SAME_HULL / np.array([width, height]) * extent
        for number, polygon in enumerate(self.polygons):
            if len(polygon) >= 3 and _is_hull(self.boxes[number], polygon, tolerance):
                with np.errstate(all="ignore"):
                    texts[number] = (polygon / extent).astype(np.float32).ravel().astype(str).tolist()
        return "".join(f"{cls} {' '.join(row)}\n" for cls, row in zip(self.classes, texts)).encode()

    def _checked_extent(self, width: int, height: int) -> tuple[float, float]:
        extent = self.extent or (float(width), float(height))
        if extent == FRACTIONS:
            return extent
        if not all(math.isfinite(side) and side > 0 for side in extent):
            return float(width), float(height)
        if abs(extent[0] * height / (extent[1] * width) - 1) > SAME_SHAPE:
            told = f"{extent[0]:g}x{extent[1]:g}"
            raise Broken("picture of another shape", f"labelled at {told}, found {width}x{height} pixels")
        return extent

    def named(self, fault: Fault) -> Fault:
        """A fault in a row of `label_text`, in terms of the file."""
        number = int(self.numbers[fault.line - 1]) if 0 < fault.line <= len(self.numbers) else 0
        if self.counted == "line":
            return fault._replace(file=self.place, line=number)
        what = f"{os.path.basename(self.path)}, {self.counted} {number}: " if number else ""  # noqa: PTH119
        return fault._replace(file=self.place, line=0, detail=what + fault.detail)


def _is_hull(box: np.ndarray, polygon: np.ndarray, tolerance: np.ndarray) -> bool:
    """Whether a box is the one around a polygon; a row of YOLO text can hold only one of them."""
    hull = np.concatenate([polygon.min(0), polygon.max(0)])
    return bool((np.abs(hull - box) <= np.tile(tolerance, 2)).all())


@dataclass
class Annotations:
    """What a file, or a folder of files, says of some pictures."""

    names: list[str]
    pictures: list[Annotated]
    faults: list[Fault] = field(default_factory=list)
    ordered: bool = False  # whether the format gives classes an order; else they are sorted

    def numbered_as(self, names: Mapping[int, str], place: str) -> Annotations:
        """The same with the class numbers of a data yaml, to which classes belong by their names.

        Objects of other classes are left out; one fault counts them.
        """
        numbers = {name: number for number, name in reversed([*names.items()])}
        stripped = {name.strip(): number for name, number in reversed([*numbers.items()])}
        mapping = np.array([numbers.get(n, stripped.get(n.strip(), -1)) for n in self.names], np.int64)
        unknown = Counter[int]()
        pictures = []
        for picture in self.pictures:
            new = mapping[picture.classes] if len(picture.classes) else picture.classes
            if (new < 0).any():
                unknown.update(picture.classes[new < 0].tolist())
            pictures.append(_chosen(picture, new))
        faults = list(self.faults)
        if unknown:
            counts = ((self.names[number], count) for number, count in unknown.most_common())
            found = ", ".join(_unknown(name, count, names) for name, count in counts)
            faults.append(Fault("unknown class", 0, f"{found}; names has {_few(names.values())}", place))
        return dataclasses.replace(self, names=list(names.values()), pictures=pictures, faults=faults)


def _chosen(picture: Annotated, classes: np.ndarray) -> Annotated:
    """The objects whose new class is known, with it."""
    known = classes >= 0
    if known.all():
        return dataclasses.replace(picture, classes=classes)
    polygons = [polygon for polygon, use in zip(picture.polygons, known) if use]
    return dataclasses.replace(
        picture,
        boxes=picture.boxes[known],
        classes=classes[known],
        numbers=picture.numbers[known],
        polygons=polygons,
    )


def _unknown(name: str, count: int, names: Mapping[int, str]) -> str:
    alike = {other.strip().lower(): other for other in names.values()}
    near = difflib.get_close_matches(name.strip().lower(), alike, n=1, cutoff=0.8)
    hint = f", like '{alike[near[0]]}'?" if near else ""
    return f"'{name}' ({counted(count, 'box')}{hint})"


def _few(names: Iterable[str]) -> str:
    shown = [f"'{name}'" for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


class Gatherer:
    """Collects the objects of one file or folder, by picture, in the order in which they come."""

    def __init__(self, counted: str, names: Sequence[str] = (), ordered: bool = False) -> None:
        self.counted, self.ordered = counted, ordered
        self.classes: dict[str, int] = {}
        for name in names:
            self.number_of(name)
        self.faults: list[Fault] = []
        self._rows: dict[str, list[tuple[int, int, Sequence[float], np.ndarray]]] = {}
        self._about: dict[str, tuple[str, tuple[float, float] | None]] = {}
        self._missing: dict[str, str] = {}

    def number_of(self, name: object) -> int:
        """The number of a class by its name, new ones at the end. Raises `Broken` for what is no name."""
        if isinstance(name, bool) or not isinstance(name, str | int) or str(name).strip() == "":
            raise Broken("broken annotation", f"class {repr(name)[:40]} is no name")
        text = str(name)
        if len(text) > LONGEST_NAME or printable(text) != text:
            raise Broken("broken annotation", f"class name {printable(text)[:40]!r}… is no short text")
        if text not in self.classes and len(self.classes) >= MOST_CLASSES:
            raise UserError(f"more than {MOST_CLASSES:,} class names; are these the classes?")
        return self.classes.setdefault(text, len(self.classes))

    def picture(self, name: str, place: str, extent: tuple[float, float] | None = None) -> None:
        """Tell of a picture; also one without objects is kept. The first word about it counts."""
        self._rows.setdefault(name, [])
        if self._about.get(name, ("", None))[1] is None:
            self._about[name] = (place, extent)

    def say_if_missing(self, name: str, said: str) -> None:
        """Where a picture may be when it is not there."""
        self._missing[name] = said

    def add(self, name: str, number: int, cls: int, box: Sequence[float], polygon: Any = None) -> None:
        """An object on a picture that was told of: x1, y1, x2, y2, and corners (k, 2) where it has some."""
        corners = NONE if polygon is None else np.array(polygon, np.float64)
        self._rows[name].append((number, cls, box, corners))

    def fault(self, kind: str, detail: str, place: str, line: int = 0) -> None:
        self.faults.append(Fault(kind, line, printable(detail)[:200], place))

    def opened(
        self, pairs: Iterable[tuple[str, str]], read: Callable[[Path], Opened]
    ) -> Iterator[tuple[str, str, Opened]]:
        """Pictures with an annotation each: path, file, and what `read` makes of the file.

        A picture without the file has no objects; a file that cannot be read is a fault.
        """
        for picture, file in dict.fromkeys(pairs):  # a list may have one twice
            try:
                content = read(Path(file))
            except FileNotFoundError:
                self.picture(picture, file)
            except (UserError, OSError) as error:
                reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{file}: ")
                self.fault("unreadable label file", reason, file)
            else:
                yield picture, file, content

    def annotations(self) -> Annotations:
        """All of it. Classes without an order are sorted by name."""
        names = list(self.classes)
        order = names if self.ordered else sorted(names)
        place_of = {name: number for number, name in enumerate(order)}
        renumber = np.array([place_of[name] for name in names], np.int64)
        pictures = [self._annotated(name, renumber) for name in self._rows]
        return Annotations(order, pictures, self.faults, self.ordered)

    def _annotated(self, name: str, renumber: np.ndarray) -> Annotated:
        rows = self._rows[name]
        place, extent = self._about[name]
        classes = np.array([row[1] for row in rows], np.int64)
        return Annotated(
            path=name,
            extent=extent,
            boxes=np.array([row[2] for row in rows], np.float64).reshape(-1, 4),
            classes=renumber[classes] if len(rows) else classes,
            numbers=np.array([row[0] for row in rows], np.int64),
            polygons=[row[3] for row in rows],
            place=place,
            counted=self.counted,
            missing=self._missing.get(name, ""),
        )


# ---- values of strangers ----


def number(value: object, what: str) -> float:
    """A finite number, also one that is written as text.

    Raises:
        Broken: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise Broken("broken annotation", f"{what} is {repr(value)[:40]}, a number is expected")
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise Broken("broken annotation", f"{what} is {repr(value)[:40]}, a number is expected") from None
    if not math.isfinite(result):
        raise Broken("not finite", f"{what} is {result}")
    return result


def numbers(values: object, what: str, count: int | None = None) -> list[float]:
    """A list of finite numbers, of a certain length when there is a `count`.

    Raises:
        Broken: it is none.
    """
    if not isinstance(values, list) or (count is not None and len(values) != count):
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)[:40]
        expected = "a list" if count is None else f"{count} values"
        raise Broken("broken annotation", f"{what} has {found}, {expected} expected")
    return [number(value, what) for value in values]


def file_name(value: object) -> str:
    """The name of a picture, with slashes as separators.

    Raises:
        Broken: it cannot be the name of a file.
    """
    name = value.replace("\\", "/").strip() if isinstance(value, str) else ""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        name = ""
    if not name or len(name) > 4096 or any(ord(letter) < 32 for letter in name):
        raise Broken("broken annotation", f"{repr(value)[:60]} is no name of a picture")
    return name


def extent(width: object, height: object) -> tuple[float, float] | None:
    """Width and height of a picture; None when they are not told, or are nothing that a picture can have."""
    try:
        sides = number(width, "width"), number(height, "height")
    except Broken:
        return None
    return sides if min(sides) > 0 else None


def around(points: Sequence[Sequence[float]]) -> list[float]:
    """x1, y1, x2, y2 of the upright box around points."""
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    return [min(xs), min(ys), max(xs), max(ys)]


def turned(
    x: float, y: float, width: float, height: float, degrees: float, pivot: tuple[float, float]
) -> Any:
    """The four corners of a box (x, y: its top left) that is turned clockwise about a point."""
    angle = math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    corners = ((x, y), (x + width, y), (x + width, y + height), (x, y + height))
    centred = ((px - pivot[0], py - pivot[1]) for px, py in corners)
    return [(pivot[0] + dx * cos - dy * sin, pivot[1] + dx * sin + dy * cos) for dx, dy in centred]
