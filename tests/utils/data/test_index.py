import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import utils.data.index as index_module
from utils.data.folders import list_images
from utils.data.index import DatasetIndex, build_index
from utils.data.label_cache import SUFFIX
from utils.errors import UserError

NAMES = {0: "zero", 1: "one", 2: "two"}


def write_image(path: Path, width: int = 40, height: int = 30) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 128, np.uint8))


def write_label(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images: two boxes, a polygon, none, and one without a label file."""
    for number, name in enumerate("abcd"):
        write_image(tmp_path / f"images/train/{name}.png", width=40 + number)
    write_label(tmp_path / "labels/train/a.txt", "0 0.5 0.5 0.2 0.2\n2 0.3 0.3 0.1 0.1\n")
    write_label(tmp_path / "labels/train/b.txt", "1 0.1 0.1 0.5 0.1 0.5 0.5\n")
    write_label(tmp_path / "labels/train/c.txt", "")
    return tmp_path


def build(folder: Path, **options: bool) -> DatasetIndex:
    return build_index([folder / "images/train"], NAMES, **options)


def check(index: DatasetIndex, folder: Path) -> None:
    assert len(index) == 4
    assert index.paths() == [str(folder / f"images/train/{name}.png") for name in "abcd"]
    assert index.shapes.tolist() == [[30, 40], [30, 41], [30, 42], [30, 43]]
    assert index.offsets.tolist() == [0, 2, 3, 3, 3]
    np.testing.assert_allclose(index.labels(1), [[1, 0.3, 0.3, 0.4, 0.4]], rtol=1e-6)
    assert len(index.labels(2)) == len(index.labels(3)) == 0
    assert [len(polygon) for i in range(4) for polygon in index.polygons(i)] == [0, 0, 3]
    assert not index.report.faults
    assert (index.report.images, index.report.boxes, index.report.backgrounds) == (4, 3, 2)


@pytest.mark.parametrize("from_processes", [False, True])
def test_flat_arrays(folder: Path, monkeypatch: pytest.MonkeyPatch, from_processes: bool) -> None:
    monkeypatch.setattr(index_module, "PROCESSES_FROM", 1 if from_processes else 1000)
    monkeypatch.setattr(index_module, "CHUNK", 3)
    index = build(folder, cache=False)
    check(index, folder)
    arrays = {"path_bytes": np.uint8, "shapes": np.int32, "boxes": np.float32, "offsets": np.int64}
    assert {name: getattr(index, name).dtype for name in arrays} == arrays
    assert not list(folder.rglob(f"*{SUFFIX}"))


def test_single_class_checks_against_the_names_first(folder: Path) -> None:
    write_label(folder / "labels/train/d.txt", "3 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.2 0.2\n")
    index = build(folder, single_cls=True)
    assert index.boxes[:, 0].tolist() == [0, 0, 0, 0]
    assert list(index.report.counts) == ["class out of range"]
    assert build(folder).boxes[:, 0].tolist() == [0, 2, 1, 2]  # the cache keeps what the files say


# --- the cache ---


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with each real scan."""
    calls: list[int] = []
    scan = index_module._scan
    monkeypatch.setattr(index_module, "_scan", lambda *args: (calls.append(1), scan(*args))[1])
    return calls


def test_cache_is_used_and_complete(folder: Path, scans: list[int]) -> None:
    write_label(folder / "labels/train/c.txt", "9 0.5 0.5 0.2 0.2\n0 0.5 0.5 2\tx 1\n")
    first = build(folder)
    second = build(folder)
    assert len(scans) == 1
    for name in index_module.ARRAYS:
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.report == second.report
    assert len(first.report.faults) == 2
    (file,) = folder.rglob(f"*{SUFFIX}")
    assert file.parent == folder / "labels"
    with np.load(file, allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


CHANGES = {
    "label edited": lambda f: write_label(f / "labels/train/a.txt", "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.1 0.1\n"),
    "label touched": lambda f: touch(f / "labels/train/a.txt"),
    "label added": lambda f: write_label(f / "labels/train/d.txt", "0 0.5 0.5 0.2 0.2\n"),
    "label removed": lambda f: (f / "labels/train/a.txt").unlink(),
    "image replaced": lambda f: write_image(f / "images/train/a.png", width=77),
    "image added": lambda f: write_image(f / "images/train/e.png"),
    "image removed": lambda f: (f / "images/train/a.png").unlink(),
    "image renamed": lambda f: (f / "images/train/d.png").rename(f / "images/train/dd.png"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_invalidates_the_cache(change: str, folder: Path, scans: list[int]) -> None:
    build(folder)
    CHANGES[change](folder)
    changed = build(folder)
    assert len(scans) == 2
    fresh = build(folder, cache=False)
    assert changed.paths() == fresh.paths()
    assert np.array_equal(changed.boxes, fresh.boxes)
    assert np.array_equal(changed.shapes, fresh.shapes)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_during_the_scan_invalidates_the_cache(
    change: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the files is noted before they are read: what comes later is noticed next time."""
    scan = index_module._scan

    def scan_and_change(*arguments: Any) -> Any:
        found = scan(*arguments)
        CHANGES[change](folder)
        return found

    monkeypatch.setattr(index_module, "_scan", scan_and_change)
    build(folder)
    monkeypatch.undo()
    changed, fresh = build(folder), build(folder, cache=False)
    assert changed.paths() == fresh.paths()
    assert np.array_equal(changed.boxes, fresh.boxes)
    assert np.array_equal(changed.shapes, fresh.shapes)


def test_other_class_count_invalidates_the_cache(folder: Path) -> None:
    build(folder)
    index = build_index([folder / "images/train"], {0: "zero"})
    assert index.report.counts == {"class out of range": 2}


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 truncated"])
def test_damaged_cache_is_rebuilt(content: bytes, folder: Path) -> None:
    build(folder)
    (file,) = folder.rglob(f"*{SUFFIX}")
    file.write_bytes(content)
    check(build(folder), folder)
    assert file.stat().st_size > len(content)


def test_pickled_cache_is_not_believed(folder: Path) -> None:
    build(folder)
    (file,) = folder.rglob(f"*{SUFFIX}")
    with file.open("wb") as stream:
        np.savez(stream, key=np.array([print], dtype=object))
    check(build(folder), folder)


def test_read_only_labels_are_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "labels").chmod(0o555)
    try:
        check(build(folder), folder)
    finally:
        (folder / "labels").chmod(0o755)
    assert not list(folder.rglob(f"*{SUFFIX}"))
    assert "read-only" in caplog.text


def test_full_disk_is_a_notice(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    check(build(folder), folder)
    assert "No space left" in caplog.text
    assert sorted(path.name for path in (folder / "labels").iterdir()) == ["train"]


def test_splits_that_share_a_folder_have_caches_of_their_own(folder: Path, scans: list[int]) -> None:
    for name, images in {"one": "ab", "two": "cd"}.items():
        lines = "".join(f"./images/train/{image}.png\n" for image in images)
        (folder / f"{name}.txt").write_text(lines, encoding="utf-8")
    for _ in range(2):
        for name in ("one", "two"):
            assert len(build_index([folder / f"{name}.txt"], NAMES)) == 2
    assert len(scans) == 2


# --- faults ---

IMAGE_FAULTS = {
    "unreadable image": lambda path: path.write_bytes(b"no image at all"),
    "truncated image": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "image too small": lambda path: write_image(path, width=9),
    "missing image": lambda path: (path.unlink(), path.symlink_to("nowhere.png")),
}


@pytest.mark.parametrize("kind", IMAGE_FAULTS)
def test_unusable_images_are_left_out_and_named(kind: str, folder: Path) -> None:
    IMAGE_FAULTS[kind](folder / "images/train/a.png")
    index = build(folder)
    assert [Path(path).name for path in index.paths()] == ["b.png", "c.png", "d.png"]
    assert index.offsets.tolist() == [0, 1, 1, 1]
    assert index.report.counts == {kind: 1}
    assert index.report.faults[0].file.endswith("a.png")
    with pytest.raises(UserError, match=rf"a\.png: {kind}.*1 fault in all"):
        build(folder, strict=True)


def test_unreadable_label_file_is_not_taken_for_background(folder: Path) -> None:
    (folder / "labels/train/a.txt").unlink()
    (folder / "labels/train/a.txt").mkdir()
    index = build(folder)
    assert len(index) == 3
    assert index.report.counts == {"unreadable label file": 1}


def test_label_without_image(folder: Path) -> None:
    write_label(folder / "labels/train/lost.txt", "0 0.5 0.5 0.2 0.2\n")
    for _ in range(2):  # from the scan and from the cache
        index = build(folder)
        assert [(f.kind, Path(f.file).name) for f in index.report.faults] == [
            ("label without image", "lost.txt")
        ]


def test_strict_names_file_line_and_count(folder: Path) -> None:
    write_label(folder / "labels/train/a.txt", "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2\n9 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match=r"labels/train/a\.txt:2: wrong column count .*2 faults") as caught:
        build(folder, strict=True)
    assert "\n" not in str(caught.value)


def test_report(folder: Path, tmp_path: Path) -> None:
    write_label(folder / "labels/train/a.txt", "0 0.5 0.5 0.2\n0 nan 0.5 0.2 0.2\n0 inf 0.5 0.2 0.2\n")
    report = build(folder).report
    lines = report.summary().splitlines()
    assert lines[0] == "4 images, 1 box, 3 backgrounds"
    assert "2  not finite" in lines[1]
    assert "a.txt:2" in lines[1]
    assert "1  wrong column count" in lines[2]
    report.write_report(tmp_path)
    rows = (tmp_path / "label_report.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "file,line,fault,action,detail"
    assert len(rows) == 4
    assert rows[1].split(",")[1:4] == ["1", "wrong column count", "row dropped"]


def test_no_faults_no_report(folder: Path, tmp_path: Path) -> None:
    before = list(tmp_path.iterdir())
    build(folder).report.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == before


def test_nothing_usable(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="no images found"):
        build_index([tmp_path / "images"], NAMES)
    (tmp_path / "images/a.jpg").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="none of 1 image can be used"):
        build_index([tmp_path / "images"], NAMES)


# --- sources ---


def lose(folder: Path) -> None:
    shutil.rmtree(folder / "labels")


def upper(folder: Path) -> None:
    for path in (folder / "labels/train").iterdir():
        path.rename(path.with_suffix(".TXT"))


def foreign(folder: Path, suffix: str) -> None:
    lose(folder)
    for name in "abcd":
        (folder / f"images/train/{name}{suffix}").write_text("{}", encoding="utf-8")


def rewrite(folder: Path, text: str) -> None:
    for name in "abcd":
        write_label(folder / f"labels/train/{name}.txt", text)


NOTHING = {
    "no folder": (
        lose,
        r"the folder .*labels/train does not exist; a.png would have .*a.txt; found: nothing",
    ),
    "upper case": (upper, r"no .txt file in .* has the name of an image.*found: 3 '.TXT' files in .*labels"),
    "voc": (lambda f: foreign(f, ".xml"), r"does not exist.*found: 4 '.xml' files in .*images"),
    "coco": (lambda f: foreign(f, ".json"), r"found: 4 '.json' files in .*images"),
    "beside": (lambda f: foreign(f, ".txt"), r"found: 4 '.txt' files in .*images/train"),
    "empty": (lambda f: rewrite(f, ""), "all label files are empty"),
    "other classes": (
        lambda f: rewrite(f, "7 .5 .5 .2 .2\n"),
        "all 4 label rows .* 4 for 'class out of range'; ",
    ),
    "from 1": (
        lambda f: rewrite(f, "1 .5 .5 .2 .2\n3 .3 .3 .1 .1\n"),
        "seem to count from 1: class 3, but none of",
    ),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_labels_that_teach_nothing_are_explained(kind: str, folder: Path) -> None:
    change, complaint = NOTHING[kind]
    change(folder)
    for _ in range(2):  # also from the cache
        assert re.search(complaint, build(folder).report.nothing_to_learn)


def test_labels_that_teach_something(folder: Path) -> None:
    assert not build(folder).report.nothing_to_learn
    rewrite(folder, "0 .5 .5 .2 .2\n3 .3 .3 .1 .1\n")  # there is a class 0
    assert not build(folder).report.nothing_to_learn
    rewrite(folder, "1 .5 .5 .2 .2\n2 .3 .3 .1 .1\n")
    for slips in (1, 2, 3):
        rows = "".join(f"3 0.{place} 0.5 0.1 0.1\n" for place in range(1, slips + 1))
        write_label(folder / "labels/train/c.txt", rows)
        assert bool(build(folder).report.nothing_to_learn) == (slips > 2)


def test_sources(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = folder / "images/train"
    (images / ".hidden.png").write_bytes(b"")
    (images / "notes.md").write_text("", encoding="utf-8")
    write_image(images / "sub/e.PNG")
    expected = [str(images / name) for name in ("a.png", "b.png", "c.png", "d.png", "sub/e.PNG")]
    assert list_images([folder / "images"]) == expected
    assert list_images([images / "b.png", images / "a.png"]) == [expected[1], expected[0]]
    (folder / "list.txt").write_text(f"# two\n./images/train/b.png\n\n{expected[0]}\n", encoding="utf-8")
    assert list_images([folder / "list.txt"]) == [expected[1], expected[0]]
    (folder / "list.txt").write_text("images/train/gone.png\nimages/train/b.png\n", encoding="utf-8")
    write_image(folder / "gone.png")  # of another one that is gone; the others are where they are said to be
    assert list_images([folder / "list.txt"]) == [str(images / "gone.png"), expected[1]]
    (folder / "lists").mkdir()
    (folder / "lists/list.txt").write_text(
        "images/train/b.png\n", encoding="utf-8"
    )  # relative to the working directory
    monkeypatch.chdir(folder)
    assert list_images([folder / "lists/list.txt"]) == ["images/train/b.png"]


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list_images([tmp_path / "nowhere"])
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(UserError, match="neither a folder"):
        list_images([tmp_path / "a.zip"])
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(UserError, match="not UTF-8"):
        list_images([tmp_path / "list.txt"])


def test_real_labels(shared: Path) -> None:
    source = shared / "data/coco256/images/val2017"
    index = build_index([source], {i: str(i) for i in range(80)}, cache=False)
    assert (len(index), len(index.boxes)) == (128, 898)
    assert not index.report.faults
    image = cv2.imread(index.path(7))
    assert index.shapes[7].tolist() == list(image.shape[:2])


def end_at_once(*_: object) -> None:
    os._exit(3)


def test_a_worker_that_dies_while_it_scans_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "images" / "0.png")
    monkeypatch.setattr(index_module, "PROCESSES_FROM", 1)
    monkeypatch.setattr(index_module, "_scan_chunk", end_at_once)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(UserError, match="a process that reads labels has died"):
        build_index([tmp_path / "images"], NAMES)
