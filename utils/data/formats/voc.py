"""Pascal VOC's XML (Everingham et al., 2010): one file a picture, corners in pixels.

In VOC's own files pixels count from 1, which they say by `<source><annotation>PASCAL VOC2007`: there 1 is
taken from the first corner, as is usual. Other tools write this format with pixels from 0. Objects marked
`difficult` are left out and counted, as in VOC's own scoring.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from utils.data.formats.reading import read_xml
from utils.data.formats.record import Annotations, Broken, Gatherer, around, extent, number
from utils.data.report import counted
from utils.errors import UserError

MOST_BYTES = 8 << 20  # of the XML of one picture
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def is_voc(path: Path) -> bool:
    """Whether a file is an annotation in this format."""
    try:
        return bool(read_xml(path, MOST_BYTES).tag == "annotation")
    except (UserError, OSError):
        return False


def read_voc(pairs: Sequence[tuple[str, str]]) -> Annotations:
    """The objects of some pictures.

    Args:
        pairs: the path of each picture and of its annotation, which need not exist: no objects then.
    """
    gatherer, difficult, first = Gatherer("object"), 0, ""
    for picture, file, root in gatherer.opened(pairs, partial(read_xml, most=MOST_BYTES)):
        gatherer.picture(picture, file, extent(root.findtext("size/width"), root.findtext("size/height")))
        shift = 1.0 if (root.findtext("source/annotation") or "").strip().startswith("PASCAL VOC") else 0.0
        for position, node in enumerate(root.findall("object"), start=1):
            try:
                if (node.findtext("difficult") or "").strip() == "1":
                    difficult, first = difficult + 1, first or file
                    continue
                cls = gatherer.number_of((node.findtext("name") or "").strip())
                gatherer.add(picture, position, cls, _box(node, shift))
            except Broken as broken:
                gatherer.fault(broken.kind, f"object {position}: {broken.detail}", file)
    if difficult:
        gatherer.fault("difficult", f"{counted(difficult, 'object')} marked difficult in all", first)
    return gatherer.annotations()


def _box(node: Any, shift: float) -> list[float]:
    """x1, y1, x2, y2; of a polygon without a box, the one around it."""
    box = node.find("bndbox")
    if box is not None:
        x1, y1, x2, y2 = (number(box.findtext(corner), corner) for corner in CORNERS)
        return [x1 - shift, y1 - shift, x2, y2]
    values = [number(child.text, child.tag) for child in node.find("polygon") or ()]
    if len(values) >= 6 and len(values) % 2 == 0:
        return around(list(zip(values[::2], values[1::2])))
    raise Broken("broken annotation", "no bndbox")
