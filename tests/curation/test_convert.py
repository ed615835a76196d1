"""`dataset.py convert`: from any format to YOLO text, VOC and COCO and back, without a loss."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
import yaml

import dataset
from tests.utils.data.formats.instances import FORMATS, NAMES, text
from utils.data.index import DatasetIndex, build_index
from utils.data.spec import SPLITS, load_data_spec
from utils.errors import UserError

ARRAYS = ("shapes", "boxes", "offsets", "points", "point_offsets")


def convert(data: Path, to: str, out: Path, *more: str) -> Path:
    dataset.main(["convert", "--data", str(data), "--to", to, "--out", str(out), *more])
    return out / "data.yaml"


def read(yaml_file: Path, split: str) -> DatasetIndex:
    spec = load_data_spec(yaml_file, needed=(split,))
    return build_index(getattr(spec, split), spec.names, cache=False)


def check_equal(left: DatasetIndex, right: DatasetIndex) -> None:
    """The same pictures, names and values, to the last bit."""
    assert [Path(path).name for path in left.paths()] == [Path(path).name for path in right.paths()]
    assert left.names == right.names
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("to", ["yolo", "voc", "coco"])
def test_from_every_format(kind: str, to: str, tmp_path: Path) -> None:
    source = FORMATS[kind][0](tmp_path / "source")
    if kind.startswith("yolo"):
        text(tmp_path / "source/classes.txt", "cat\ndog\n")
    file = convert(source, to, tmp_path / "out")
    spec = load_data_spec(file, needed=("train",))
    assert spec.names == NAMES and spec.root == tmp_path / "out"
    check_equal(build_index(spec.train, NAMES, cache=False), build_index([source], NAMES, cache=False))


@pytest.fixture
def photographs(shared: Path, tmp_path: Path) -> dict[str, Path]:
    """Data yamls of the blood cells (six decimals) and of COCO's photographs."""
    sets = {
        "bccd": ("train: images/test", ["Platelets", "RBC", "WBC"]),
        "coco256": ("train: images/val2017", [f"class {n}" for n in range(80)]),
    }
    files = {}
    for name, (splits, names) in sets.items():
        content = f"path: {shared / 'data' / name}\n{splits}\nnames: {json.dumps(names)}\n"
        files[name] = text(tmp_path / f"{name}.yaml", content)
    return files


@pytest.mark.parametrize(
    ("name", "ways"), [("bccd", ("voc", "yolo")), ("bccd", ("coco", "yolo")), ("coco256", ("coco", "voc"))]
)
def test_there_and_back(
    name: str, ways: tuple[str, ...], photographs: dict[str, Path], tmp_path: Path
) -> None:
    file = photographs[name]
    before = read(file, "train")
    for number, to in enumerate(ways):
        file = convert(file, to, tmp_path / f"{number}")
    check_equal(read(file, "train"), before)


def test_yolo_text_comes_back_as_it_was(shared: Path, photographs: dict[str, Path], tmp_path: Path) -> None:
    """All that its six decimals say, without zeros at the end."""
    out = convert(convert(photographs["bccd"], "coco", tmp_path / "a"), "yolo", tmp_path / "b").parent
    for file in sorted((out / "labels/train").iterdir()):
        original = (shared / "data/bccd/labels/test" / file.name).read_text(encoding="utf-8")
        numbers = [[float(value) for value in line.split()] for line in original.splitlines()]
        assert [
            [float(v) for v in line.split()] for line in file.read_text(encoding="utf-8").splitlines()
        ] == numbers


@pytest.fixture
def cells(shared: Path, tmp_path: Path) -> Path:
    """The blood cells as published, VOC's XML and lists; of one picture of val all cells are taken away."""
    root = tmp_path / "bccd"
    for source in (shared / "data/bccd/images").rglob("*.jpg"):
        place = root / "JPEGImages" / source.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(source)
    shutil.copytree(shared / "data/bccd-voc", root, dirs_exist_ok=True)
    bare = root / "Annotations" / f"{listed(root, 'val')[3]}.xml"
    content = bare.read_text(encoding="utf-8")
    text(bare, re.sub("<object>.*</object>", "", content, flags=re.DOTALL))
    splits = "".join(f"{split}: ImageSets/Main/{split}.txt\n" for split in SPLITS)
    return text(root / "data.yaml", f"path: {root}\n{splits}names: {CELLS}\n")


CELLS = ["WBC", "Platelets", "RBC"]  # in an order that is neither that of the files nor of the alphabet


def listed(root: Path, split: str) -> list[str]:
    return (root / f"ImageSets/Main/{split}.txt").read_text(encoding="utf-8").split()


def in_pixels(index: DatasetIndex) -> dict[str, list[tuple[float, ...]]]:
    """By name of the picture class, x1, y1, x2, y2, in an order of their own."""
    found: dict[str, list[tuple[float, ...]]] = {}
    for number in range(len(index)):
        height, width = index.shape(number)
        cls, x, y, w, h = index.labels(number).astype(np.float64).T
        corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
        found[Path(index.path(number)).stem] = sorted(
            zip(cls, *corners), key=lambda box: [round(value) for value in box]
        )  # they are whole numbers
    return found


def of_xml(file: Path) -> list[tuple[float, ...]]:
    """The same as it stands in the XML, without what has no area."""
    found = []
    for one in ElementTree.parse(file).getroot().iter("object"):
        box = [float(one.findtext(f"bndbox/{name}", "")) for name in ("xmin", "ymin", "xmax", "ymax")]
        if box[2] > box[0] and box[3] > box[1]:
            found.append((float(CELLS.index(one.findtext("name", ""))), *box))
    return sorted(set(found))


@pytest.mark.slow
def test_blood_cells_as_published_go_round(cells: Path, tmp_path: Path) -> None:
    root, file = cells.parent, cells
    expected = {
        split: {name: of_xml(root / f"Annotations/{name}.xml") for name in listed(root, split)}
        for split in SPLITS
    }
    counts = {split: sum(map(len, pictures.values())) for split, pictures in expected.items()}
    for to in ("", "yolo", "coco", "voc"):
        file = convert(file, to, tmp_path / to) if to else file
        spec = load_data_spec(file, needed=SPLITS)
        assert list(spec.names.values()) == CELLS
        for split, pictures in expected.items():
            index = read(file, split)
            found = in_pixels(index)
            assert list(found) == list(pictures) and len(index.boxes) == counts[split]
            for name, boxes in pictures.items():
                np.testing.assert_allclose(found[name], boxes, rtol=0, atol=0.01, err_msg=f"{to} {name}")
        without = [name for name, boxes in in_pixels(read(file, "val")).items() if not boxes]
        assert without == [listed(root, "val")[3]]


@pytest.fixture
def polygons(tmp_path: Path) -> Path:
    """A data yaml of two splits whose pictures have the same names: a polygon, a box, nothing."""
    rng = np.random.default_rng(0)
    for split, colour in (("train", 50), ("val", 200)):
        for name in ("a.png", "a.jpg", "b.png"):
            path = tmp_path / "set/images" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), np.full((77, 113, 3), colour, np.uint8))
        corners = " ".join(map(str, rng.uniform(0.1, 0.9, 14).astype(np.float32)))
        text(tmp_path / f"set/labels/{split}/a.txt", f"1 {corners}\n0 0.123456789 0.4 0.2 0.1\n")
    return text(tmp_path / "set/data.yaml", "train: images/train\nval: images/val\nnames: [b c, 'a & <d>']\n")


def test_polygons_empty_pictures_and_equal_names(
    polygons: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "set")
    before = {split: read(polygons, split) for split in ("train", "val")}
    assert before["train"].has_polygons
    for ways in (("yolo",), ("coco", "yolo"), ("coco", "coco")):
        file = polygons
        for step, to in enumerate(ways):
            file = convert(file, to, tmp_path / f"{'-'.join(ways)}-{step}")
        for split, index in before.items():
            after = read(file, split)
            for name in ARRAYS:
                np.testing.assert_array_equal(getattr(after, name), getattr(index, name), err_msg=name)
            assert [Path(path).name for path in after.paths()] == ["a.jpg", "a_2.png", "b.png"]
            shade = {"train": 50, "val": 200}[split]
            assert all(abs(int(cv2.imread(path).mean()) - shade) < 3 for path in after.paths())
            assert after.names == {0: "b c", 1: "a & <d>"}


def test_voc_has_boxes_only(polygons: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    index = read(convert(polygons, "voc", tmp_path / "out"), "val")
    assert "polygons became the boxes around them" in capsys.readouterr().out
    reference = read(polygons, "val")
    np.testing.assert_allclose(index.boxes, reference.boxes, rtol=0, atol=1e-6)
    assert not index.has_polygons


def test_pictures_are_linked_or_copied(tmp_path: Path) -> None:
    source = FORMATS["coco"][0](tmp_path / "source")
    linked = convert(source, "yolo", tmp_path / "linked").parent / "images/train/a.png"
    copied = convert(source, "yolo", tmp_path / "copied", "--pictures", "copy").parent / "images/train/a.png"
    assert linked.is_symlink() and not copied.is_symlink()
    assert linked.read_bytes() == copied.read_bytes()


def test_nothing_is_overwritten_and_nothing_half_made_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FORMATS["coco"][0](tmp_path / "source")
    (tmp_path / "there").mkdir()
    for place in ("there", "source/annotations/instances_train2017.json"):
        with pytest.raises(UserError, match="exists and is not touched"):
            convert(source, "yolo", tmp_path / place)
    before = sorted(path.name for path in tmp_path.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("curation.writing.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        convert(source, "yolo", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_is_wrong_is_told_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = FORMATS["coco"][0](tmp_path / "source")
    content = json.loads(source.read_text(encoding="utf-8"))
    content["annotations"][0]["bbox"] = [1, 2, 0, 4]
    text(source, json.dumps(content))
    with pytest.raises(UserError, match=r"no area .* fatal with --strict"):
        convert(source, "yolo", tmp_path / "strict", "--strict")
    convert(source, "yolo", tmp_path / "out")
    assert "1  no area" in capsys.readouterr().out
    assert "a.png, annotation 1: width 0" in (tmp_path / "out/train_label_report.csv").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], "--data must not be empty"),
        (["--data", "nowhere.json", "--out", "x"], "file 'nowhere.json' not found"),
        (["--data", "digits.yaml", "--out", ""], "--out must not be empty"),
        (["--data", "digits.yaml", "--to", "tfrecord", "--out", "x"], "invalid choice"),
    ],
)
def test_bad_flags(flags: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, UserError)) as caught:
        dataset.main(["convert", *flags])
    assert complaint in f"{caught.value} {capsys.readouterr().err}"


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text elsewhere")
def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    source = FORMATS["yolo"][0](tmp_path / "source")
    text(tmp_path / "source/classes.txt", "cat\ndog\n")
    for folder, suffix in (("images", "png"), ("labels", "txt")):
        odd = os.fsdecode(b"\xff") + f".{suffix}"
        (tmp_path / "source" / folder / f"a.{suffix}").rename(tmp_path / "source" / folder / odd)
    for to in ("yolo", "voc", "coco"):
        file = convert(source, to, tmp_path / to)
        assert sorted(Path(path).name for path in read(file, "train").paths()) == ["_.png", "b.png"]
    dataset.main(["split", "--data", str(source), "--out", str(tmp_path / "parts"), "--ratios", "0.5", "0.5"])
    indexes = [read(tmp_path / "parts/data.yaml", split) for split in ("train", "val")]
    assert sorted(len(index.boxes) for index in indexes) == [0, 2]


def test_names_that_no_format_takes(tmp_path: Path) -> None:
    source = FORMATS["yolo"][0](tmp_path / "source")
    file = text(tmp_path / "data.yaml", f'train: {source}\nnames: [cat, "d\\x01g"]\n')
    with pytest.raises(UserError, match="has characters that no file format takes"):
        convert(file, "voc", tmp_path / "out")


def test_names_that_differ_by_blanks(tmp_path: Path) -> None:
    source = FORMATS["yolo"][0](tmp_path / "source")
    file = text(tmp_path / "data.yaml", f'train: {source}\nnames: [cat, "cat "]\n')
    with pytest.raises(UserError, match="several classes are called 'cat' but for blanks"):
        convert(file, "voc", tmp_path / "out")


@pytest.mark.parametrize("mark", ["", " 1", "  -1"])
def test_names_with_blanks_in_lists_of_voc(mark: str, tmp_path: Path) -> None:
    """A mark, as in the lists of a single class, is no part of a name; a blank is."""
    source = FORMATS["yolo"][0](tmp_path / "source")
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):
        before = next((tmp_path / "source").rglob(f"{kind}/**/a{suffix}"))
        before.rename(before.with_stem("a (1) b"))
    text(tmp_path / "source/classes.txt", "cat\ndog\n")
    file = convert(source, "voc", tmp_path / "voc")
    names = tmp_path / "voc/ImageSets/Main/train.txt"
    lines = names.read_text(encoding="utf-8").splitlines()
    assert lines == ["a (1) b", "b"]
    names.write_text("".join(f"{line}{mark}\n" for line in lines), encoding="utf-8")
    check_equal(read(file, "train"), build_index([source], NAMES, cache=False))


def test_labels_without_names(tmp_path: Path) -> None:
    source = FORMATS["yolo"][0](tmp_path / "source")
    with pytest.raises(UserError, match="have no class names; write them, one a line"):
        convert(source, "voc", tmp_path / "out")


def test_the_data_yaml_can_be_read_by_others(tmp_path: Path) -> None:
    file = convert(FORMATS["voc"][0](tmp_path / "source"), "yolo", tmp_path / "out")
    assert yaml.safe_load(file.read_text(encoding="utf-8")) == {
        "path": str(tmp_path / "out"), "train": "images/train", "val": [], "names": {0: "cat", 1: "dog"},
    }  # fmt: skip
