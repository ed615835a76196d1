"""Labelme's JSON (https://github.com/wkentaro/labelme): one file a picture, corners in pixels.

Rectangles, polygons and circles (the box around them); points and lines are left out and counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from utils.data.formats.reading import parse_json, read_json
from utils.data.formats.record import Annotations, Broken, Gatherer, around, extent, numbers
from utils.errors import UserError

SHAPES = {"rectangle": 2, "polygon": 3, "circle": 2, "rotation": 4, "oriented_rectangle": 4}  # points needed


def is_labelme(content: Any) -> bool:
    """Whether parsed JSON is of this format."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def is_labelme_file(path: Path) -> bool:
    try:
        return is_labelme(read_json(path))
    except (UserError, OSError):
        return False


def _content(path: Path) -> dict[str, Any]:
    return _checked(read_json(path))


def _checked(content: Any) -> dict[str, Any]:
    if not is_labelme(content):
        raise UserError("not Labelme's JSON: it has no list 'shapes'")
    known: dict[str, Any] = content
    return known


def read_labelme(pairs: Sequence[tuple[str, str]]) -> Annotations:
    """The objects of some pictures.

    Args:
        pairs: the path of each picture and of its annotation, which need not exist: no objects then.
    """
    gatherer = Gatherer("shape")
    return _gathered(gatherer, gatherer.opened(pairs, _content))


def labelme_of(contents: Sequence[tuple[str, str, bytes]]) -> Annotations:
    """The same for annotations that lie in memory.

    Args:
        contents: the path of each picture, what its annotation is called, and that.
    """
    gatherer = Gatherer("shape")

    def opened() -> Iterator[tuple[str, str, dict[str, Any]]]:
        for picture, file, content in contents:
            try:
                yield picture, file, _checked(parse_json(content, file))
            except UserError as error:
                gatherer.fault("unreadable label file", str(error).removeprefix(f"{file}: "), file)

    return _gathered(gatherer, opened())


def _gathered(gatherer: Gatherer, opened: Iterable[tuple[str, str, dict[str, Any]]]) -> Annotations:
    others, place = Counter[str](), ""
    for picture, file, content in opened:
        gatherer.picture(picture, file, extent(content.get("imageWidth"), content.get("imageHeight")))
        if content.get("imageData"):
            gatherer.say_if_missing(picture, _inside(file, content.get("imagePath")))
        for position, shape in enumerate(content["shapes"], start=1):
            try:
                other = _add(gatherer, picture, position, shape)
            except Broken as broken:
                gatherer.fault(broken.kind, f"shape {position}: {broken.detail}", file)
                continue
            if other:
                others[other], place = others[other] + 1, place or file
    for kind, times in others.items():
        gatherer.fault("other shape", f"{times:,} of kind '{kind}' in all", place)
    return gatherer.annotations()


def _inside(file: str, called: object) -> str:
    """What to do about a picture that is only inside the JSON."""
    path = called.replace("\\", "/").rpartition("/")[2] if isinstance(called, str) else ""
    name = f"{Path(file).stem}{Path(path).suffix or '.png'}"
    return (
        f"the picture is inside {Path(file).name}: write it out with Labelme's labelme_export_json (older: "
        f"labelme_json_to_dataset) and save it beside the JSON as {name}, or label with 'Save With Image "
        "Data' off and keep the pictures"
    )


def _add(gatherer: Gatherer, picture: str, position: int, shape: Any) -> str:
    """Take a shape; returns its kind when that is none with an area."""
    if not isinstance(shape, dict):
        raise Broken("broken annotation", f"{repr(shape)[:40]} is no shape")
    kind = shape.get("shape_type") or "polygon"  # of early versions
    if not isinstance(kind, str) or kind not in SHAPES:
        return str(kind)[:40]
    listed = shape.get("points")
    points = [numbers(point, "point", 2) for point in listed] if isinstance(listed, list) else []
    if len(points) < SHAPES[kind] or (kind in ("rectangle", "circle") and len(points) > 4):
        raise Broken("broken annotation", f"a {kind} of {len(points)} points")
    cls = gatherer.number_of(shape.get("label"))
    if kind == "circle":
        (x, y), (edge_x, edge_y) = points[:2]
        radius = math.hypot(edge_x - x, edge_y - y)
        points = [[x - radius, y - radius], [x + radius, y + radius]]
    gatherer.add(picture, position, cls, around(points), points if kind == "polygon" else None)
    return ""
