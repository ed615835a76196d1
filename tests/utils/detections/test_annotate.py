from __future__ import annotations

import numpy as np
import pytest

from utils.detections.annotate import LabelWriter, Style, annotate, crop
from utils.palette import class_color

NAMES = {0: "person", 1: "Fahrrad größer", 2: "人"}


def grey(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_the_confidence_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(LabelWriter, "write", lambda self, label, *_, **__: written.append(label))
    for style in (Style(), Style(confidences=False), Style(labels=False)):
        annotate(grey(100, 100), np.array([[20, 40, 80, 90, 0.876, 0]]), NAMES, style)
    assert written == ["person 0.88", "person"]


def test_the_number_of_a_track_stands_first(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(LabelWriter, "write", lambda self, label, *_, **__: written.append(label))
    rows = np.array([[20, 40, 80, 90, 0.876, 0, 12], [20, 40, 80, 90, 0.5, 0, -1]])
    annotate(grey(100, 100), rows, NAMES, Style())
    assert written == ["#12 person 0.88", "person 0.50"]


def test_boxes_have_the_colour_of_their_class_and_the_asked_width() -> None:
    image = grey(100, 100)
    annotate(image, np.array([[20, 40, 80, 90, 0.9, 1]]), NAMES, Style(line_width=3, labels=False))
    painted = (image != 90).any(axis=2)
    assert painted[60].nonzero()[0].tolist() == [
        19,
        20,
        21,
        79,
        80,
        81,
    ]  # three pixels about x = 20 and x = 80
    assert tuple(image[60, 20]) == class_color(1)


@pytest.mark.parametrize("size", [(40, 60), (192, 192), (480, 640), (3000, 4000)])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.9, 0.0), (0.0, 0.9), (0.9, 0.95), (-0.1, 0.5)])
def test_labels_stay_inside_the_picture(size: tuple[int, int], corner: tuple[float, float]) -> None:
    height, width = size
    writer = LabelWriter(grey(height, width), max(round((height + width) / 2 * 0.02), 11))
    left, top = round(corner[0] * width), round(corner[1] * height)
    area = writer.write("cup", (left, top, left + width // 10, top + height // 10), (0, 0, 255))
    assert area[0] >= 0 and area[1] >= 0
    assert area[2] <= width and area[3] <= height


def test_text_grows_with_the_picture() -> None:
    areas = []
    for side in (320, 3200):
        image = grey(side, side)
        box = np.array([[side * 0.3, side * 0.5, side * 0.8, side * 0.9, 0.5, 0]])
        annotate(image, box, NAMES, Style(line_width=1))
        rows = (image[: side // 2 - 2] != 90).any(axis=(1, 2)).nonzero()[0]
        areas.append(len(rows) / side)
    assert areas[0] >= 11 / 320 and areas[1] >= 0.02


def test_labels_of_neighbours_do_not_cover_each_other() -> None:
    writer = LabelWriter(grey(480, 640), 14)
    first = writer.write("person 0.90", (100, 200, 300, 400), (0, 0, 255))
    second = writer.write("person 0.80", (110, 203, 310, 410), (0, 0, 255))
    assert second[1] >= first[3] or second[3] <= first[1] or second[0] >= first[2]


def test_the_most_confident_box_is_on_top() -> None:
    image = grey(100, 100)
    same = [20, 20, 80, 80]
    annotate(image, np.array([[*same, 0.9, 0], [*same, 0.5, 1]]), NAMES, Style(line_width=2, labels=False))
    assert tuple(image[50, 20]) == class_color(0)


@pytest.mark.parametrize("cls", NAMES)
def test_names_of_any_script_are_drawn(cls: int) -> None:
    image = grey(200, 300)
    annotate(image, np.array([[50.0, 100, 250, 180, 0.5, cls]]), NAMES, Style(line_width=1))
    label = image[70:99, 50:120].reshape(-1, 3)
    assert len(np.unique(label, axis=0)) > 3  # background, colour, text and its soft edges


def test_no_detections_leave_the_picture_alone() -> None:
    assert (annotate(grey(20, 20), np.zeros((0, 6)), NAMES) == 90).all()


def test_crop_adds_two_percent_and_ten_pixels_and_stays_inside() -> None:
    image = np.arange(100 * 200 * 3).reshape(100, 200, 3)
    # 50 x 20 box about (75, 40): 50 * 1.02 + 10 = 61 wide -> 44.5 … 105.5; 20 * 1.02 + 10 = 30.4 high
    piece = crop(image, (50, 30, 100, 50))
    assert piece.shape == (31, 61, 3)  # rows int(24.8) = 24 … int(55.2) = 55, columns 44 … 105
    assert (piece == image[24:55, 44:105]).all()
    assert crop(image, (180, 90, 260, 140)).size > 0
    assert crop(image, (5, 5, 5, 5)).shape == (10, 10, 3)
