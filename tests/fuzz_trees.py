"""Data sets as single files for `fuzz.py`: made in every format, unpacked, and read as the commands do."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from curation import check, convert, split
from curation.findings.finding import survey_findings
from curation.findings.kinds import KINDS as FINDINGS
from curation.fingerprints import fingerprints
from curation.page import write_findings
from curation.survey import Geometry, Survey, open_splits
from tests.fuzz_changes import unpacked
from tests.utils.data.formats.instances import FORMATS, NAMES, text
from utils.data.formats.opening import names_of
from utils.data.index import DatasetIndex, build_index
from utils.data.spec import load_data_spec
from utils.errors import UserError

# readers, and the examples of `instances.py` that each gets
KINDS = {
    "yolo-tree": ("yolo", "yolo beside", "darknet", "darknet of CVAT"),
    "voc": ("voc", "voc folder", "voc annotations", "voc beside", "voc full"),
    "coco": ("coco", "coco of Roboflow", "coco full"),
    "cvat": ("cvat", "cvat full"),
    "labelme": ("labelme", "labelme full"),
    "labelstudio": ("labelstudio", "labelstudio min"),
    "csv": ("retinanet", "csv with a head", "vgg", "open images"),
}
YAMLS = (
    "path: .\ntrain: train/images\nval: valid/images\nnames: [cat, dog]\nnc: 2\n",
    "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n",
    "path: C:\\me\\set\ntrain: C:\\me\\set\\images\\train\nval: images/val\nnames: {0: cat, 1: dog}\n",
    "train: /content/set/train/images\nvalidation: [/content/set/valid/images]\nnames: [cat, dog]\n",
)
HOSTILE = ["<b onclick=x>cat", "{{ 7 * 7 }} 猫 😀"]  # names of classes, on a page


# ---- making ----


def voc_full(root: Path) -> Path:
    """As VOC's own: a source, objects that are difficult, parts, polygons."""
    source = FORMATS["voc"][0](root)
    file = root / "Annotations/a.xml"
    more = "<source><annotation>PASCAL VOC2007</annotation></source>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    corners = "".join(
        f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate([(1, 1), (9, 1), (5, 8)])
    )
    polygon = f"<object><name>cat</name><difficult>0</difficult>{part}<polygon>{corners}</polygon></object>"
    hard = "<object><name>dog</name><difficult>1</difficult></object>"
    whole = file.read_text(encoding="utf-8")
    text(
        file,
        whole.replace("<size>", f"{more}<size>").replace("</annotation>", f"{polygon}{hard}</annotation>", 2),
    )
    return source


def coco_full(root: Path) -> Path:
    """Polygons, masks of both kinds, and a crowd."""
    source = FORMATS["coco"][0](root)
    content = json.loads(source.read_text(encoding="utf-8"))
    first, second = content["annotations"]
    first["segmentation"] = [[4, 3, 20, 3, 4, 15]]
    second |= {"bbox": None, "segmentation": {"size": [30, 40], "counts": [100, 12, 1088]}}
    packed = {
        "id": 9,
        "image_id": 71,
        "category_id": 7,
        "segmentation": {"size": [30, 40], "counts": "T3:000`70"},
    }
    content["annotations"] += [packed, {**packed, "id": 10, "iscrowd": 1}]
    return text(source, json.dumps(content))


def cvat_full(root: Path) -> Path:
    """A box that is turned, a polygon, and shapes that are left out."""
    source = FORMATS["cvat"][0](root)
    shapes = (
        '<box label="cat" xtl="4" ytl="5" xbr="20" ybr="15" rotation="30"/>'
        '<polygon label="dog" points="1,1;9,1;5,8"/><polyline label="cat" points="1,1;2,2"/>'
    )
    return text(source, source.read_text(encoding="utf-8").replace("></image>", f">{shapes}</image>"))


def labelme_full(root: Path) -> Path:
    """A polygon, a circle and a point."""
    source = FORMATS["labelme"][0](root)
    content = json.loads((source / "b.json").read_text(encoding="utf-8"))
    content["shapes"] = [
        {"label": "cat", "points": [[1, 1], [9, 1], [5, 8]], "shape_type": "polygon"},
        {"label": "dog", "points": [[10, 10], [15, 10]], "shape_type": "circle"},
        {"label": "dog", "points": [[10, 10]], "shape_type": "point"},
    ]
    text(source / "b.json", json.dumps(content))
    return source


FULL: dict[str, Callable[[Path], Path]] = {
    "voc full": voc_full, "coco full": coco_full, "cvat full": cvat_full, "labelme full": labelme_full,
}  # fmt: skip


def pack(root: Path, source: Path, **more: Any) -> bytes:
    """A folder as one file; byte for letter."""
    files = {
        path.relative_to(root).as_posix(): path.read_bytes().decode("latin-1")
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
    return json.dumps({"source": source.relative_to(root).as_posix(), "files": files, **more}).encode()


def packed(folder: Path, kinds: Sequence[str], **more: Any) -> list[bytes]:
    """The examples of some formats, each packed."""
    found = []
    for kind in kinds:
        root = folder / "seed" / kind
        root.mkdir(parents=True)
        source = FULL[kind](root) if kind in FULL else FORMATS[kind][0](root)
        found.append(pack(root, source, **more))
        shutil.rmtree(root)
    return found


def every(folder: Path) -> list[bytes]:
    """All formats, each to be converted to another one."""
    kinds = [kind for some in KINDS.values() for kind in some if not kind.startswith(("yolo", "darknet"))]
    return [
        one
        for number, kind in enumerate(kinds)
        for one in packed(folder, [kind], to=("yolo", "voc", "coco")[number % 3])
    ]


def foreign(folder: Path) -> list[bytes]:
    """Trees as zips have them, with a data yaml of another machine or without one."""
    found = []
    for number, yaml in enumerate((*YAMLS, "")):
        root = folder / "seed" / str(number)
        for part in ("train", "valid"):
            place = root / "set" / (f"images/{part}" if number % 2 else f"{part}/images")
            labels = root / "set" / (f"labels/{part}" if number % 2 else f"{part}/labels")
            place.mkdir(parents=True)
            picture(place / "a.png", 90)
            text(labels / "a.txt", "0 0.5 0.5 0.2 0.2\n1 0.5 0.5 0.25 0.5\n")
        if yaml:
            text(root / "set/data.yaml", yaml)
        else:
            text(root / "set/classes.txt", "cat\ndog\n")
        found.append(pack(root, root / "set"))
        shutil.rmtree(root)
    return found


def picture(path: Path, shade: int) -> None:
    cv2.imwrite(str(path), np.full((30, 40, 3), shade, np.uint8))


def pages(folder: Path) -> list[bytes]:
    """A data set whose classes are called like what a page or a template would take as its own."""
    root = folder / "seed"
    names = json.dumps(HOSTILE, ensure_ascii=False)
    for part in ("train", "val"):
        for number in range(3):
            name = f"{number}<i>"[: 1 if os.name == "nt" else None]
            (root / "images" / part).mkdir(parents=True, exist_ok=True)
            picture(root / "images" / part / f"{name}.png", 90 + number)
            text(
                root / "labels" / part / f"{name}.txt",
                "0 0.5 0.5 0.2 0.2\n1 0.4 0.5 0.25 0.5\n0 0.4 0.4 0.1 0.1 0.2 0.3\n",
            )
    text(root / "data.yaml", f"train: images/train\nval: images/val\nnames: {names}\n")
    found = pack(root, root / "data.yaml")
    shutil.rmtree(root)
    return [found]


# ---- reading ----


def unpack(path: Path) -> tuple[Path, dict[str, Any]]:
    """Put the files of a tree where they belong; where a name cannot be had, there is none."""
    root = path.parent / "tree"
    shutil.rmtree(root, ignore_errors=True)
    content = unpacked(path.read_bytes())
    root.mkdir()
    for name, inside in content["files"].items():
        try:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(inside.encode("latin-1"))
        except OSError:  # a folder in the place of a file
            continue
    return root / content["source"], content


def check_index(index: DatasetIndex, classes: int) -> None:
    """What every reader has to hold to, whatever a file says."""
    boxes = index.boxes
    assert np.isfinite(boxes).all(), boxes
    assert ((boxes[:, 0] >= 0) & (boxes[:, 0] < classes)).all(), boxes
    assert (boxes[:, 3:] > 0).all() and (boxes[:, 1:] >= 0).all() and (boxes[:, 1:] <= 1).all(), boxes
    assert index.offsets[0] == 0 and index.offsets[-1] == len(boxes) and (np.diff(index.offsets) >= 0).all()
    assert len(index) == len(index.offsets) - 1
    for number in range(len(index)):
        for polygon in index.polygons(number):
            assert np.isfinite(polygon).all() and len(polygon) != 1, polygon
    for fault in index.report.faults:
        assert str(fault.detail).isprintable() and len(fault.detail) < 1000, fault


def read_labels(path: Path) -> None:
    source, _ = unpack(path)
    if not source.exists():
        raise UserError("the tree has lost its source")
    check_index(build_index([source], NAMES, cache=False), len(NAMES))
    for name in names_of([source]).values():
        assert name and "\n" not in name, repr(name)


def read_foreign(path: Path) -> None:
    source, _ = unpack(path)
    with contextlib.chdir(source):  # `..` is no folder of this project
        spec = load_data_spec(source)
        for places in (spec.train, spec.val):
            assert all(place.exists() for place in places)
            check_index(build_index(places, spec.names, cache=False), spec.nc)


def read_converted(path: Path) -> None:
    """What is converted is read as it was before."""
    source, content = unpack(path)
    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        convert.run(convert.Config(data=str(source), to=content.get("to", "yolo"), out=str(out)))
    except (UserError, OSError):
        assert not out.exists(), "half a folder"
        raise
    spec = load_data_spec(out / "data.yaml", needed=("train",))
    before = build_index([source], spec.names, cache=False)
    after = build_index(spec.train, spec.names, cache=False)
    assert len(before) == len(after), (len(before), len(after))
    assert not after.report.faults, after.report.faults
    polygons = content["to"] != "voc"
    left, right = (sorted(rows(index, polygons)) for index in (before, after))
    assert left == right, f"{left} became {right}"


def rows(index: DatasetIndex, polygons: bool) -> list[tuple[Any, ...]]:
    """For each picture its shape and objects; names of pictures may change."""
    found = []
    for number in range(len(index)):
        corners = [polygon.tolist() for polygon in index.polygons(number)] if polygons else []
        found.append((index.shape(number), index.labels(number).tolist(), corners))
    return found


def read_split(path: Path) -> None:
    """Every picture is in one split, with its labels."""
    source, _ = unpack(path)
    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        split.run(split.Config(data=str(source), ratios=(0.5, 0.5), out=str(out)))
    except (UserError, OSError):
        assert not out.exists(), "half a folder"
        raise
    spec = load_data_spec(out / "data.yaml", needed=())
    before = build_index([source], spec.names, cache=False)
    after = [build_index(places, spec.names, cache=False) for places in (spec.train, spec.val)]
    assert sum(map(len, after)) == len(before)
    left, right = sorted(rows(before, True)), sorted(row for index in after for row in rows(index, True))
    assert left == right, f"{left} became {right}"


@functools.cache
def geometry() -> Geometry:
    return Geometry.of_cfg("yolov5n.yaml")


def read_page(path: Path) -> None:
    """The page and the JSON of `dataset.py check`; names in it are text."""
    source, _ = unpack(path)
    survey = Survey(*open_splits(str(source)), 640, geometry())
    survey.prints = fingerprints([survey.path(number) for number in range(len(survey))], None)
    findings, sound, skipped = survey_findings(survey, FINDINGS)
    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    page = write_findings(out, check.Config(data=str(source)), survey, findings, sound, skipped)
    written = page.read_text(encoding="utf-8")
    assert "<b onclick" not in written and "<i>" not in written.replace("<i></i>", "")
    assert " 49 " not in written.replace("&nbsp;", " ") or "{{ 7 * 7 }}" in written
    json.loads(page.with_name("check.json").read_text(encoding="utf-8"))
    assert all(finding.line().isprintable() for finding in findings)
