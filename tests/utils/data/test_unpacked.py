"""A folder stands for the data set in it; one at a wrong level is told where the yaml lies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import utils.data.unpacked as unpacked
from curation.opening import open_data
from tests.utils.data.formats.instances import FORMATS, NAMES, text
from utils.data.spec import load_data_spec
from utils.data.unpacked import yaml_elsewhere
from utils.errors import UserError


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set in the working directory, of which the yaml is `good/data.yaml`."""
    for split in ("train", "val"):
        FORMATS["yolo"][0](tmp_path / split)
        for kind in ("images", "labels"):
            shutil.copytree(tmp_path / split / kind, tmp_path / "good" / kind / split)
    text(tmp_path / "good/data.yaml", "train: images/train\nval: images/val\nnames: [cat, dog]\n")
    monkeypatch.chdir(tmp_path)
    return Path("good")


@pytest.mark.parametrize("inside", ["images", "images/train", "labels/val"])
def test_a_part_of_a_data_set_names_its_yaml(inside: str, good: Path) -> None:
    line = r"its yaml is above it; name that: --data good/data\.yaml$"
    for given in (good / inside, f"good/{inside}/"):
        with pytest.raises(UserError, match=line):
            load_data_spec(given)
        with pytest.raises(UserError, match=line):
            open_data(str(given))
    (good / "images/val").rename(good / "images/other")
    with pytest.raises(UserError, match=line):
        load_data_spec(good / "images")
    with pytest.raises(UserError, match=line):
        open_data("good/images/train", ("val",))


def test_names_are_missing_and_no_yaml_is_near(good: Path) -> None:
    (good / "data.yaml").unlink()
    with pytest.raises(
        UserError, match=r"^folder 'good' has no data.yaml, and its labels no class names; write"
    ):
        load_data_spec(good)


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
def test_folders_in_folders(depth: int, good: Path) -> None:
    """Each with one folder alone, but for what systems leave."""
    place = Path("outer", *["outer"] * (depth - 1)) if depth else Path("outer")
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(good, place / "good" if depth else place)
    Path("outer/__MACOSX").mkdir()
    Path("outer/.hidden").mkdir()
    assert load_data_spec("outer").names == open_data("outer").names == NAMES


def test_folders_of_splits_in_folders(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        made = FORMATS["coco of Roboflow"][0](tmp_path / "made" / split)
        shutil.move(made, text(tmp_path / "outer/a/b/readme.txt", "").parent / split)
    spec = load_data_spec(tmp_path / "outer")
    assert (spec.names, spec.train, spec.val) == (
        NAMES,
        (tmp_path / "outer/a/b/train",),
        (tmp_path / "outer/a/b/valid",),
    )


def test_a_yaml_that_lies_deeper_is_named(good: Path) -> None:
    text(Path("outer/readme/a.txt"), "")
    shutil.move(good, "outer/x y/z/good")
    with pytest.raises(
        UserError, match=r"a yaml lies deeper; name that: --data 'outer/x y/z/good/data.yaml'$"
    ):
        load_data_spec("outer")
    shutil.copytree("outer/x y", "outer/b")
    line = r"yamls lie deeper; name one of them: --data outer/b/z/good/data.yaml or 'outer/x y/z/good/data"
    with pytest.raises(UserError, match=line):
        load_data_spec("outer")


def test_a_yaml_of_another_name(good: Path) -> None:
    shutil.rmtree(good / "images/train")
    (good / "data.yaml").rename(good / "mine.yaml")
    text(good / "hyp.yaml", "lr0: 0.01\n")
    text(good / "broken.yaml", "a: [\n")
    assert yaml_elsewhere(good) == "a yaml lies deeper; name that: --data good/mine.yaml"


def test_the_search_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text(tmp_path / "outer/a/b/c/d/e/data.yaml", "")
    text(tmp_path / "outer/f/a.txt", "")
    assert yaml_elsewhere(tmp_path / "outer") == ""
    text(tmp_path / "outer/a/b/c/d/data.yaml", "")
    assert "a/b/c/d/data.yaml" in yaml_elsewhere(tmp_path / "outer")
    monkeypatch.setattr(unpacked, "MOST_ENTRIES", 3)
    assert yaml_elsewhere(tmp_path / "outer") == ""


def test_obj_data_in_a_folder(tmp_path: Path) -> None:
    root = FORMATS["darknet of CVAT"][0](tmp_path / "export").parent
    assert open_data(str(root), ("train",)).train == (root / "train.txt",)


def test_an_obj_data_that_was_left_behind_counts_for_nothing(tmp_path: Path) -> None:
    root = FORMATS["yolo beside"][0](tmp_path)
    text(root / "classes.txt", "cat\ndog\n")
    text(root / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    assert open_data(str(root), ("train",)).train == (root,)


def test_a_folder_with_pictures_is_no_wrapper(tmp_path: Path) -> None:
    root = FORMATS["yolo beside"][0](tmp_path)
    text(root / "classes.txt", "cat\ndog\n")
    FORMATS["yolo beside"][0](root / "extra/old/train")
    text(root / "extra/old/data.yaml", "train: train\nnames: [cat, dog]\n")
    assert open_data(str(root), ("train",)).train == (root,)
