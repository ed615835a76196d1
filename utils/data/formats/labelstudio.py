"""Label Studio's JSON and JSON-MIN (https://labelstud.io/guide/export): rectangle and polygon labels.

Coordinates are per cent of the picture. A turned rectangle becomes the upright box around it. Of several
annotations of one task the first that was not cancelled counts.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from utils.data.formats.record import (
    FRACTIONS,
    Annotations,
    Broken,
    Gatherer,
    around,
    extent,
    file_name,
    number,
    numbers,
    turned,
)

UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # what Label Studio puts before the name of an uploaded file
LABELS = ("rectanglelabels", "polygonlabels", "labels")


def is_labelstudio(content: Any) -> bool:
    """Whether parsed JSON is of this format."""
    return (
        isinstance(content, list)
        and bool(content)
        and isinstance(content[0], dict)
        and (
            isinstance(content[0].get("data"), dict)
            or any(
                isinstance(value, str) and "." in value for key, value in content[0].items() if key == "image"
            )
        )
    )


def read_labelstudio(path: Path, content: list[Any]) -> Annotations:
    """All pictures of a parsed file, in its order; their names are the last part of their addresses."""
    gatherer, place, others = Gatherer("region"), str(path), Counter[str]()
    count = 0
    for position, task in enumerate(content, start=1):
        try:
            name = _picture(task)
        except Broken as broken:
            gatherer.fault(broken.kind, f"task {position}: {broken.detail}", place)
            continue
        gatherer.picture(name, place, FRACTIONS)
        for region in _regions(task):
            count += 1
            try:
                other = _add(gatherer, name, count, region)
            except Broken as broken:
                gatherer.fault(broken.kind, f"region {count}: {broken.detail}", place)
                continue
            if other:
                others[other] += 1
    for kind, times in others.items():
        gatherer.fault("other shape", f"{times:,} of kind '{kind}'", place)
    return gatherer.annotations()


def original_name(name: str) -> str:
    """The name of an uploaded file before it was uploaded."""
    match = UPLOADED.fullmatch(posixpath.basename(name))
    return match[1] if match else name


def _picture(task: Any) -> str:
    """Where a task's picture lies: the path behind `?d=` of local storage, else that of the address."""
    data = task.get("data", task) if isinstance(task, dict) else None
    if not isinstance(data, dict):
        raise Broken("broken annotation", "a task without 'data'")
    addresses = [
        value for key, value in data.items() if key in ("image", "img", "photo") and isinstance(value, str)
    ]
    if not addresses:
        addresses = [v for v in data.values() if isinstance(v, str) and re.search(r"\.\w{3,4}($|\?)", v)]
    if not addresses:
        raise Broken("broken annotation", "a task without a picture")
    try:
        parts = urlsplit(addresses[0])
        local = parse_qs(parts.query).get("d")
        return file_name(unquote(local[0]) if local else unquote(parts.path).lstrip("/"))
    except ValueError as error:
        raise Broken("broken annotation", f"{addresses[0][:60]!r} is no address of a picture") from error


def _regions(task: dict[str, Any]) -> Iterator[Any]:
    """The results of a task, one shape each."""
    annotations = task.get("annotations", task.get("completions"))
    if isinstance(annotations, list):
        for annotation in annotations:
            if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
                results = annotation.get("result")
                yield from results if isinstance(results, list) else ()
                return
        return
    for value in task.values():  # JSON-MIN: one list for each control of the page
        if isinstance(value, list):
            yield from (v for v in value if isinstance(v, dict) and any(key in v for key in LABELS))


def _add(gatherer: Gatherer, name: str, count: int, region: Any) -> str:
    """Take a region; returns its kind when that is no shape with a label."""
    if not isinstance(region, dict):
        raise Broken("broken annotation", f"{repr(region)[:40]} is no region")
    value = region.get("value", region)
    if not isinstance(value, dict):
        raise Broken("broken annotation", f"value {repr(value)[:40]}")
    labels = next((value[key] for key in LABELS if isinstance(value.get(key), list) and value[key]), None)
    if labels is None or not ("width" in value or "points" in value):
        kind = region.get("type", "no label")
        return kind[:40] if isinstance(kind, str) else "no label"
    cls = gatherer.number_of(labels[0])
    if "points" in value:
        listed = value["points"]
        points = [numbers(point, "point", 2) for point in listed] if isinstance(listed, list) else []
        if len(points) < 3:
            raise Broken("degenerate polygon", f"{len(points)} points")
        corners = [(x / 100, y / 100) for x, y in points]
        gatherer.add(name, count, cls, around(corners), corners)
        return ""
    x, y, width, height = (number(value.get(key), key) / 100 for key in ("x", "y", "width", "height"))
    degrees = number(value.get("rotation", 0), "rotation")
    box = [x, y, x + width, y + height]
    if degrees:  # about the top left corner, in pixels
        sides = extent(region.get("original_width"), region.get("original_height"))
        if sides is None:
            raise Broken("broken annotation", "a turned box needs original_width and original_height")
        w, h = sides
        corners = turned(x * w, y * h, width * w, height * h, degrees, (x * w, y * h))
        box = around([(px / w, py / h) for px, py in corners])
    gatherer.add(name, count, cls, box)
    return ""
