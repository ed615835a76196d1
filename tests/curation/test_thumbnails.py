"""Thumbnails: what they show, and where the boxes are."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

from curation.findings.finding import Example
from curation.thumbnails import LABEL, SEEN, SIDE, thumbnail, thumbnails


def picture(folder: Path) -> str:
    """800 x 400 grey."""
    path = folder / "grey.png"
    cv2.imwrite(str(path), np.full((400, 800, 3), 128, np.uint8))
    return str(path)


def decoded(uri: str) -> np.ndarray:
    start, _, data = uri.partition(",")
    assert start == "data:image/jpeg;base64"
    image = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def extent(image: np.ndarray, color: tuple[int, int, int]) -> list[int]:
    """left, top, right, bottom of what has nearly a colour."""
    rows, columns = np.nonzero(np.abs(image.astype(int) - color).max(axis=2) < 60)
    return [columns.min(), rows.min(), columns.max(), rows.max()]


def test_a_whole_picture(tmp_path: Path) -> None:
    assert decoded(thumbnail(picture(tmp_path))).shape == (SIDE // 2, SIDE, 3)


def test_around_a_box(tmp_path: Path) -> None:
    # 100 wide: three times as much is shown, from 250 to 550 and from 50 to 350, at 240 / 300 = 0.8
    image = decoded(thumbnail(picture(tmp_path), (350, 150, 450, 250)))
    assert image.shape == (240, 240, 3)
    assert np.abs(np.array(extent(image, LABEL)) - [80, 80, 160, 160]).max() <= 2


def test_what_is_seen_has_another_colour(tmp_path: Path) -> None:
    image = decoded(thumbnail(picture(tmp_path), (350, 150, 450, 250), (400, 200, 500, 300)))
    assert np.abs(np.array(extent(image, SEEN)) - [120, 120, 200, 200]).max() <= 2


def test_small_boxes_and_edges(tmp_path: Path) -> None:
    # a quarter of the longer side is shown, 200 pixels around (2, 2), of which 102 x 102 are in the picture
    image = decoded(thumbnail(picture(tmp_path), (0, 0, 4, 4)))
    assert image.shape == (240, 240, 3)


def test_what_cannot_be_shown_is_left_out(tmp_path: Path) -> None:
    path = picture(tmp_path)
    examples = [Example(path, other=path), Example("none.jpg"), Example(path, drawn=False), Example(path)]
    assert [len(uris) for uris in thumbnails(examples)] == [2, 0, 0, 1]
