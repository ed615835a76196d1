import numpy as np
import pytest

from utils.data.labels import label_path, parse_labels
from utils.data.report import ACTIONS

GOOD = "1 0.5 0.5 0.2 0.2"


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("/data/images/train/a.jpg", "/data/labels/train/a.txt"),
        ("/images/images/a.b.png", "/images/labels/a.b.txt"),
        ("images/a.jpg", "labels/a.txt"),
        ("/data/photos/a.jpg", "/data/photos/a.txt"),
        ("C:\\data\\images\\a.jpg", "C:/data/labels/a.txt"),
        ("/data/images/no_suffix", "/data/labels/no_suffix.txt"),
    ],
)
def test_where_labels_lie(image: str, label: str) -> None:
    assert label_path(image) == label


def test_boxes() -> None:
    labels = parse_labels(b"0 0.5 0.5 1 1\n\n  2 .25 0.75 1e-1 0.2\r\n", classes=3)
    assert labels.boxes.dtype == np.float32
    np.testing.assert_allclose(labels.boxes, [[0, 0.5, 0.5, 1, 1], [2, 0.25, 0.75, 0.1, 0.2]], rtol=1e-6)
    assert [len(polygon) for polygon in labels.polygons] == [0, 0]
    assert not labels.faults


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_background(content: bytes) -> None:
    labels = parse_labels(content, classes=1)
    assert len(labels.boxes) == 0
    assert not labels.faults


def test_polygons_and_boxes_mix() -> None:
    labels = parse_labels(f"0 0.1 0.2 0.5 0.2 0.3 0.8\n{GOOD}\n".encode(), classes=2)
    # x from 0.1 to 0.5, y from 0.2 to 0.8: centre (0.3, 0.5), size (0.4, 0.6)
    np.testing.assert_allclose(labels.boxes, [[0, 0.3, 0.5, 0.4, 0.6], [1, 0.5, 0.5, 0.2, 0.2]], rtol=1e-6)
    np.testing.assert_allclose(labels.polygons[0], [[0.1, 0.2], [0.5, 0.2], [0.3, 0.8]], rtol=1e-6)
    assert labels.polygons[1].shape == (0, 2)


# the second row of a file whose first and third rows are sound
FAULTS = {
    "wrong column count": ["1 0.5 0.5 0.2", "1", "1 0.5 0.5 0.2 0.2 0.9", "1 .1 .1 .2 .1 .2 .2 .1"],
    "not a number": ["1 0.5 abc 0.2 0.2", "cat 0.5 0.5 0.2 0.2", "1,0.5 0.5 0.2 0.2 1", "1 0.5 0.5 0.2 0,2"],
    "not finite": ["1 nan 0.5 0.2 0.2", "1 0.5 inf 0.2 0.2", "nan 0.5 0.5 0.2 0.2", "1 0.5 0.5 1e999 0.2"],
    "class not an integer": ["0.5 0.5 0.5 0.2 0.2"],
    "class out of range": ["3 0.5 0.5 0.2 0.2", "-1 0.5 0.5 0.2 0.2", "1e30 0.5 0.5 0.2 0.2"],
    "no area": ["1 0.5 0.5 0 0.2", "1 0.5 0.5 0.2 -0.1"],
    "degenerate polygon": ["1 .1 .1 .2 .1 .3 .1", "1 .1 .1 .1 .1 .1 .1", "1 .1 .1 .2 .2 .3 .3"],
    "out of bounds": ["1 320 240 50 60", "1 1.5 0.5 0.2 0.2", "1 -0.2 0.5 0.1 0.1", "1 0.5 0.5 3 0.2"],
    "duplicate row": [GOOD, "1 0.50 0.5 0.2 0.20"],
}


@pytest.mark.parametrize(("kind", "row"), [(kind, row) for kind, rows in FAULTS.items() for row in rows])
def test_a_faulty_row_is_dropped_alone(kind: str, row: str) -> None:
    labels = parse_labels(f"{GOOD}\n{row}\n0 0.3 0.3 0.1 0.1\n".encode(), classes=3)
    assert [(fault.kind, fault.line) for fault in labels.faults] == [(kind, 2)]
    assert kind in ACTIONS
    assert labels.faults[0].detail
    np.testing.assert_allclose(labels.boxes, [[1, 0.5, 0.5, 0.2, 0.2], [0, 0.3, 0.3, 0.1, 0.1]], rtol=1e-6)
    assert len(labels.polygons) == 2


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # x from 0.8 to 1.2 becomes 0.8 to 1: centre 0.9, width 0.2
        ("1 1.0 0.5 0.4 0.2", None),  # the centre on the border itself: dropped
        ("1 0.99 0.5 0.38 0.2", [1, 0.9, 0.5, 0.2, 0.2]),
        # y from -0.1 to 0.3 becomes 0 to 0.3
        ("1 0.5 0.1 0.2 0.4", [1, 0.5, 0.15, 0.2, 0.3]),
        ("0 -0.1 0.2 0.5 0.2 0.3 0.8", [0, 0.25, 0.5, 0.5, 0.6]),
    ],
)
def test_boxes_that_reach_out_are_clipped(row: str, expected: list[float] | None) -> None:
    labels = parse_labels(row.encode(), classes=2)
    kinds = [fault.kind for fault in labels.faults]
    if expected is None:
        assert kinds == ["out of bounds"]
        assert len(labels.boxes) == 0
    else:
        assert kinds == ["slightly out of bounds"]
        np.testing.assert_allclose(labels.boxes, [expected], atol=1e-6)
        assert all((polygon >= 0).all() for polygon in labels.polygons)


def test_printed_decimals_are_no_fault() -> None:
    labels = parse_labels(b"0 0.9 0.5 0.2004 1.0\n", classes=1)  # right edge at 1.0002
    assert not labels.faults
    np.testing.assert_allclose(labels.boxes, [[0, 0.9, 0.5, 0.2004, 1.0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "boxes"),
    [
        (GOOD.encode("utf-16"), 1),
        (GOOD.encode("utf-16-le"), 1),
        (f"{GOOD}\n".encode() + b"\xff\xfe\x80 0.1 0.1 0.1 0.1\n", 1),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", 0),
    ],
)
def test_wrong_encodings_are_reported(content: bytes, boxes: int) -> None:
    labels = parse_labels(content, classes=2)
    assert labels.faults[0].kind == "wrong encoding"
    assert len(labels.boxes) == boxes


def test_byte_order_mark_is_no_fault() -> None:
    labels = parse_labels(GOOD.encode("utf-8-sig"), classes=2)
    assert len(labels.boxes) == 1
    assert not labels.faults


def test_all_faults_of_a_file_are_found() -> None:
    rows = [row for rows in FAULTS.values() for row in rows]
    labels = parse_labels("\n".join([GOOD, *rows]).encode(), classes=3)
    assert len(labels.faults) == len(rows)
    assert len(labels.boxes) == 1
