"""dataset.py view: which pictures are drawn, and what is on them."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

import dataset
from curation.view import class_number
from tests.curation.planted import Made, blobs
from tests.utils.data.formats.instances import FORMATS
from utils.errors import UserError


def view(data: Path, folder: Path, *flags: str) -> list[str]:
    """Names of the pictures on the page, which all are there."""
    dataset.main(
        ["view", "--data", str(data), "--project", str(folder.parent), "--name", folder.name, *flags]
    )
    page = (folder / "index.html").read_text(encoding="utf-8")
    files = re.findall(r'<img [^>]*src="([^"]+)"', page)
    assert sorted(files) == sorted(file.name for file in folder.glob("*.jpg"))
    return files


@pytest.fixture
def data(tmp_path: Path) -> Path:
    made = Made.sound()
    made.names.append("owl")
    made.rows["train/7"] = ["2 0.5 0.5 0.5 0.5"]
    made.rows["val/3"] = []
    return made.write(tmp_path)


def test_all_of_a_small_split(data: Path, tmp_path: Path) -> None:
    assert view(data, tmp_path / "run") == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    page = (tmp_path / "run" / "index.html").read_text(encoding="utf-8")
    assert "2 cat, 2 dog" in page and "no boxes" in page and "4 pictures of 4" in page


def test_a_choice_is_repeatable(data: Path, tmp_path: Path) -> None:
    flags = ("--split", "train", "--count", "3")
    first = view(data, tmp_path / "a", *flags)
    assert len(first) == 3 and first == view(data, tmp_path / "b", *flags)
    others = [view(data, tmp_path / f"c{seed}", *flags, "--seed", str(seed)) for seed in range(1, 4)]
    assert any(other != first for other in others)
    assert len(view(data, tmp_path / "d", "--split", "train", "--count", "0")) == 12


def test_the_boxes_are_drawn(data: Path, tmp_path: Path) -> None:
    assert view(data, tmp_path / "run", "--split", "train", "--class", "owl") == ["7.jpg"]
    drawn = cv2.imread(str(tmp_path / "run" / "7.jpg"))
    assert drawn is not None and drawn.shape == (480, 640, 3)  # from 160 x 120
    bare = cv2.resize(blobs(7), (640, 480), interpolation=cv2.INTER_CUBIC)
    changed = np.abs(drawn.astype(int) - bare).max(axis=2) > 60
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    # the box from 160, 120 to 480, 360; its label lies above, 11 px of text and margins
    assert (columns[0], columns[-1]) == (pytest.approx(160, abs=3), pytest.approx(480, abs=3))
    assert 95 <= rows[0] <= 120 and rows[-1] == pytest.approx(360, abs=3)


def test_polygons_are_drawn(data: Path, tmp_path: Path) -> None:
    (data.parent / "labels" / "val" / "0.txt").write_text("0 0.2 0.2 0.8 0.2 0.5 0.8\n", encoding="utf-8")
    view(data, tmp_path / "run")
    drawn = cv2.imread(str(tmp_path / "run" / "0.jpg"))
    bare = cv2.resize(blobs(12), (640, 480), interpolation=cv2.INTER_CUBIC)
    assert drawn is not None
    changed = np.abs(drawn.astype(int) - bare).max(axis=2) > 40
    # half way down its left side: between (128, 96) and (320, 384)
    assert changed[235:246, 218:231].any() and not changed[235:246, 240:400].any()


@pytest.mark.parametrize(
    ("wanted", "number"), [("cat", 0), ("2", 1), ("1", 1), (" Dog ", 1), ("0", 0)]
)  # fmt: skip
def test_classes_by_name_and_number(wanted: str, number: int) -> None:
    assert class_number(wanted, {0: "cat", 1: "2" if wanted == "2" else "dog", 2: "owl"}) == number


def test_a_source_without_splits_is_all_train(tmp_path: Path) -> None:
    source = FORMATS["coco of Roboflow"][0](tmp_path / "source") / "_annotations.coco.json"
    words = ["view", "--data", str(source), "--project", str(tmp_path / "runs")]
    with pytest.raises(UserError, match=r"has no splits, it is all train; use --split train"):
        dataset.main(words)
    dataset.main([*words, "--split", "train"])
    assert len(list((tmp_path / "runs/exp").glob("*.jpg"))) == 2


def test_what_is_not_there(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--class cow: no such class; there are cat, dog, owl"):
        view(data, tmp_path / "run", "--class", "cow")
    with pytest.raises(UserError, match="--class owl: no picture of val has a box of it"):
        view(data, tmp_path / "run", "--class", "owl")
    with pytest.raises(UserError, match="none of the splits test"):
        view(data, tmp_path / "run", "--split", "test")
    assert not (tmp_path / "run").exists()
