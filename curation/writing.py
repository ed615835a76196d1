"""Writing a data set: pictures linked or copied, labels as YOLO text, Pascal VOC's XML or COCO's JSON, a data
yaml.

Coordinates are written so that reading them gives the same float32 as before, to the last bit: in YOLO text
as the shortest decimals that stand for it, in pixels with ten decimals (those that are not 0).
"""

from __future__ import annotations

import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from utils.console import printable
from utils.data.images import image_bytes
from utils.data.index import DatasetIndex
from utils.data.shards.places import of_member
from utils.errors import UserError
from utils.files import temporary_folder, write_text

DECIMALS = 10
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class Shot:
    """A picture with its labels, as it is written."""

    source: str  # path of the picture
    height: int  # pixels
    width: int
    classes: list[int]
    rows: list[list[str]]  # n rows of xc, yc, w, h, normalised
    boxes: list[list[float]]  # n rows of x1, y1, x2, y2 in pixels
    polygons: list[np.ndarray]  # n arrays (k, 2) float32, normalised; k = 0 where there is none


def shots(index: DatasetIndex) -> Iterator[Shot]:
    """The pictures of a split in their order."""
    texts = index.boxes[:, 1:].astype(str)
    exact = texts.astype(np.float64)  # what a file would say, in place of the float32 nearest to it
    for i in range(len(index)):
        own = slice(index.offsets[i], index.offsets[i + 1])
        height, width = index.shape(i)
        centre, size = exact[own, :2], exact[own, 2:]
        corners = np.concatenate([centre - size / 2, centre + size / 2], 1) * [width, height, width, height]
        classes = index.boxes[own, 0].astype(int).tolist()
        boxes = corners.round(DECIMALS).tolist()
        yield Shot(index.path(i), height, width, classes, texts[own].tolist(), boxes, index.polygons(i))


@dataclass
class Folder:
    """A data set that is being written.

    Attributes:
        root: where it is made; it moves to its place at the end.
        place: where it will be.
        names: class names by number.
        copy: copy pictures; else they are linked.
    """

    root: Path
    place: Path
    names: Mapping[int, str]
    copy: bool
    taken: dict[str, set[str]] = field(default_factory=dict)

    def picture(self, folder: str, shot: Shot) -> str:
        """Put a picture into a folder; returns its name there, which no other has up to the suffix."""
        taken = self.taken.setdefault(folder, set())
        stem, suffix = os.path.splitext(os.path.basename(shot.source))  # noqa: PTH119, PTH122
        stem = (
            stem if printable(stem) == stem else printable(stem).replace("?", "_")
        )  # bytes that are no text
        number, name = 2, stem
        while name.lower() in taken:
            number, name = number + 1, f"{stem}_{number}"
        taken.add(name.lower())
        target = self.root / folder / f"{name}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.copy and of_member(shot.source) is not None:
            target.write_bytes(image_bytes(shot.source))
        elif self.copy:
            shutil.copyfile(shot.source, target)
        else:
            _link(Path(shot.source).absolute(), target)
        return target.name

    def describe(self, splits: Mapping[str, str | Sequence[str]]) -> None:
        """Write the data yaml."""
        names = dict(self.names.items())
        content: dict[str, Any] = {"path": str(self.place.absolute()), **splits, "names": names}
        write_text(self.root / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _link(source: Path, target: Path) -> None:
    if of_member(str(source)) is not None:
        raise UserError("pictures in tar shards cannot be linked to; use --pictures copy")
    try:
        target.symlink_to(source)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot link to pictures here ({reason}); use --pictures copy") from error


def check_free(out: str) -> None:
    """Raise a UserError when there is something in the place of the folder to make: told before the work."""
    if out and os.path.lexists(Path(out).expanduser()):
        raise UserError(f"'{out}' exists and is not touched; name another --out, or move it away")


def make_folder(out: str, fill: Callable[[Path, Path], None]) -> Path:
    """Make a folder that appears with all that is in it, or not at all.

    Args:
        fill: is given the folder to fill and its later place.

    Raises:
        UserError: there is something of that name.
        OSError: nothing can be written there.
    """
    check_free(out)
    place = Path(out).expanduser()
    place.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(place.absolute().parent, ".lean5-set-") as folder:
        made = folder / "made"
        made.mkdir()
        fill(made, place)
        made.rename(place)
    return place


def write_yolo(folder: Folder, split: str, pictures: Iterator[Shot]) -> str:
    """`images/<split>` and `labels/<split>`; an object with a polygon gets a row of its corners."""
    labels = folder.root / "labels" / split
    labels.mkdir(parents=True)
    for shot in pictures:
        name = folder.picture(f"images/{split}", shot)
        lines = (yolo_row(*row) for row in zip(shot.classes, shot.rows, shot.polygons))
        text = "".join(f"{line}\n" for line in lines)
        (labels / f"{os.path.splitext(name)[0]}.txt").write_text(text, encoding="utf-8", newline="\n")  # noqa: PTH122
    return f"images/{split}"


def yolo_row(cls: int, row: Sequence[str], polygon: np.ndarray) -> str:
    values = polygon.astype(np.float32).ravel().astype(str).tolist() if len(polygon) else row
    return f"{cls} {' '.join(values)}"


def write_voc(folder: Folder, split: str, pictures: Iterator[Shot]) -> str:
    """`JPEGImages`, `Annotations` and `ImageSets/Main/<split>.txt`; the format has no polygons."""
    annotations, lists = folder.root / "Annotations", folder.root / "ImageSets" / "Main"
    for place in (annotations, lists):
        place.mkdir(parents=True, exist_ok=True)
    stems = []
    for shot in pictures:
        name = folder.picture("JPEGImages", shot)
        stems.append(os.path.splitext(name)[0])  # noqa: PTH122
        tree = ElementTree.ElementTree(_voc_root(folder, name, shot))
        ElementTree.indent(tree)
        tree.write(annotations / f"{stems[-1]}.xml", encoding="utf-8")
    write_text(lists / f"{split}.txt", "".join(f"{stem}\n" for stem in stems), durable=False)
    return f"ImageSets/Main/{split}.txt"


def _voc_root(folder: Folder, name: str, shot: Shot) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _fill(root, {"folder": "JPEGImages", "filename": printable(name)})
    _fill(ElementTree.SubElement(root, "size"), {"width": shot.width, "height": shot.height, "depth": 3})
    for cls, box in zip(shot.classes, shot.boxes):
        node = ElementTree.SubElement(root, "object")
        _fill(node, {"name": folder.names[cls], "pose": "Unspecified", "truncated": 0, "difficult": 0})
        corners = dict(zip(CORNERS, map(_number, box)))
        _fill(ElementTree.SubElement(node, "bndbox"), corners)
    return root


def _fill(node: ElementTree.Element, values: Mapping[str, object]) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(node, tag).text = str(value)


def _number(value: float) -> int | float:
    """A coordinate, without a point where it is whole."""
    return int(value) if value.is_integer() else value


def write_coco(folder: Folder, split: str, pictures: Iterator[Shot]) -> str:
    """`images/<split>` and `annotations/instances_<split>.json`."""
    content = coco_content(folder.names, pictures, lambda shot: folder.picture(f"images/{split}", shot))
    file = folder.root / "annotations" / f"instances_{split}.json"
    file.parent.mkdir(exist_ok=True)
    write_text(file, json.dumps(content), durable=False)
    return f"annotations/{file.name}"


def coco_content(
    names: Mapping[int, str], pictures: Iterator[Shot], name_of: Callable[[Shot], str]
) -> dict[str, list[dict[str, Any]]]:
    """A split as COCO has it: categories in the order of the classes, numbered from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for shot in pictures:
        number = len(images) + 1
        images.append({"id": number, "file_name": name_of(shot), "width": shot.width, "height": shot.height})
        for cls, box, polygon in zip(shot.classes, shot.boxes, shot.polygons):
            x1, y1, x2, y2 = box
            bbox = [_number(round(value, DECIMALS)) for value in (x1, y1, x2 - x1, y2 - y1)]
            corners = (polygon.astype(str).astype(np.float64) * [shot.width, shot.height]).round(DECIMALS)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": cls + 1, "bbox": bbox,
                "area": bbox[2] * bbox[3], "iscrowd": 0,
                "segmentation": [corners.ravel().tolist()] if len(polygon) else [],
            })  # fmt: skip
    categories = [{"id": number + 1, "name": name} for number, name in names.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


WRITERS: dict[str, Callable[[Folder, str, Iterator[Shot]], str]] = {
    "yolo": write_yolo,
    "voc": write_voc,
    "coco": write_coco,
}
