"""A tiny data set in every format is recognised and gives the boxes of its YOLO text."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import utils.data.index as index_module
from tests.utils.data.formats.instances import (
    BOXES,
    FORMATS,
    NAMES,
    coco,
    coco_content,
    labelme,
    text,
    voc,
    voc_xml,
)
from utils.data.formats.opening import names_of, open_source
from utils.data.index import build_index
from utils.errors import UserError


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_boxes_of_yolo_text(kind: str, tmp_path: Path) -> None:
    write, said = FORMATS[kind]
    source = write(tmp_path / "set")
    assert open_source(source).kind == said
    index = build_index([source], NAMES, cache=False)
    reference = build_index([FORMATS["yolo"][0](tmp_path / "yolo")], NAMES, cache=False)
    assert Path(index.path(0)).name == "a.png"
    np.testing.assert_array_equal(index.labels(0), reference.labels(0))  # to the last bit
    assert not index.report.faults and not index.has_polygons
    images = 1 if kind == "open images" else 2  # which lists boxes only
    assert (index.report.images, index.report.backgrounds) == (images, images - 1)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if not kind.startswith("yolo")])
def test_classes_by_the_labels(kind: str, tmp_path: Path) -> None:
    assert names_of([FORMATS[kind][0](tmp_path)]) == NAMES


def test_classes_belong_by_name(tmp_path: Path) -> None:
    source = coco(tmp_path)
    index = build_index([source], {0: "bird", 1: "dog", 2: "cat"}, cache=False)
    assert index.labels(0)[:, 0].tolist() == [2, 1]
    index = build_index([source], {0: " cat", 1: "Dog"}, cache=False)
    assert index.labels(0)[:, 0].tolist() == [0]
    (fault,) = index.report.faults
    assert (fault.kind, fault.file) == ("unknown class", str(source))
    assert fault.detail == "'dog' (1 box, like 'Dog'?); names has ' cat', 'Dog'"
    nothing = build_index([source], {0: "bird"}, cache=False).report.nothing_to_learn
    assert "'cat' (1 box), 'dog' (1 box); names has 'bird'" in nothing
    with pytest.raises(UserError, match=r"unknown class .* fatal with --strict"):
        build_index([source], {0: "cat"}, strict=True, cache=False)


def test_the_kind_is_said_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = coco(tmp_path)
    with caplog.at_level(logging.INFO):
        build_index([source], NAMES)
    assert caplog.messages == [f"{source}: COCO json, 2 pictures, pictures in {tmp_path / 'train2017'}"]


@pytest.mark.parametrize(
    ("write", "part"), [(coco, "annotations/instances_train2017.json"), (voc, "Annotations/a.xml")]
)
def test_a_changed_file_invalidates_the_cached_index(
    write: Any, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, scans, scan = write(tmp_path), [], index_module._scan
    monkeypatch.setattr(index_module, "_scan", lambda *given: scans.append(1) or scan(*given))
    assert len(build_index([source], NAMES).boxes) == 2
    assert len(build_index([source], NAMES).boxes) == 2
    assert len(scans) == 1
    file = tmp_path / part
    file.write_text(file.read_text(encoding="utf-8").replace("dog", "cat"), encoding="utf-8")
    assert build_index([source], NAMES).boxes[:, 0].tolist() == [0, 0]
    assert build_index([source], {0: "dog", 1: "cat"}).boxes[:, 0].tolist() == [1, 1]  # other names too
    assert len(scans) == 3


def test_a_picture_that_a_list_has_twice(tmp_path: Path) -> None:
    index = build_index([text(voc(tmp_path), "a\nb\na\n")], NAMES, cache=False)
    assert np.diff(index.offsets).tolist() == [2, 0, 2] and not index.report.faults


def test_several_sources_of_several_formats(tmp_path: Path) -> None:
    sources = [FORMATS[kind][0](tmp_path / kind) for kind in ("yolo", "coco", "labelme")]
    index = build_index(sources, NAMES, cache=False)
    assert np.diff(index.offsets).tolist() == [2, 0] * 3
    assert (index.labels(0) == index.labels(2)).all() and (index.labels(2) == index.labels(4)).all()


# ---- what formats have beside boxes ----


def edit(root: Path, change: Any) -> Path:
    """COCO's file after a change of its content."""
    file, content = coco(root), coco_content()
    change(content)
    return text(file, json.dumps(content))


def test_crowds_are_left_out_and_counted_but_no_fault(tmp_path: Path) -> None:
    source = edit(tmp_path, lambda c: c["annotations"][1].update(iscrowd=1))
    index = build_index([source], NAMES, strict=True, cache=False)
    assert index.labels(0)[:, 0].tolist() == [0]
    assert "1 regions of many objects (iscrowd)" in index.report.summary()


def test_a_polygon_is_kept_with_the_box_around_it(tmp_path: Path) -> None:
    triangle, other = [4, 3, 20, 3, 4, 15], [0, 0, 9, 0, 9, 9]

    def change(content: Any) -> None:
        content["annotations"][0]["segmentation"] = [triangle]
        content["annotations"][1]["segmentation"] = [triangle, other]  # of several parts: the box alone

    index = build_index([edit(tmp_path, change)], NAMES, cache=False)
    polygons = index.polygons(0)
    np.testing.assert_allclose(polygons[0], [[0.1, 0.1], [0.5, 0.1], [0.1, 0.5]], rtol=1e-6)
    assert len(polygons[1]) == 0
    np.testing.assert_allclose(index.labels(0)[0], [0, 0.3, 0.3, 0.4, 0.4], rtol=1e-6)


MASKS = {
    # 30 high, 40 wide, by columns: 4 columns and 3 pixels, then 16 columns of 12 pixels
    "runs": [4 * 30 + 3, 12] + [18, 12] * 15 + [20 * 30 + 15],
    "packed": None,
}


@pytest.mark.skipif(importlib.util.find_spec("faster_coco_eval") is None, reason="needs faster-coco-eval")
@pytest.mark.parametrize("form", MASKS)
def test_a_box_around_a_mask(form: str, tmp_path: Path) -> None:
    from faster_coco_eval.core import mask

    counts: Any = MASKS["runs"]
    if form == "packed":
        counts = mask.frPyObjects({"size": [30, 40], "counts": counts}, 30, 40)["counts"].decode()

    def change(content: Any) -> None:
        del content["annotations"][0]["bbox"]
        content["annotations"][0]["segmentation"] = {"size": [30, 40], "counts": counts}

    index = build_index([edit(tmp_path, change)], NAMES, cache=False)
    np.testing.assert_allclose(index.labels(0)[0], [0, 0.3, 0.3, 0.4, 0.4], rtol=1e-6)


def test_pixels_of_voc_itself_count_from_one(tmp_path: Path) -> None:
    source = voc(tmp_path)
    x1, y1, x2, y2 = BOXES["cat"]
    corners = f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
    cat = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    difficult = cat.replace("</name>", "</name><difficult>1</difficult>")
    head = "<source><annotation>PASCAL VOC2007</annotation></source>"
    text(tmp_path / "Annotations/a.xml", voc_xml("a.png", cat + difficult, head))
    index = build_index([source], NAMES, strict=True, cache=False)
    np.testing.assert_allclose(index.labels(0), [[0, 0.3, 0.3, 0.4, 0.4]], rtol=1e-6)
    assert "1 object marked difficult" in index.report.summary()


def test_pictures_of_another_size_than_labelled(tmp_path: Path) -> None:
    """One that was scaled keeps its boxes; of one with another shape nobody knows what its pixels mean."""
    source = edit(tmp_path, lambda c: c["images"][0].update(width=400, height=300))
    index = build_index([source], NAMES, cache=False)
    np.testing.assert_allclose(index.labels(0)[0], [0, 0.03, 0.03, 0.04, 0.04], rtol=1e-6)
    source = edit(tmp_path, lambda c: c["images"][0].update(width=30, height=40))
    index = build_index([source], NAMES, cache=False)
    assert list(index.report.counts) == ["picture of another shape"] and len(index) == 1
    source = edit(tmp_path, lambda c: c["images"][0].update(width=0, height=None))
    assert not build_index([source], NAMES, cache=False).report.faults


def test_turned_boxes(tmp_path: Path) -> None:
    """A box of 20 x 10 about (20, 15), turned by 90 degrees: 10 x 20 about the same point."""
    source = FORMATS["cvat"][0](tmp_path / "cvat")
    box = '<box label="cat" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90"></box>'
    image = (
        f'<image id="0" name="a.png" width="40" height="30">{box}<points label="dog" points="1,2"/></image>'
    )
    text(source, f"<annotations><meta/>{image}</annotations>")
    index = build_index([source], NAMES, cache=False)
    np.testing.assert_allclose(index.labels(0), [[0, 0.5, 0.5, 10 / 40, 20 / 30]], rtol=1e-6)
    assert index.report.counts == {"other shape": 1}
    # Label Studio turns about the top left corner, clockwise: (10, 10) is the top right of a box of 10 x 20
    value = {
        "x": 25,
        "y": 100 / 3,
        "width": 50,
        "height": 100 / 3,
        "rotation": 90,
        "rectanglelabels": ["cat"],
    }
    region = {"original_width": 40, "original_height": 30, "value": value}
    source = FORMATS["labelstudio"][0](tmp_path / "studio")
    text(source, json.dumps([{"data": {"image": "a.png"}, "annotations": [{"result": [region]}]}]))
    index = build_index([source], NAMES, cache=False)
    np.testing.assert_allclose(index.labels(0), [[0, 5 / 40, 20 / 30, 10 / 40, 20 / 30]], rtol=1e-6)


def test_shapes_of_labelme(tmp_path: Path) -> None:
    source = labelme(tmp_path)
    shapes = [
        {"label": "cat", "points": [[20, 15], [20, 20]], "shape_type": "circle"},
        {"label": "dog", "points": [[4, 3], [20, 3], [4, 15]], "shape_type": "polygon"},
        {"label": "dog", "points": [[4, 3]], "shape_type": "point"},
    ]
    text(source / "a.json", json.dumps({"shapes": shapes}))
    index = build_index([source], NAMES, cache=False)
    np.testing.assert_allclose(
        index.labels(0), [[0, 0.5, 0.5, 0.25, 1 / 3], [1, 0.3, 0.3, 0.4, 0.4]], rtol=1e-6
    )
    assert [len(polygon) for polygon in index.polygons(0)] == [0, 3]
    assert index.report.counts == {"other shape": 1}


@pytest.mark.parametrize("place", ["annotations.xml", "pictures/annotations.xml"])
@pytest.mark.parametrize("meta", ["<meta/>", ""])
def test_cvat_for_video_is_named(place: str, meta: str, tmp_path: Path) -> None:
    file = tmp_path / place
    file.parent.mkdir(exist_ok=True)
    box = '<box frame="0" xtl="4" ytl="3" xbr="20" ybr="15"/>'
    file.write_text(f"<annotations>{meta}<track id='0' label='cat'>{box}</track></annotations>", "utf-8")
    cv2.imwrite(str(file.parent / "a.png"), np.zeros((30, 40, 3), np.uint8))
    source = file if file.parent == tmp_path else file.parent
    with pytest.raises(
        UserError, match=r"annotations\.xml: CVAT's XML for video; export the job as 'CVAT for images"
    ):
        open_source(source)


@pytest.mark.parametrize("path", ["..\\shots\\a.JPG", 5, None])
def test_pictures_inside_the_json_of_labelme(path: object, tmp_path: Path) -> None:
    source = FORMATS["labelme"][0](tmp_path)
    content = json.loads((source / "a.json").read_text(encoding="utf-8"))
    text(source / "a.json", json.dumps({**content, "imageData": "iVBORw0KGgo=", "imagePath": path}))
    assert build_index([source], NAMES).report.faults == []
    for name in "ab":
        (source / f"{name}.png").unlink()
    line = (
        r"none of 2 images can be used; the first: .*shots/a: missing image \(No such file or directory; the "
        r"picture is inside a.json: write it out with Labelme's labelme_export_json .* beside the JSON as a\."
    )
    with pytest.raises(UserError, match=line + ("JPG" if isinstance(path, str) else "png")) as caught:
        build_index([source], NAMES)
    assert "\n" not in str(caught.value)
    text(source / "a.json", json.dumps({**content, "imageData": None}))
    with pytest.raises(UserError, match=r"missing image \(No such file or directory\)$"):
        build_index([source], NAMES)


def test_two_files_in_one_folder(tmp_path: Path) -> None:
    source = FORMATS["coco of Roboflow"][0](tmp_path)
    text(source / "_annotations.csv", "filename,class,xmin,ymin,xmax,ymax\na.png,cat,1,1,5,5\n")
    with pytest.raises(
        UserError, match=r"_annotations.coco.json \(COCO json\) and _annotations.csv .*; name the one"
    ):
        open_source(source)


def test_blood_cells(shared: Path, tmp_path: Path) -> None:
    """The published XML gives the boxes of the shared YOLO text, which has six decimals."""
    names = {0: "Platelets", 1: "RBC", 2: "WBC"}
    photographs = sorted((shared / "data/bccd/images/val").iterdir())
    (tmp_path / "JPEGImages").mkdir()
    for photograph in photographs:
        (tmp_path / "JPEGImages" / photograph.name).symlink_to(photograph)
    (tmp_path / "Annotations").symlink_to(shared / "data/bccd-voc/Annotations")
    index = build_index([tmp_path / "JPEGImages"], names, cache=False)
    reference = build_index([shared / "data/bccd/images/val"], names, cache=False)
    assert names_of([tmp_path / "JPEGImages"]) == names
    assert index.offsets.tolist() == reference.offsets.tolist() and len(index.boxes) == 1137
    np.testing.assert_allclose(index.boxes, reference.boxes, rtol=0, atol=6e-7)
    assert index.report.counts == {"no area": 1}  # which the shared text leaves out


@pytest.mark.parametrize("kind", ["voc beside", "coco of Roboflow"])
def test_numbers_with_commas_beside_pictures_are_no_labels_where_others_are(
    kind: str, tmp_path: Path
) -> None:
    """As text detection has them, corners for example."""
    write, said = FORMATS[kind]
    source = write(tmp_path)
    folder = (source if source.is_dir() else source.parent).rename(tmp_path / "images")
    for name in "ab":
        text(folder / f"{name}.txt", "12,34,56,78,90,12,34,56\n")
    assert open_source(folder).kind == said
