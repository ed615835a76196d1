"""COCO's JSON (Lin et al., 2014, https://cocodataset.org/#format-data), also as Roboflow writes it.

A box is `bbox`: x, y of the top left corner, width, height in pixels. Where it is missing it is taken from
`segmentation`: polygons, or a run-length mask. A polygon is kept when it is one, and `bbox` the box around
it. Crowds (`iscrowd`: a region of many objects) are left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.data.formats.record import (
    Annotations,
    Broken,
    Gatherer,
    around,
    extent,
    file_name,
    number,
    numbers,
)
from utils.errors import UserError
from utils.optional import require

MOST_MASK = 100_000_000  # pixels of a run-length mask


def is_coco(content: Any) -> bool:
    """Whether parsed JSON is of this format."""
    return (
        isinstance(content, dict) and "images" in content and bool({"annotations", "categories"} & {*content})
    )


def read_coco(path: Path, content: Any) -> Annotations:
    """All pictures of a parsed file, in its order; their paths are as the file has them.

    Raises:
        UserError: a table is missing or no list.
    """
    place = str(path)
    images, annotations, categories = (
        _table(path, content, key) for key in ("images", "annotations", "categories")
    )
    gatherer = Gatherer("annotation", ordered=True)
    names = _categories(gatherer, place, categories, annotations)
    files = {}
    for position, image in enumerate(images, start=1):
        try:
            if not isinstance(image, dict):
                raise Broken("broken annotation", f"{repr(image)[:40]} is no picture")
            name, key = file_name(image.get("file_name")), _key(image.get("id"))
        except Broken as broken:
            gatherer.fault(broken.kind, f"picture {position}: {broken.detail}", place)
            continue
        if key in files:
            gatherer.fault("broken annotation", f"picture {position} has the id {key!r} of another", place)
            continue
        files[key] = name
        gatherer.picture(name, place, extent(image.get("width"), image.get("height")))
    crowds = 0
    for position, annotation in enumerate(annotations, start=1):
        try:
            if not isinstance(annotation, dict):
                raise Broken("broken annotation", f"{repr(annotation)[:40]} is no annotation")
            image, category = _key(annotation.get("image_id")), _key(annotation.get("category_id"))
            if image not in files:
                raise Broken("label without image", f"no picture has the id {image!r}")
            if category not in names:
                raise Broken("class out of range", f"no category has the id {category!r}")
            if annotation.get("iscrowd") in (1, True, "1"):
                crowds += 1
                continue
            box, polygon = _geometry(annotation)
            gatherer.add(files[image], position, names[category], box, polygon)
        except Broken as broken:
            gatherer.fault(broken.kind, f"annotation {position}: {broken.detail}", place)
    if crowds:
        gatherer.fault("crowd", f"{crowds:,} regions of many objects (iscrowd)", place)
    return gatherer.annotations()


def _table(path: Path, content: Any, key: str) -> list[Any]:
    table = content.get(key, [] if key == "annotations" else None)
    if not isinstance(table, list):
        raise UserError(f"{path}: COCO JSON needs a list '{key}', found {type(table).__name__}")
    return table


def _key(value: object) -> int | str:
    """An id, to which 7, 7.0 and "7" are the same."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value != value:
        raise Broken("broken annotation", f"id {repr(value)[:40]} is no number")
    if isinstance(value, float):
        return int(value) if value.is_integer() else str(value)
    return (
        int(value)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 20
        else value
    )


def _categories(
    gatherer: Gatherer, place: str, categories: list[Any], annotations: list[Any]
) -> dict[Any, int]:
    """Class number by category id, in the order of the ids."""
    rows = []
    for position, category in enumerate(categories, start=1):
        try:
            if not isinstance(category, dict):
                raise Broken("broken annotation", f"{repr(category)[:40]} is no category")
            rows.append((_key(category.get("id")), category))
        except Broken as broken:
            gatherer.fault(broken.kind, f"category {position}: {broken.detail}", place)
    rows.sort(key=lambda row: (isinstance(row[0], str), row[0]))
    group = _roboflow_group(rows, annotations)
    found: dict[Any, int] = {}
    for key, category in rows:
        if key == group:
            continue
        try:
            found[key] = gatherer.number_of(category.get("name"))
        except Broken as broken:
            gatherer.fault(broken.kind, f"category {key!r}: {broken.detail}", place)
    return found


def _roboflow_group(rows: list[tuple[Any, dict[str, Any]]], annotations: list[Any]) -> Any:
    """The id of Roboflow's category 0, which is a heading above the classes; None without one."""
    if len(rows) < 2 or rows[0][1].get("supercategory") != "none":
        return None
    key, heading = rows[0][0], rows[0][1].get("name")
    if any(category.get("supercategory") != heading for _, category in rows[1:]):
        return None
    used = any(isinstance(row, dict) and row.get("category_id") == key for row in annotations)
    return None if used else key


def _geometry(annotation: dict[str, Any]) -> tuple[list[float], list[tuple[float, float]] | None]:
    """The box x1, y1, x2, y2 and, where there is one that it encloses, the polygon."""
    polygons = list(_polygons(annotation.get("segmentation")))
    if annotation.get("bbox"):
        x, y, width, height = numbers(annotation["bbox"], "bbox", 4)
        return [x, y, x + width, y + height], polygons[0] if len(polygons) == 1 else None
    if polygons:
        box = around([point for polygon in polygons for point in polygon])
        return box, polygons[0] if len(polygons) == 1 else None
    if isinstance(annotation.get("segmentation"), dict):
        return _mask_box(annotation["segmentation"]), None
    raise Broken("broken annotation", "neither bbox nor segmentation")


def _polygons(segmentation: object) -> Iterator[list[tuple[float, float]]]:
    """The polygons of a segmentation; nothing when it is a mask, or not there."""
    if not isinstance(segmentation, list):
        return
    for part in segmentation:
        values = numbers(part, "segmentation")
        if len(values) % 2:
            raise Broken("broken annotation", f"segmentation has {len(values)} values, x and y are expected")
        if len(values) >= 6:
            yield list(zip(values[::2], values[1::2]))


def _mask_box(mask: dict[str, Any]) -> list[float]:
    """The box around a run-length mask."""
    size, counts = numbers(mask.get("size"), "size of the mask", 2), mask.get("counts")
    height, width = int(size[0]), int(size[1])
    if min(height, width) < 1 or height * width > MOST_MASK:
        raise Broken("broken annotation", f"a mask of {width}x{height} pixels")
    library = require("faster_coco_eval.core.mask", "faster-coco-eval")
    try:
        if isinstance(counts, list):
            runs = [int(number(value, "counts")) for value in counts]
            if min(runs, default=0) < 0 or sum(runs) != height * width:
                raise Broken("broken annotation", "the runs of the mask do not fill it")
            packed = library.frPyObjects({"size": [height, width], "counts": runs}, height, width)
        else:
            text = counts.encode("ascii") if isinstance(counts, str) else b""
            if not text:
                raise Broken("broken annotation", "the mask has no counts")
            packed = {"size": [height, width], "counts": text}
        x, y, w, h = (float(value) for value in library.toBbox(packed))
    except (TypeError, ValueError, RuntimeError, OverflowError, MemoryError) as error:
        raise Broken("broken annotation", f"a mask that cannot be read: {str(error)[:80]}") from error
    return [x, y, x + w, y + h]
