from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from utils.detections.saving import NamesApart, crop_path, label_rows, mot_rows, numbered, write_image

ROWS = np.array([[10.0, 20, 50, 60, 0.75, 1], [0, 0, 200, 100, 0.5, 12]], np.float32)


def test_numbers_go_on_from_where_they_are_told() -> None:
    assert list(islice(numbered("a"), 3)) == ["a", "a_2", "a_3"]
    assert list(islice(numbered("a", 4), 2)) == ["a_4", "a_5"]


def test_names_apart() -> None:
    names = NamesApart()
    assert [names.take(stem) for stem in ("a", "a", "a_2", "A", "a_2", "a")] == [
        "a", "a_2", "a_2_2", "A_3", "a_2_3", "a_4",
    ]  # fmt: skip
    many = [names.take("b") for _ in range(20_000)]  # quadratic, it would take a minute
    assert len(set(many)) == 20_000


def test_class_names_make_safe_folders() -> None:
    assert crop_path(Path("r"), "tie/bow", "a", 0, set()) == Path("r/crops/tie_bow/a.jpg")
    assert crop_path(Path("r"), "..", "a", 1, set()) == Path("r/crops/_/a_2.jpg")
    assert crop_path(Path("r"), "a\0b" + "c" * 300, "a", 0, set()).parent.name == "a_b" + "c" * 97


def test_crops_never_share_a_path() -> None:
    taken: set[Path] = set()
    given = [crop_path(Path("r"), "dog", "a", 1, taken) for _ in range(2)]
    assert given == [Path("r/crops/dog/a_2.jpg"), Path("r/crops/dog/a_3.jpg")]
    assert taken == set(given)


def test_label_rows() -> None:
    # centre (30, 40) and size 40 x 40 in a picture of 200 x 100
    assert label_rows(ROWS, (100, 200)) == "1 0.15 0.4 0.2 0.4\n12 0.5 0.5 1 1\n"
    assert label_rows(ROWS[:1], (100, 200), confidences=True) == "1 0.15 0.4 0.2 0.4 0.75\n"
    assert label_rows(ROWS[:1], (100, 200), corners=True, confidences=True) == "1 10 20 50 60 0.75\n"
    assert label_rows(ROWS[:0], (100, 200)) == ""


def test_write_image_reports_what_opencv_hides(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(OSError):
        write_image(tmp_path / "file" / "a.jpg", np.zeros((4, 4, 3), np.uint8))


def test_tracks_come_last() -> None:
    tracked = np.column_stack((ROWS[:2], [7, -1])).astype(np.float32)
    assert label_rows(tracked, (100, 200)) == "1 0.15 0.4 0.2 0.4 7\n12 0.5 0.5 1 1 -1\n"
    assert label_rows(tracked[:1], (100, 200), confidences=True) == "1 0.15 0.4 0.2 0.4 0.75 7\n"


def test_rows_of_the_mot_challenge() -> None:
    # left, top, width, height; the box without a track is left out
    tracked = np.array([[10, 20, 50, 60, 0.75, 1, 7], [0, 0, 9, 9, 0.5, 1, -1]], np.float32)
    assert mot_rows(3, tracked) == "3,7,10,20,40,40,0.7500,-1,-1,-1\n"
