"""Finding images and labels in folders and lists (`test_index.py` has more)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from utils.data.folders import find_orphans, found_instead_of_labels, is_writable, list_images
from utils.data.report import Fault


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_linked_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").touch()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert list_images([tmp_path / "images"]) == [str(tmp_path / "images" / "linked" / "a.jpg")]


@pytest.mark.parametrize("links", [{"x": "."}, {"x": ".", "y": "."}, {"a/x": "b", "b/y": "a"}, {"x": ".."}])
def test_links_that_lead_back_are_left_out(links: dict[str, str], tmp_path: Path) -> None:
    """Two links to the folder they lie in would be walked 2^40 times."""
    for folder in ("images/a", "images/b"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").touch()
    for name, target in links.items():
        (tmp_path / "images" / name).symlink_to(tmp_path / "images" / target, target_is_directory=True)
    found = list_images([tmp_path / "images"])
    assert [path for path in found if "/x/" not in path and "/y/" not in path] == [
        str(tmp_path / f"images/{name}/1.png") for name in "ab"
    ]
    assert len(found) <= 4


def test_dropped_rows_are_counted_and_the_first_is_shown() -> None:
    faults = [
        Fault("truncated image", 0, "half of it", "b.jpg"),
        Fault("no area", 7, "0 wide", "a.txt"),
        Fault("not a number", 2, "'x'", "b.txt"),
        Fault("not a number", 3, "'y'", "b.txt"),
    ]
    said = found_instead_of_labels(["a.jpg"], ["a.txt"], faults)
    assert said == "all 3 label rows were dropped, 2 for 'not a number'; a.txt:7: 0 wide"


def test_label_files_without_an_image(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("a.txt", "b.txt", "b.json"):
        (labels / name).touch()
    (orphan,) = find_orphans([tmp_path], [str(labels / "a.txt"), str(tmp_path / "nowhere" / "c.txt")])
    assert (orphan.kind, orphan.line, orphan.file) == ("label without image", 0, str(labels / "b.txt"))
    assert find_orphans([tmp_path, tmp_path / "list.txt"], [str(labels / "a.txt")]) == []


@pytest.mark.skipif(os.name == "nt", reason="rights of folders")
def test_a_folder_that_is_marked_read_only_is_left_alone(tmp_path: Path) -> None:
    assert is_writable(tmp_path)
    tmp_path.chmod(0o555)
    try:
        assert not is_writable(tmp_path)
    finally:
        tmp_path.chmod(0o755)
