"""Beginners' mistakes in label files end in one line that names the cure."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.index import DatasetIndex, build_index

NAMES = {0: "cat", 1: "dog"}
# x1 y1 x2 y2 of boxes on a picture of 100 x 100
BOXES = [
    (10, 10, 60, 50),
    (50, 40, 90, 95),
    (5, 60, 40, 90),
    (60, 5, 95, 30),
    (30, 30, 80, 80),
    (1, 1, 30, 30),
]


def indexed(folder: Path, rows: list[str]) -> DatasetIndex:
    """A data set of three pictures with these rows each."""
    for name in "abc":
        for kind in ("images", "labels"):
            (folder / kind).mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"images/{name}.png"), np.zeros((100, 100, 3), np.uint8))
        (folder / f"labels/{name}.txt").write_text("\n".join(rows), encoding="utf-8")
    return build_index([folder / "images"], NAMES)


def centred(scale: float) -> list[str]:
    return [
        f"0 {(x1 + x2) / 2 / scale} {(y1 + y2) / 2 / scale} {(x2 - x1) / scale} {(y2 - y1) / scale}"
        for x1, y1, x2, y2 in BOXES
    ]


def corners(scale: float) -> list[str]:
    return ["0 " + " ".join(str(value / scale) for value in box) for box in BOXES]


SLIPS = {
    "pixels": (centred(1), r"seem to be centres and sizes in pixels; .*divide x and w by the width"),
    "corners in pixels": (corners(1), r"seem to be corners in pixels; .*first xc = \(x1 \+ x2\) / 2"),
    "corners": (corners(100), r"seem to be corners x1 y1 x2 y2, since \d+ of 18 would leave .*w = x2 - x1"),
    "names": (["dog" + row[1:] for row in centred(100)], "begin with class names .*write 1 for 'dog'"),
    "commas": (
        [row.replace(" ", ",") for row in centred(100)],
        "rows are separated by commas; write blanks$",
    ),
    "commas and blanks": ([row.replace(" ", ", ") for row in centred(100)], "by commas; write blanks$"),
    "semicolons": ([row.replace(" ", ";") for row in centred(100)], "by semicolons; write blanks$"),
    "decimal commas": (
        [row.replace(".", ",") for row in centred(100)],
        "rows are written with decimal commas; write points$",
    ),
    "class last": (
        [" ".join([*row.split()[1:], row[0]]) for row in centred(100)],
        "the class seems to stand last; it comes first: class xc yc w h$",
    ),
    "classes from 1": ([f"{n} .5 .5 .{n} .2" for n in (1, 2)], "seem to count from 1"),
}


@pytest.mark.parametrize("case", SLIPS)
def test_a_slip_is_named_with_its_cure(case: str, tmp_path: Path) -> None:
    rows, line = SLIPS[case]
    for _ in range(2):  # also from the cached index
        index = indexed(tmp_path, rows)
        index.report.nothing_to_learn.encode("utf-8")
        with pytest.raises(ValueError, match=line) as caught:
            index.report.check_usable("train")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "kind", "detail"),
    [
        ("0,.5,.5,.2,.2", "wrong column count", "1 column (separated by commas; write blanks)"),
        ("dog;.5;.5;.2;.2", "wrong column count", "1 column (separated by semicolons; write blanks)"),
        ("0, .5, .5, .2, .2", "not a number", "separated by commas; write blanks"),
        ("0 0,5 0,5 0,2 0,2", "not a number", "written with decimal commas; write points"),
        ("0 .5 .5 .2 .2 .9", "wrong column count", "6 columns (a prediction with its confidence?)"),
        ("0,.5", "wrong column count", "1 column"),
        (".5 .5 .2 .2 1", "class not an integer", "class .5; does it stand last?"),
        (".5 .5 .2 .2 .1", "class not an integer", "class .5"),
    ],
)
def test_one_row_says_what_may_be_meant(row: str, kind: str, detail: str, tmp_path: Path) -> None:
    (fault, *_) = indexed(tmp_path, [*centred(100), row]).report.faults
    assert (fault.kind, fault.detail.removesuffix("; a box has 5, a polygon 7 or 9 or 11 …")) == (
        kind,
        detail,
    )


def test_labels_with_commas_beside_the_pictures(tmp_path: Path) -> None:
    indexed(tmp_path, [row.replace(" ", ",") for row in centred(100)])
    for file in (tmp_path / "labels").glob("*.txt"):
        file.rename(tmp_path / "images" / file.name)
    index = build_index([tmp_path / "images"], NAMES)
    assert index.report.nothing_to_learn == "rows are separated by commas; write blanks"


def test_sound_labels_are_left_alone(tmp_path: Path) -> None:
    assert indexed(tmp_path, centred(100)).report.nothing_to_learn == ""


def test_a_few_faults_are_no_slip(tmp_path: Path) -> None:
    """A fifth of the rows may be wrong without a cause that they share."""
    rows = [*centred(100), "0 .95 .5 .2 .2"]  # over the right edge
    index = indexed(tmp_path, rows)
    assert index.report.counts == {"slightly out of bounds": 3} and not index.report.nothing_to_learn
    rows = [*centred(100)[:4], "0 .95 .5 .2 .2", "0 .95 .4 .2 .2"]  # a third, but no corners
    assert not indexed(tmp_path, rows).report.nothing_to_learn
