"""Boxes in csv files, one a line.

* RetinaNet style (`keras-retinanet`, `pytorch-retinanet`): `path,x1,y1,x2,y2,class` without a head, corners
  in pixels; `path,,,,,` is a picture without objects. A `classes.csv` (`class,number`) beside it gives the
  order.
* With a head: `filename,width,height,class,xmin,ymin,xmax,ymax` (TensorFlow's tutorials, Roboflow) in any
  order.
* VGG Image Annotator: `filename,…,region_shape_attributes,region_attributes`, where the last two are JSON.
* Open Images: `ImageID,…,LabelName,…,XMin,XMax,YMin,YMax,…` in parts of the picture. A file
  `class-descriptions*.csv` (`/m/0abc,Cat`) beside it names the classes. Groups (`IsGroupOf`) are left out and
  counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from utils.data.formats.reading import read_table
from utils.data.formats.record import (
    FRACTIONS,
    Annotations,
    Broken,
    Gatherer,
    around,
    extent,
    file_name,
    number,
)
from utils.data.labels import is_number
from utils.data.report import counted
from utils.errors import UserError

TABLES = (
    "Open Images csv",
    "VGG Image Annotator csv",
    "csv of boxes",
    "RetinaNet csv",
)  # as `kind_of` has them
Rows = Iterator[tuple[int, list[str]]]
CORNERS = ("xmin", "ymin", "xmax", "ymax")
FILE = ("filename", "file_name", "image", "image_path", "path", "img", "image_name")
CLASS = ("class", "label", "class_name", "name", "category")
OPEN_IMAGES = {"imageid", "labelname", "xmin", "xmax", "ymin", "ymax"}
OTHER_CORNERS = {"x1": "xmin", "y1": "ymin", "x2": "xmax", "y2": "ymax"}
MOST_SIDE_TABLE = 16 << 20  # bytes of a table of class names
VGG = {"filename", "region_shape_attributes", "region_attributes"}


def head_of(path: Path) -> list[str]:
    """The first row of a table; empty when there is none."""
    return next((row for _, row in read_table(path)), [])


def kind_of(head: list[str]) -> str:
    """The style of a table by its first row; empty when it holds no boxes that are known."""
    columns = {cell.lower() for cell in head}
    if columns >= OPEN_IMAGES:
        return "Open Images csv"
    if columns >= VGG:
        return "VGG Image Annotator csv"
    named = {OTHER_CORNERS.get(column, column) for column in columns}
    if named >= {*CORNERS} and named & {*FILE} and named & {*CLASS}:
        return "csv of boxes"
    if len(head) == 6 and (head[1:] == [""] * 5 or all(is_number(cell) for cell in head[1:5])):
        return "RetinaNet csv"
    return ""


def side_files(path: Path) -> list[Path]:
    """The tables beside one of boxes that tell of its classes."""
    names = sorted(path.parent.glob("class-descriptions*.csv"))
    return [file for file in (path.parent / "classes.csv", *names[:1]) if file.is_file() and file != path]


def read_boxes(path: Path, kind: str) -> Annotations:
    """All pictures of a table, in its order; their names are as the file has them."""
    rows = read_table(path)
    gatherer = _with_classes(path, kind)
    columns = list("012345") if kind == "RetinaNet csv" else [cell.lower() for cell in next(rows)[1]]
    columns = [OTHER_CORNERS.get(column, column) for column in columns]
    groups, place = 0, str(path)
    names = _display_names(path) if kind == "Open Images csv" else {}
    read = READERS[kind]
    for line, cells in rows:
        try:
            if len(cells) < len(columns):
                raise Broken(
                    "wrong column count",
                    f"{counted(len(cells), 'column')}, {len(columns)} expected",
                )
            row = dict(zip(columns, cells))
            if row.get("isgroupof") == "1":
                groups += 1
            if names and row["labelname"] in names:
                row["labelname"] = names[row["labelname"]]
            read(gatherer, place, line, row)
        except Broken as broken:
            gatherer.fault(broken.kind, broken.detail, place, line)
    if groups:
        gatherer.fault("crowd", f"{groups:,} groups of objects (IsGroupOf)", place)
    return gatherer.annotations()


def _with_classes(path: Path, kind: str) -> Gatherer:
    """A gatherer that knows the order of the classes where a table beside `path` gives it."""
    file = path.parent / "classes.csv"
    if kind != "RetinaNet csv" or not file.is_file() or file == path:
        return Gatherer("line")
    order = {}
    for line, row in read_table(file, MOST_SIDE_TABLE):
        if len(row) != 2 or not row[1].isdecimal() or len(row[1]) > 9:
            raise UserError(f"{file}:{line}: expected class,number; found {','.join(row)[:60]!r}")
        order[row[0]] = int(row[1])
    try:
        return Gatherer("line", sorted(order, key=order.__getitem__), ordered=True)
    except Broken as broken:
        raise UserError(f"{file}: {broken.detail}") from broken


def _display_names(path: Path) -> dict[str, str]:
    files = [file for file in side_files(path) if file.name.startswith("class-descriptions")]
    return {row[0]: row[1] for file in files for _, row in read_table(file, MOST_SIDE_TABLE) if len(row) == 2}


def _retinanet(gatherer: Gatherer, place: str, line: int, row: dict[str, str]) -> None:
    name = file_name(row["0"])
    gatherer.picture(name, place)
    if any(row[key] for key in "12345"):
        box = [number(row[key], what) for key, what in zip("1234", ("x1", "y1", "x2", "y2"))]
        gatherer.add(name, line, gatherer.number_of(row["5"]), box)


def _with_head(gatherer: Gatherer, place: str, line: int, row: dict[str, str]) -> None:
    name = file_name(next(row[key] for key in FILE if key in row))
    gatherer.picture(name, place, extent(row.get("width"), row.get("height")))
    cls = next(row[key] for key in CLASS if key in row)
    if cls or any(row[key] for key in CORNERS):
        gatherer.add(name, line, gatherer.number_of(cls), [number(row[key], key) for key in CORNERS])


def _open_images(gatherer: Gatherer, place: str, line: int, row: dict[str, str]) -> None:
    name = file_name(row["imageid"])
    gatherer.picture(name, place, FRACTIONS)
    if row.get("isgroupof") != "1":
        gatherer.add(
            name, line, gatherer.number_of(row["labelname"]), [number(row[key], key) for key in CORNERS]
        )


def _vgg(gatherer: Gatherer, place: str, line: int, row: dict[str, str]) -> None:
    name = file_name(row["filename"])
    gatherer.picture(name, place)
    shape = _mapping(row["region_shape_attributes"], "region_shape_attributes")
    if not shape:
        return
    attributes = _mapping(row["region_attributes"], "region_attributes")
    chosen = next((attributes[key] for key in CLASS if key in attributes), None)
    if chosen is None:
        texts = [value for value in attributes.values() if isinstance(value, str) and value]
        if len(texts) != 1:
            raise Broken("broken annotation", f"region_attributes names no {' or '.join(CLASS)}")
        chosen = texts[0]
    if isinstance(chosen, dict):  # of a check box: {"cat": true}
        chosen = next((key for key, value in chosen.items() if value), "")
    kind = shape.get("name")
    if kind == "rect":
        x, y, width, height = (number(shape.get(key), key) for key in ("x", "y", "width", "height"))
        gatherer.add(name, line, gatherer.number_of(chosen), [x, y, x + width, y + height])
    elif kind == "polygon":
        xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
        if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys) or len(xs) < 3:
            raise Broken("degenerate polygon", "all_points_x and all_points_y are not three or more each")
        points = [(number(x, "x"), number(y, "y")) for x, y in zip(xs, ys)]
        gatherer.add(name, line, gatherer.number_of(chosen), around(points), points)
    else:
        raise Broken("other shape", f"kind {str(kind)[:40]!r}")


def _mapping(cell: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(cell or "{}")
    except (ValueError, RecursionError) as error:
        raise Broken("broken annotation", f"{what} is not JSON") from error
    if not isinstance(value, dict):
        raise Broken("broken annotation", f"{what} is {repr(value)[:40]}, a mapping is expected")
    return value


READERS: dict[str, Callable[[Gatherer, str, int, dict[str, str]], None]] = {
    "RetinaNet csv": _retinanet,
    "csv of boxes": _with_head,
    "VGG Image Annotator csv": _vgg,
    "Open Images csv": _open_images,
}
