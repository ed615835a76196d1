"""Splits that are not where the yaml says, as zips of labelling services have them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.utils.data.formats.instances import FORMATS, NAMES
from utils.data.folders import list_images
from utils.data.index import build_index
from utils.data.spec import load_data_spec
from utils.data.whereabouts import search
from utils.errors import UserError


@pytest.fixture
def unzipped(tmp_path: Path) -> Path:
    """train, valid and test, each with images and labels, as Roboflow's zips have them."""
    for split in ("train", "valid", "test"):
        FORMATS["yolo"][0](tmp_path / "set" / split)
    return tmp_path / "set"


def write(folder: Path, content: str) -> Path:
    file = folder / "data.yaml"
    file.write_text(content, encoding="utf-8")
    return file


YAMLS = {
    "of Roboflow": (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n",
        "without the leading ../",
    ),
    "valid": ("train: train/images\nvalid: valid/images\nnames: {0: cat, 1: dog}\n", ""),
    "another word": ("train: train/images\nval: val/images\nnames: [cat, dog]\n", "'valid' for 'val'"),
    "another machine": (
        "path: /content/set\ntrain: /content/set/train/images\nval: /content/set/valid/images\n"
        "names: [cat, dog]\n",
        "the last parts of a path of another machine",
    ),
    "Windows": (
        "path: C:\\work\\set\ntrain: train\\images\nval: D:\\work\\set\\valid\\images\nnames: [cat, dog]\n",
        "\\ read as /; the last parts of a path of another machine",
    ),
    "no such path": (
        "path: elsewhere\ntrain: train/images\nval: valid/images\nnames: [cat, dog]\n",
        "relative to ",
    ),
    "other way round": (
        "train: images/train\nval: images/val\nnames: [cat, dog]\n",
        "two folders the other way round; 'valid' for 'val'",
    ),
    "several at once": (
        "train: C:\\x\\train\\images\nval: C:\\x\\val\\images\nnames: [cat, dog]\n",
        "\\ read as /; the last parts of a path of another machine; 'valid' for 'val'",
    ),
}


@pytest.mark.parametrize("case", YAMLS)
def test_the_rule_is_told(
    case: str,
    unzipped: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    content, rule = YAMLS[case]
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        spec = load_data_spec(write(unzipped, content))
    assert [path.resolve() for path in spec.train] == [unzipped / "train/images"]
    assert [path.resolve() for path in spec.val] == [unzipped / "valid/images"]
    assert spec.names == NAMES
    assert (rule in " ".join(caplog.messages)) if rule else not caplog.messages
    assert all("is not there as written; took" in message for message in caplog.messages)


def test_a_folder_stands_for_its_yaml(unzipped: Path, tmp_path: Path) -> None:
    write(unzipped, YAMLS["valid"][0])
    assert load_data_spec(unzipped).val == load_data_spec(unzipped / "data.yaml").val
    (tmp_path / "outer").mkdir()
    unzipped.rename(tmp_path / "outer" / "inner")  # a zip that was unpacked into a folder of its own
    assert load_data_spec(tmp_path / "outer").train == (tmp_path / "outer/inner/train/images",)
    with pytest.raises(UserError, match=r"has no data.yaml; its yaml is above it; .*outer/inner/data.yaml$"):
        load_data_spec(tmp_path / "outer/inner/train")
    (tmp_path / "outer/inner/data.yaml").unlink()
    with pytest.raises(UserError, match=r"has no data.yaml; write one with train, val and names"):
        load_data_spec(tmp_path / "outer/inner/train")


def test_a_folder_stands_for_the_splits_in_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in Roboflow's zips of COCO JSON, which have no data.yaml."""
    root = tmp_path / "cells.v1i.coco"
    root.mkdir()
    for split in ("train", "valid"):
        FORMATS["coco of Roboflow"][0](tmp_path / "made" / split).rename(root / split)
    with caplog.at_level(logging.INFO):
        spec = load_data_spec(root)
    assert (spec.names, spec.test) == (NAMES, ())
    assert "has no data.yaml; its splits: " in caplog.messages[0]
    assert spec.train == (root / "train",) and spec.val == (root / "valid",)
    assert len(build_index(spec.train, spec.names).boxes) == 2
    written = write(root, "train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\n")
    assert [path.resolve() for path in load_data_spec(written).val] == [root / "valid"]


def test_what_has_to_be_done_first(tmp_path: Path) -> None:
    (tmp_path / "cells.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"cells.zip: unpack it, and name the folder"):
        load_data_spec(tmp_path / "cells.zip")
    (tmp_path / "train").mkdir()
    file = write(tmp_path, "train: train\nval: []\nnames: [a]\n")
    with pytest.raises(
        UserError, match=r"key 'val' is empty; .*; python dataset.py split --data .*data.yaml"
    ):
        load_data_spec(file)


def test_a_folder_inside_one_of_the_same_name(
    unzipped: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "zip").mkdir()
    unzipped.rename(tmp_path / "zip" / "zip")
    file = write(tmp_path, "path: zip\ntrain: train/images\nval: valid/images\nnames: [cat, dog]\n")
    with caplog.at_level(logging.INFO):
        assert load_data_spec(file).train == (tmp_path / "zip/zip/train/images",)
    assert "in a folder inside one of the same name" in caplog.messages[0]


def test_a_common_name_alone_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert search("/home/other/train/images", [tmp_path]) is None
    (tmp_path / "train/images").mkdir(parents=True)
    assert search("/home/other/train/images", [tmp_path]) is not None


def test_names_from_the_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    FORMATS["coco"][0](tmp_path)
    yaml = "train: annotations/instances_train2017.json\nval: annotations/instances_train2017.json\n"
    with caplog.at_level(logging.INFO):
        spec = load_data_spec(write(tmp_path, yaml))
    assert spec.names == NAMES
    assert caplog.messages == [f"{spec.file}: has no names; 2 classes by the labels: ['cat', 'dog']"]
    with pytest.raises(UserError, match="nc is 3 but names has 2 classes"):
        load_data_spec(write(tmp_path, yaml + "nc: 3\n"))


def test_obj_data_stands_for_a_yaml(tmp_path: Path) -> None:
    spec = load_data_spec(FORMATS["darknet"][0](tmp_path))
    assert spec.names == NAMES and spec.test == ()
    assert len(build_index(spec.train, spec.names).boxes) == len(build_index(spec.val, spec.names).boxes) == 2


def test_paths_of_cvat_begin_with_a_folder_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = FORMATS["darknet of CVAT"][0](tmp_path / "set").parent
    with caplog.at_level(logging.INFO):
        spec = load_data_spec(root / "obj.data", needed=("train",))
        index = build_index(spec.train, spec.names)
    assert spec.names == NAMES and spec.train == (root / "train.txt",)
    assert index.paths() == [str(root / f"obj_train_data/{name}.png") for name in "ab"]
    rule = "(without its first folders)"
    told = {
        root / "obj.data": [("train", "data/train.txt"), ("names", "data/obj.names")],
        root / "train.txt": [("", "data/obj_train_data/a.png")],
    }
    assert caplog.messages == [
        f"{file}: {key and key + ': '}'{path}' is not there as written; "
        f"took {root / path.removeprefix('data/')} {rule}"
        for file, paths in told.items()
        for key, path in paths
    ]
    with pytest.raises(UserError, match=r"key 'val' is missing; .* dataset.py split --data .*obj.data"):
        load_data_spec(root / "obj.data")
    (root / "train.txt").unlink()
    with pytest.raises(UserError, match=r"train: no such file: 'data/train.txt'"):
        load_data_spec(root / "obj.data")


def test_lines_of_a_list_begin_with_folders_that_are_not_there(tmp_path: Path) -> None:
    """One entry decides for all; a line that begins otherwise stays as it is."""
    FORMATS["yolo"][0](tmp_path)
    for before in ("x", "x/y", "./x"):
        lines = [f"{before}/images/a.png", f"{before}/images/b.png", "z/images/b.png"]
        (tmp_path / "list.txt").write_text("\n".join(lines), encoding="utf-8")
        found = [Path(path).relative_to(tmp_path).as_posix() for path in list_images([tmp_path / "list.txt"])]
        assert found == ["images/a.png", "images/b.png", "z/images/b.png"]


def test_names_the_wrong_way_round(unzipped: Path) -> None:
    with pytest.raises(UserError, match=r"names: 'cat: 0' is the wrong way round; write '0: cat'"):
        load_data_spec(write(unzipped, "train: train/images\nval: valid/images\nnames: {cat: 0, dog: 1}\n"))


def test_the_folder_of_the_labels_instead_of_the_images(unzipped: Path) -> None:
    with pytest.raises(
        UserError, match=r"it has 2 .txt files: name the folder of the images, '.*train/images'"
    ):
        build_index([unzipped / "train/labels"], NAMES)
