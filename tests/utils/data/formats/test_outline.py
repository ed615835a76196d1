"""A file about many pictures is not read again while nothing has changed: its outline is kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.utils.data.formats.instances import FORMATS, NAMES, coco
from utils.data import label_cache
from utils.data.formats import opening, outline
from utils.data.formats.opening import names_of, open_source
from utils.data.index import build_index

MANY = [
    kind
    for kind in FORMATS
    if FORMATS[kind][1].startswith(("COCO", "CVAT", "Label Studio", "csv", "VGG", "Open"))
]


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read, in the order in which they were; all count as large."""
    read: list[Path] = []
    parse = opening._content
    monkeypatch.setattr(opening, "_content", lambda path: read.append(path) or parse(path))
    monkeypatch.setattr(outline, "LARGE", 0)
    return read


@pytest.mark.parametrize("kind", MANY)
def test_a_second_start_reads_no_annotations(kind: str, parses: list[Path], tmp_path: Path) -> None:
    source = FORMATS[kind][0](tmp_path / "set")
    first = build_index([source], NAMES)
    assert len(parses) == 1
    second = build_index([source], NAMES)
    assert names_of([source]) == NAMES
    assert len(parses) == 1
    assert second.paths() == first.paths()
    np.testing.assert_array_equal(second.boxes, first.boxes)
    assert open_source(source).said == opening.open_source(source).said


def test_other_classes_read_it_once_more(parses: list[Path], tmp_path: Path) -> None:
    source = coco(tmp_path)
    build_index([source], NAMES)
    turned = build_index([source], {0: NAMES[1], 1: NAMES[0]})
    assert len(parses) == 2 and turned.boxes[:, 0].tolist() == [1, 0]


def test_a_changed_file_is_read(parses: list[Path], tmp_path: Path) -> None:
    source = coco(tmp_path)
    assert names_of([source]) == {0: "cat", 1: "dog"}
    text = source.read_text(encoding="utf-8").replace("dog", "cow")  # of the same size
    source.write_text(text, encoding="utf-8")
    os.utime(source, ns=(1, 1))
    assert names_of([source]) == {0: "cat", 1: "cow"}
    assert len(parses) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda kind, pictures, classes, ordered: ["YOLO text", pictures, classes, ordered],
        lambda kind, pictures, classes, ordered: [kind, [7], classes, ordered],
        lambda kind, pictures, classes, ordered: [kind, pictures, [["cat"]], ordered],
        lambda kind, pictures, classes, ordered: [kind, pictures, None, ordered],
        lambda kind, pictures, classes, ordered: [kind, pictures],
        lambda kind, pictures, classes, ordered: {"kind": kind},
    ],
)
def test_an_outline_of_another_form_is_not_believed(
    damage: Callable[..., object], parses: list[Path], tmp_path: Path
) -> None:
    source = coco(tmp_path)
    opened = open_source(source)
    assert opened.outline is not None
    values = (opened.outline.kind, opened.outline.pictures, opened.outline.classes, opened.outline.ordered)
    text = np.frombuffer(json.dumps(damage(*values)).encode(), np.uint8)
    key = f"{label_cache.VERSION} {opened.stamp}"
    label_cache.save(outline._place(source), key, {"text": text}, [])
    assert open_source(source).images == opened.images
    assert len(parses) == 2


def test_a_small_file_has_none(tmp_path: Path) -> None:
    source = coco(tmp_path)
    open_source(source)  # smaller than LARGE
    assert not [*tmp_path.rglob(f"*{label_cache.SUFFIX}")]


def test_a_folder_that_is_read_only(
    parses: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = coco(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert open_source(source).images == open_source(source).images
    finally:
        tmp_path.chmod(0o755)
    assert len(parses) == 2 and not caplog.messages
