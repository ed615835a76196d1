"""Annotation files of strangers end in a UserError or in faults, never in a traceback."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.utils.data.formats.instances import FORMATS, NAMES, coco, coco_content, cvat, text, voc
from utils.data.formats.opening import names_of, open_source
from utils.data.index import build_index
from utils.errors import UserError

BOMB = (
    '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefghi", "bcdefghij"))
    + "]><annotations><meta>&j;</meta></annotations>"
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotations><meta>&x;</meta></annotations>'
)
FILES = {
    "bomb": ("x.xml", BOMB, "it declares entities, which are refused"),
    "outside": ("x.xml", OUTSIDE, "it declares entities, which are refused"),
    "half xml": ("x.xml", "<annotations><image", "not XML that can be read"),
    "unknown encoding": (
        "x.xml",
        '<?xml version="1.0" encoding="klingon"?><annotations/>',
        "not XML that can",
    ),
    "another xml": ("x.xml", "<html/>", "expected CVAT's or Pascal VOC's XML"),
    "video": ("x.xml", '<annotations><meta/><track id="0"/></annotations>', "CVAT for images 1.1"),
    "half json": ("x.json", '{"images": [', "not JSON: "),
    "deep json": ("x.json", "[" * 200_000, "nested too deeply"),
    "another json": ("x.json", "[1, 2]", "expected COCO's, Label Studio's or Labelme's JSON"),
    "a number": ("x.json", "7", "expected COCO's"),
    "no list": (
        "x.json",
        '{"images": 7, "annotations": [], "categories": []}',
        "needs a list 'images', found int",
    ),
    "no categories": ("x.json", '{"images": [], "annotations": []}', "needs a list 'categories'"),
    "huge number": ("x.json", '{"images": ' + "9" * 5000 + "}", "not JSON"),
    "another table": ("x.csv", "a,b\n1,2\n", "expected a table of boxes"),
    "nothing": ("x.csv", "", "expected a table of boxes"),
    "null bytes": ("x.csv", "a\0b", "it has null bytes"),
    "a cell without end": (
        "x.csv",
        "filename,class,xmin,ymin,xmax,ymax\n" + "a" * 300_000,
        "field larger than",
    ),
    "no darknet": ("x.data", "hello\n", "expected lines like 'train = data/train.txt'"),
    "darknet without lists": ("x.data", "classes = 2\n", "'train' is missing"),
    "darknet of nothing": ("x.data", "train = nowhere.txt\n", "train: no such file: 'nowhere.txt'"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_nothing(case: str, tmp_path: Path) -> None:
    name, content, complaint = FILES[case]
    file = text(tmp_path / name, content)
    with pytest.raises(UserError, match=complaint) as caught:
        build_index([file], NAMES, cache=False)
    assert str(caught.value).startswith(str(file)) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_other_encodings(tmp_path: Path) -> None:
    for name in ("x.json", "x.csv"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00")
        with pytest.raises(UserError):
            open_source(tmp_path / name)


WRONG: tuple[Any, ...] = (
    None,
    True,
    "x",
    -1,
    1e308,
    10**400,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None] * 4,
)


def corrupted(content: Any, rng: random.Random) -> Any:
    """Parsed JSON with one value replaced by another, or gone."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key, inner in list(value.items()) if isinstance(value, dict) else list(enumerate(value)):
            places.append((value, key))
            if isinstance(inner, dict | list):
                walk(inner)

    walk(content)
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = rng.choice(places)
        if isinstance(holder, dict) and rng.random() < 0.2:
            holder.pop(key, None)
        elif isinstance(holder, dict) or key < len(holder):
            holder[key] = rng.choice((*WRONG, "\0", "\ud800", "../../../etc/passwd", "a" * 5000))
    return content


def full_coco() -> Any:
    content: Any = coco_content()
    content["annotations"][0]["segmentation"] = [[4, 3, 20, 3, 4, 15]]
    content["annotations"][1] |= {"segmentation": {"size": [30, 40], "counts": [100, 12, 1088]}, "iscrowd": 0}
    return content


@pytest.mark.parametrize("kind", ["coco", "labelme", "labelstudio", "labelstudio min"])
def test_json_with_wrong_values(kind: str, tmp_path: Path) -> None:
    """Sixty files, each with a value of another type, out of range or missing."""
    source = FORMATS[kind][0](tmp_path)
    file = source / "a.json" if source.is_dir() else source
    whole = json.dumps(full_coco()) if kind == "coco" else file.read_text(encoding="utf-8")
    rng, outcomes = random.Random(0), {"error": 0, "faults": 0, "sound": 0}
    for _ in range(60):
        text(file, json.dumps(corrupted(json.loads(whole), rng)))
        try:
            index = build_index([source], NAMES, cache=False)
            names_of([source])
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            outcomes["error"] += 1
            continue
        assert np.isfinite(index.boxes).all() and (index.boxes[:, 0] < 2).all()
        assert all(str(fault.detail).isprintable() for fault in index.report.faults)
        outcomes["faults" if index.report.faults else "sound"] += 1
    assert min(outcomes["faults"], outcomes["sound"]) > 2, outcomes


@pytest.mark.parametrize("kind", ["voc", "cvat", "retinanet", "csv with a head", "vgg", "open images"])
def test_texts_with_wrong_values(kind: str, tmp_path: Path) -> None:
    """Sixty files in which a run of characters is gone, doubled, or something else."""
    source = FORMATS[kind][0](tmp_path)
    file = tmp_path / "Annotations/a.xml" if kind == "voc" else source
    whole, rng, faults = file.read_text(encoding="utf-8"), random.Random(0), 0
    for _ in range(60):
        start = rng.randrange(len(whole))
        end = min(len(whole), start + rng.randrange(1, 12))
        other = rng.choice(
            ("", whole[start:end] * 2, "nan", "-7", "1e999", "<", ",,", '"', "\u2028", "9" * 400)
        )
        text(file, whole[:start] + other + whole[end:])
        try:
            faults += bool(build_index([source], NAMES, cache=False).report.faults)
        except UserError as error:
            assert "\n" not in str(error)
    assert faults > 2


ROWS: dict[str, tuple[Callable[[Any], object], str]] = {
    "nan": (lambda c: c["annotations"][0].update(bbox=[float("nan"), 1, 2, 3]), "not finite"),
    "text": (lambda c: c["annotations"][0].update(bbox=["a", 1, 2, 3]), "broken annotation"),
    "three": (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "broken annotation"),
    "no box": (lambda c: c["annotations"][0].pop("bbox"), "broken annotation"),
    "no picture": (lambda c: c["annotations"][0].update(image_id=5), "label without image"),
    "no category": (lambda c: c["annotations"][0].update(category_id=5), "class out of range"),
    "nothing": (lambda c: c["annotations"].__setitem__(0, None), "broken annotation"),
    "no area": (lambda c: c["annotations"][0].update(bbox=[1, 2, 0, 3]), "no area"),
    "outside": (lambda c: c["annotations"][0].update(bbox=[100, 2, 5, 3]), "out of bounds"),
    "beyond all": (lambda c: c["annotations"][0].update(bbox=[1e300, 2, 5, 3]), "not finite"),
    "a mask of terapixels": (
        lambda c: c["annotations"][0].update(bbox=None, segmentation={"size": [1e6, 1e6], "counts": [1]}),
        "broken annotation",
    ),
    "runs that do not fill": (
        lambda c: c["annotations"][0].update(bbox=None, segmentation={"size": [30, 40], "counts": [1]}),
        "broken annotation",
    ),
    "twice": (lambda c: c["annotations"].append(c["annotations"][0]), "duplicate row"),
}


@pytest.mark.parametrize("case", ROWS)
def test_objects_that_are_dropped_and_named(case: str, tmp_path: Path) -> None:
    change, kind = ROWS[case]
    content = coco_content()
    change(content)
    source = text(coco(tmp_path), json.dumps(content))
    index = build_index([source], NAMES, cache=False)
    (fault,) = index.report.faults
    assert (fault.kind, fault.file) == (kind, str(source)) and "annotation" in fault.detail
    assert index.labels(0)[:, 0].tolist() == ([0, 1] if case == "twice" else [1])


def test_pictures_that_are_not_there(tmp_path: Path) -> None:
    content: Any = coco_content()
    content["images"] += [{"id": 1, "file_name": "c.png"}, {"id": 2, "file_name": "a\0.png"}, {"id": 70}, 7]
    content["images"].append({"id": 3, "file_name": "C:\\work\\a.png"})
    index = build_index([text(coco(tmp_path), json.dumps(content))], NAMES, cache=False)
    assert index.report.counts == {"broken annotation": 3, "missing image": 1, "picture twice": 1}
    assert len(index) == 2


def test_a_broken_file_of_one_picture_costs_that_picture(tmp_path: Path) -> None:
    source = voc(tmp_path)
    text(tmp_path / "Annotations/b.xml", BOMB)
    index = build_index([source], NAMES, cache=False)
    assert [Path(path).name for path in index.paths()] == ["a.png"]
    (fault,) = index.report.faults
    assert (fault.kind, fault.file) == ("unreadable label file", str(tmp_path / "Annotations/b.xml"))
    (tmp_path / "Annotations/b.xml").unlink()  # a picture without an annotation has nothing on it
    assert len(build_index([source], NAMES, cache=False)) == 2


def test_a_file_that_tells_of_no_pictures(tmp_path: Path) -> None:
    file = tmp_path / "none.json"
    file.write_text('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "utf-8")
    with pytest.raises(UserError, match=r"none.json: it tells of no pictures"):
        build_index([file], {0: "a"})


def test_more_classes_than_anybody_has(tmp_path: Path) -> None:
    source = cvat(tmp_path)
    labels = "".join(f"<label><name>{n}</name></label>" for n in range(10_001))
    text(source, f"<annotations><meta>{labels}</meta></annotations>")
    with pytest.raises(UserError, match="more than 10,000 class names"):
        open_source(source)
