"""CVAT's XML 1.1 "for images" (https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/).

Boxes `xtl ytl xbr ybr` in pixels, also turned ones (the upright box around them is taken), and polygons.
Other shapes (points, lines, masks, ellipses, skeletons) are left out and counted.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from utils.data.formats.record import Annotations, Broken, Gatherer, around, extent, file_name, number, turned
from utils.errors import UserError

OTHER = ("polyline", "points", "mask", "ellipse", "cuboid", "skeleton")


class ForVideo(UserError):
    """CVAT's other XML, whose frames have no names."""


def read_cvat(path: Path, root: Any) -> Annotations:
    """All pictures of a parsed file, in its order; their names are as the file has them.

    Raises:
        ForVideo: it holds the tracks of a video.
    """
    if root.find("track") is not None:
        raise ForVideo(f"{path}: CVAT's XML for video; export the job as 'CVAT for images 1.1' instead")
    labels = [node for node in root.iter("label") if node.find("name") is not None]
    gatherer, place = Gatherer("object", ordered=bool(labels)), str(path)
    others = Counter[str]()
    for node in labels:
        _try(gatherer, place, "label", lambda node=node: gatherer.number_of(node.findtext("name")))
    count = 0
    for position, image in enumerate(root.findall("image"), start=1):
        try:
            name = file_name(image.get("name"))
        except Broken as broken:
            gatherer.fault(broken.kind, f"picture {position}: {broken.detail}", place)
            continue
        gatherer.picture(name, place, extent(image.get("width"), image.get("height")))
        for node in image:
            if node.tag in ("box", "polygon"):
                count += 1
                _try(gatherer, place, f"object {count}", lambda node=node: _add(gatherer, name, count, node))  # noqa: B023
            elif node.tag in OTHER:
                others[node.tag] += 1
    for kind, times in others.items():
        gatherer.fault("other shape", f"{times:,} of kind '{kind}'", place)
    return gatherer.annotations()


def _try(gatherer: Gatherer, place: str, what: str, work: Any) -> None:
    try:
        work()
    except Broken as broken:
        gatherer.fault(broken.kind, f"{what}: {broken.detail}", place)


def _add(gatherer: Gatherer, name: str, count: int, node: Any) -> None:
    cls = gatherer.number_of(node.get("label"))
    if node.tag == "polygon":
        points = [_point(pair) for pair in (node.get("points") or "").split(";") if pair.strip()]
        if len(points) < 3:
            raise Broken("degenerate polygon", f"{len(points)} points")
        gatherer.add(name, count, cls, around(points), points)
        return
    x1, y1, x2, y2 = (number(node.get(key), key) for key in ("xtl", "ytl", "xbr", "ybr"))
    degrees = number(node.get("rotation", "0"), "rotation")
    if degrees:
        pivot = ((x1 + x2) / 2, (y1 + y2) / 2)
        x1, y1, x2, y2 = around(turned(x1, y1, x2 - x1, y2 - y1, degrees, pivot))
    gatherer.add(name, count, cls, [x1, y1, x2, y2])


def _point(pair: str) -> tuple[float, float]:
    x, _, y = pair.partition(",")
    return number(x, "x"), number(y, "y")
