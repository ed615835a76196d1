"""The same two pictures in every format: a cat and a dog on the first, nothing on the second."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

SIZE = (40, 30)  # width, height
BOXES = {"cat": (4, 3, 20, 15), "dog": (10, 6, 30, 27)}  # x1, y1, x2, y2
# cat: centre 12/40, 9/30, size 16/40, 12/30; dog: centre 20/40, 16.5/30, size 20/40, 21/30
ROWS = [[0, 0.3, 0.3, 0.4, 0.4], [1, 0.5, 0.55, 0.5, 0.7]]
NAMES = {0: "cat", 1: "dog"}


def pictures(folder: Path) -> None:
    """a.png and b.png."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in "ab":
        assert cv2.imwrite(str(folder / f"{name}.png"), np.full((SIZE[1], SIZE[0], 3), 128, np.uint8))


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def yolo(root: Path) -> Path:
    pictures(root / "images")
    text(root / "labels/a.txt", "".join(f"{' '.join(map(str, row))}\n" for row in ROWS))
    text(root / "labels/b.txt", "")
    return root / "images"


def yolo_beside(root: Path) -> Path:
    source = yolo(root)
    (root / "labels").rename(root / "unused")
    (root / "unused/a.txt").rename(source / "a.txt")
    return source


def voc_xml(name: str, objects: str, head: str = "") -> str:
    size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{head}{size}{objects}</annotation>"


def voc_object(name: str, box: tuple[float, ...], more: str = "") -> str:
    corners = "".join(f"<{c}>{v}</{c}>" for c, v in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{more}<bndbox>{corners}</bndbox></object>"


def voc(root: Path) -> Path:
    """VOC's own layout; the source is a list of `ImageSets`."""
    pictures(root / "JPEGImages")
    objects = "".join(voc_object(name, box) for name, box in BOXES.items())
    text(root / "Annotations/a.xml", voc_xml("a.png", objects))
    text(root / "Annotations/b.xml", voc_xml("b.png", ""))
    return text(root / "ImageSets/Main/train.txt", "a\nb\n")


def voc_folder(root: Path) -> Path:
    voc(root)
    return root / "JPEGImages"


def voc_annotations(root: Path) -> Path:
    voc(root)
    return root / "Annotations"


def voc_beside(root: Path) -> Path:
    voc(root)
    for name in "ab":
        (root / f"Annotations/{name}.xml").rename(root / f"JPEGImages/{name}.xml")
    return root / "JPEGImages"


def coco_content() -> dict[str, list[dict[str, object]]]:
    """Ids with holes, not from 1."""
    return {
        "images": [
            {"id": 70 + n, "file_name": f"{name}.png", "width": SIZE[0], "height": SIZE[1]}
            for n, name in enumerate("ab")
        ],
        "annotations": [
            {
                "id": 900 + n,
                "image_id": 70,
                "category_id": [7, 40][n],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "iscrowd": 0,
            }
            for n, (x1, y1, x2, y2) in enumerate(BOXES.values())
        ],
        "categories": [{"id": 40, "name": "dog"}, {"id": 7, "name": "cat"}],
    }


def coco(root: Path) -> Path:
    pictures(root / "train2017")
    return text(root / "annotations/instances_train2017.json", json.dumps(coco_content()))


def coco_of_roboflow(root: Path) -> Path:
    """The file beside the pictures, and a heading as category 0."""
    pictures(root / "train")
    content = coco_content()
    for category in content["categories"]:
        category["supercategory"] = "animals"
    content["categories"].append({"id": 0, "name": "animals", "supercategory": "none"})
    text(root / "train/_annotations.coco.json", json.dumps(content))
    return root / "train"


def cvat(root: Path) -> Path:
    pictures(root / "images")
    box = '<box label="{}" occluded="0" xtl="{}" ytl="{}" xbr="{}" ybr="{}" z_order="0"></box>'
    boxes = "".join(box.format(name, *corners) for name, corners in BOXES.items())
    labels = "".join(f"<label><name>{name}</name></label>" for name in BOXES)
    images = f'<image id="0" name="a.png" width="40" height="30">{boxes}</image>'
    images += '<image id="1" name="b.png" width="40" height="30"></image>'
    meta = f"<meta><job><labels>{labels}</labels></job></meta>"
    return text(root / "annotations.xml", f"<annotations><version>1.1</version>{meta}{images}</annotations>")


def labelme_content(shapes: list[dict[str, object]]) -> str:
    return json.dumps({"version": "5.5.0", "shapes": shapes, "imageWidth": SIZE[0], "imageHeight": SIZE[1]})


def labelme(root: Path) -> Path:
    """Corners in any order, as they were drawn."""
    pictures(root / "shots")
    shapes: list[dict[str, object]] = [
        {"label": name, "points": [[x2, y1], [x1, y2]], "shape_type": "rectangle"}
        for name, (x1, y1, x2, y2) in BOXES.items()
    ]
    text(root / "shots/a.json", labelme_content(shapes))
    text(root / "shots/b.json", labelme_content([]))
    return root / "shots"


def labelstudio_value(name: str) -> dict[str, object]:
    x1, y1, x2, y2 = BOXES[name]
    return {
        "x": x1 / 0.4, "y": y1 / 0.3, "width": (x2 - x1) / 0.4, "height": (y2 - y1) / 0.3, "rotation": 0,
        "rectanglelabels": [name],
    }  # fmt: skip


def labelstudio(root: Path) -> Path:
    """Uploaded pictures: eight hexadecimal digits before the name."""
    pictures(root / "images")
    sides = {"original_width": SIZE[0], "original_height": SIZE[1]}
    result = [{"type": "rectanglelabels", **sides, "value": labelstudio_value(name)} for name in BOXES]
    tasks = [
        {"data": {"image": "/data/upload/1/0a1b2c3d-a.png"}, "annotations": [{"result": result}]},
        {"data": {"image": "/data/local-files/?d=images%2Fb.png"}, "annotations": [{"result": []}]},
    ]
    return text(root / "export.json", json.dumps(tasks))


def labelstudio_min(root: Path) -> Path:
    pictures(root / "images")
    sides = {"original_width": SIZE[0], "original_height": SIZE[1]}
    tasks = [
        {
            "image": "s3://bucket/images/a.png",
            "id": 1,
            "label": [{**labelstudio_value(n), **sides} for n in BOXES],
        },
        {"image": "s3://bucket/images/b.png", "id": 2},
    ]
    return text(root / "export.json", json.dumps(tasks))


def darknet(root: Path) -> Path:
    """Paths are relative to the folder in which Darknet was started."""
    pictures(root / "data/obj")
    rows = (" ".join(map(str, row)) for row in ROWS)
    text(root / "data/obj/a.txt", "\n".join(rows))
    text(root / "data/train.txt", "data/obj/a.png\ndata/obj/b.png\n")
    text(root / "data/obj.names", "cat\ndog\n")
    lines = ("classes = 2", "train = data/train.txt", "valid = data/train.txt", "names = data/obj.names")
    return text(root / "data/obj.data", "\n".join((*lines, "backup = backup/")))


def darknet_of_cvat(root: Path) -> Path:
    """CVAT's "YOLO 1.1": paths begin with a folder `data` that its zip has not."""
    pictures(root / "obj_train_data")
    text(root / "obj_train_data/a.txt", "".join(f"{' '.join(map(str, row))}\n" for row in ROWS))
    text(root / "obj_train_data/b.txt", "")
    text(root / "train.txt", "data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    text(root / "obj.names", "cat\ndog\n")
    lines = ("classes = 2", "train = data/train.txt", "names = data/obj.names", "backup = backup/")
    return text(root / "obj.data", "\n".join(lines))


def retinanet(root: Path) -> Path:
    pictures(root / "pictures")
    rows = [f"pictures/a.png,{','.join(map(str, box))},{name}" for name, box in BOXES.items()]
    text(root / "classes.csv", "cat,0\ndog,1\n")
    return text(root / "boxes.csv", "\n".join([*rows, "pictures/b.png,,,,,"]))


def headed(root: Path) -> Path:
    """As Roboflow and TensorFlow's tutorials have it."""
    pictures(root / "train")
    rows = [f"a.png,40,30,{name},{','.join(map(str, box))}" for name, box in BOXES.items()]
    head = "filename,width,height,class,xmin,ymin,xmax,ymax"
    return text(root / "train/_annotations.csv", "\n".join([head, *rows, "b.png,40,30,,,,,"]))


def vgg(root: Path) -> Path:
    pictures(root)
    head = (
        "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
    )
    rows = []
    for number, (name, (x1, y1, x2, y2)) in enumerate(BOXES.items()):
        shape = json.dumps({"name": "rect", "x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1})
        cells = (shape, json.dumps({"class": name}))
        quoted = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
        rows.append(f'a.png,999,"{{}}",2,{number},{quoted}')
    return text(root / "via.csv", "\n".join([head, *rows, 'b.png,999,"{}",0,0,"{}","{}"']))


def openimages(root: Path) -> Path:
    """Names of pictures without a suffix, classes by codes, parts of the picture; `b` is not in the table."""
    pictures(root / "train")
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf"
    rows = [
        f"a,xclick,/m/{name},1,{x1 / 40},{x2 / 40},{y1 / 30},{y2 / 30},0,0"
        for name, (x1, y1, x2, y2) in BOXES.items()
    ]
    text(root / "class-descriptions-boxable.csv", "/m/cat,cat\n/m/dog,dog\n")
    return text(root / "train-annotations-bbox.csv", "\n".join([head, *rows]))


FORMATS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "yolo": (yolo, "YOLO text"),
    "yolo beside": (yolo_beside, "YOLO text beside the pictures"),
    "voc": (voc, "Pascal VOC xml"),
    "voc folder": (voc_folder, "Pascal VOC xml"),
    "voc annotations": (voc_annotations, "Pascal VOC xml"),
    "voc beside": (voc_beside, "Pascal VOC xml"),
    "coco": (coco, "COCO json"),
    "coco of Roboflow": (coco_of_roboflow, "COCO json"),
    "cvat": (cvat, "CVAT xml"),
    "labelme": (labelme, "Labelme json"),
    "labelstudio": (labelstudio, "Label Studio json"),
    "labelstudio min": (labelstudio_min, "Label Studio json"),
    "darknet": (darknet, "Darknet obj.data, YOLO text"),
    "darknet of CVAT": (darknet_of_cvat, "Darknet obj.data, YOLO text"),
    "retinanet": (retinanet, "RetinaNet csv"),
    "csv with a head": (headed, "csv of boxes"),
    "vgg": (vgg, "VGG Image Annotator csv"),
    "open images": (openimages, "Open Images csv"),
}
