"""A scan of shards finds what a scan of the same files finds, and its caches are not believed blindly."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curation import shard
from tests.utils.data.formats.instances import FORMATS, NAMES
from tests.utils.data.shards.server import serving
from tests.utils.data.shards.tars import ROW, picture, write_tar
from utils.data.dataset import DetectionDataset
from utils.data.image_cache import open_store
from utils.data.images import image_bytes, read_image
from utils.data.index import ARRAYS, DatasetIndex, build_index
from utils.data.label_cache import SUFFIX
from utils.data.loader import Loader
from utils.data.shards import ranges, scan
from utils.data.shards.listing import END, MOST_LISTING
from utils.data.shards.places import Shards, open_shards
from utils.errors import UserError

CLASSES = {0: "blue", 1: "green"}
SAME = [name for name in ARRAYS if not name.startswith("path")]


@pytest.fixture
def shards(tiny_data: Path, tmp_path: Path) -> Shards:
    """The training images of `tiny_data` in three shards."""
    shard.run(shard.Config(data=str(tiny_data), out=str(tmp_path / "shards"), size=5))
    return open_shards("train-{000000..000002}.tar", tmp_path / "shards")


@pytest.fixture
def folder(tiny_data: Path) -> DatasetIndex:
    return build_index([tiny_data.parent / "images/train"], CLASSES, cache=False)


def assert_same(index: DatasetIndex, other: DatasetIndex) -> None:
    for name in SAME:
        assert np.array_equal(getattr(index, name), getattr(other, name)), name
    assert [Path(path).name for path in index.paths()] == [Path(path).name for path in other.paths()]


def without_listings(shards: Shards) -> None:
    for address in shards.addresses:
        Path(address.replace(".tar", END)).unlink()


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("processes", [True, False])
def test_the_index_is_that_of_the_files(
    listed: bool, processes: bool, shards: Shards, folder: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not listed:
        without_listings(shards)
    monkeypatch.setattr(scan, "PROCESSES_FROM", 1 if processes else 100)
    index = build_index([shards], CLASSES, cache=False)
    assert_same(index, folder)
    assert not index.report.faults and index.report.images == 12
    for i in range(12):
        assert np.array_equal(read_image(index.path(i)), read_image(folder.path(i)))
        assert image_bytes(index.path(i)) == Path(folder.path(i)).read_bytes()


def test_over_http(shards: Shards, folder: DatasetIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third answer fails in some way; index and batches are those of the folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(ranges, "PAUSE", 0.001)
    kinds = ("drop", "500", "cut", "shorter")

    def mischief(number: int) -> str:
        return kinds[number // 3 % 4] if number % 3 == 2 else ""

    root = Path(shards.addresses[0]).parent
    with serving(root, mischief) as server:
        source = open_shards(f"{server.address}/train-{{000000..000002}}.tar?key=a/b", Path())
        listed = build_index([source], CLASSES, cache=False)
        assert_same(listed, folder)
        without_listings(shards)
        assert_same(build_index([source], CLASSES, cache=False), folder)
        for shuffle, workers in ((True, 0), (False, 2)):
            pairs = [
                Loader(
                    DetectionDataset(index, 64, augment=shuffle, batch_size=5),
                    workers=workers,
                    shuffle=shuffle,
                )
                for index in (listed, folder)
            ]
            for ours, theirs in zip(*pairs, strict=True):
                assert np.array_equal(ours.images, theirs.images) and np.array_equal(
                    ours.targets, theirs.targets
                )


# ---- what is kept ----


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    real = scan._scan
    monkeypatch.setattr(scan, "_scan", lambda *args: (calls.append(1), real(*args))[1])
    return calls


def test_a_scan_is_kept_while_nothing_changes(shards: Shards, folder: DatasetIndex, scans: list[int]) -> None:
    for _ in range(2):
        assert_same(build_index([shards], CLASSES), folder)
    assert len(scans) == 1
    (kept,) = Path(shards.addresses[0]).parent.glob(f"*{SUFFIX}")
    os.utime(shards.addresses[1], ns=(1, 1))
    build_index([shards], CLASSES)
    build_index([shards], {0: "blue", 1: "red"})
    assert len(scans) == 3
    kept.write_bytes(kept.read_bytes()[:-100])
    build_index([shards], CLASSES)
    assert len(scans) == 4


def test_of_an_address_it_is_kept_for_the_user(
    shards: Shards, folder: DatasetIndex, scans: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(scan, "user_cache", lambda: tmp_path / "cache")
    with serving(Path(shards.addresses[0]).parent) as server:
        source = open_shards(f"{server.address}/train-{{000000..000002}}.tar", Path())
        for _ in range(2):
            assert_same(build_index([source], CLASSES), folder)
    assert len(scans) == 1 and len(list((tmp_path / "cache/shards").iterdir())) == 1


@pytest.mark.parametrize("outside", ["@512+999999999/", "@99999999+9/"])
def test_a_kept_scan_with_other_places_is_not_believed(
    outside: str, shards: Shards, scans: list[int]
) -> None:
    index = build_index([shards], CLASSES)
    (kept,) = Path(shards.addresses[0]).parent.glob(f"*{SUFFIX}")
    with np.load(kept, allow_pickle=False) as archive:
        content = dict(archive)
    paths = [index.path(i) for i in range(12)]
    paths[3] = paths[3].partition("@")[0] + outside + "x.png"
    content["path_bytes"] = np.frombuffer("".join(paths).encode(), np.uint8)
    content["path_offsets"] = np.cumsum([0, *map(len, paths)])
    np.savez(kept.open("wb"), **content)
    assert build_index([shards], CLASSES).paths() == index.paths() and len(scans) == 2


FORGED: dict[str, Callable[[Any], object]] = {
    "version": lambda c: c.update(version=9),
    "another size": lambda c: c.update(size=1),
    "no samples": lambda c: c.pop("samples"),
    "a number": lambda c: c.update(samples=7),
    "a short row": lambda c: c["samples"][0].pop(),
    "a name that leads away": lambda c: c["samples"][0].__setitem__(0, "../a.jpg"),
    "an address in a name": lambda c: c["samples"][0].__setitem__(0, "a@1+2"),
    "a place outside": lambda c: c["samples"][0].__setitem__(1, 1 << 40),
    "a negative place": lambda c: c["samples"][0].__setitem__(1, -512),
    "a size of its own": lambda c: c["samples"][-1].__setitem__(2, 5),
    "a picture of terapixels": lambda c: c["samples"][0].__setitem__(3, 1 << 40),
    "true": lambda c: c["samples"][0].__setitem__(2, True),
    "a text of another kind": lambda c: c["samples"][0].__setitem__(5, 7),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_listing_is_not_believed(
    case: str, shards: Shards, folder: DatasetIndex, caplog: pytest.LogCaptureFixture
) -> None:
    file = Path(shards.addresses[0].replace(".tar", END))
    content = json.loads(file.read_text(encoding="utf-8"))
    FORGED[case](content)
    file.write_text(json.dumps(content), encoding="utf-8")
    assert_same(build_index([shards], CLASSES, cache=False), folder)
    assert f"its {END} is not used" in caplog.text


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"[]", b"\xff\xfe", b'{"samples": {}}'])
def test_a_damaged_listing_is_no_more_than_none(
    content: bytes, shards: Shards, folder: DatasetIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(shards.addresses[0].replace(".tar", END)).write_bytes(content)
    assert_same(build_index([shards], CLASSES, cache=False), folder)
    assert MOST_LISTING < 1 << 30


def test_labels_that_were_mended_in_the_tar_count(
    shards: Shards, folder: DatasetIndex, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scan, "TOLD", 2)
    for address in shards.addresses:
        tar, listing = Path(address), Path(address.replace(".tar", END))
        content = tar.read_bytes()  # rows begin with their class: all become 1, and nothing becomes longer
        tar.write_bytes(re.sub(rb"(?<=[\0\n])0(?= 0\.)", b"1", content))
        after = listing.stat().st_mtime_ns + 10**9
        os.utime(tar, ns=(after, after))
    assert set(folder.boxes[:, 0]) == {0, 1}
    assert set(build_index([shards], CLASSES, cache=False).boxes[:, 0]) == {1}
    assert caplog.text.count("older than the shard") == 2 and "so it is with 1 more shard\n" in caplog.text


def test_a_shard_that_changes_later_is_told(shards: Shards) -> None:
    index = build_index([shards], CLASSES, cache=False)
    Path(shards.addresses[0]).write_bytes(Path(shards.addresses[0]).read_bytes()[:600])
    loader = Loader(DetectionDataset(index, 64, batch_size=4), workers=2, shuffle=False)
    with pytest.raises(UserError, match="it has changed; start again"):  # and no grey picture in its place
        list(loader)


# ---- faults ----


def found(tmp_path: Path, members: Any, names: dict[int, str] | None = None, **options: Any) -> DatasetIndex:
    file = write_tar(tmp_path / "a.tar", members)
    return build_index([open_shards(str(file), Path())], names or CLASSES, cache=False, **options)


JPG = picture()
FAULTS: dict[str, tuple[Any, str, str]] = {
    "no label": ({"b.jpg": JPG}, "", ""),
    "no picture": ({"b.txt": ROW}, "label without image", "no image of this name"),
    "dots": ({"b.c.jpg": JPG, "b.c.txt": ROW}, "name with dots", "'b.c.jpg': a name ends at its first dot"),
    "again": (
        {"b.jpg": JPG, "c.jpg": JPG, "b.txt": ROW, "d.jpg": JPG},
        "label without image",
        "no image of this name",
    ),
    "doubled": ([("a.jpg", JPG), ("b.jpg", JPG), ("a.jpg", JPG)], "picture twice", "'a' has another"),
    "two pictures": ({"b.jpg": JPG, "b.png": picture(suffix=".png")}, "picture twice", "'b' has another"),
    "no image": ({"b.jpg": b"nonsense" * 99}, "unreadable image", "not an image format"),
    "empty": ({"b.jpg": b""}, "unreadable image", "empty file"),
    "small": ({"b.jpg": picture(5, 5)}, "image too small", "5x5 pixels"),
    "rows": ({"b.jpg": JPG, "b.txt": ROW * 100_001}, "unreadable label file", "more than 100,000 rows"),
    "class": ({"b.jpg": JPG, "b.txt": b"7 .5 .5 .1 .1\n"}, "class out of range", "class 7"),
    "json": ({"b.jpg": JPG, "b.json": b"{"}, "unreadable label file", "not JSON"),
    "other json": ({"b.jpg": JPG, "b.json": b"{}"}, "unreadable label file", "no list 'shapes'"),
    "pickles": ({"b.jpg": JPG, "b.pyd": b"cos\nsystem\n(S'id'\ntR.", "b.pth": b"x"}, "", ""),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_samples(case: str, tmp_path: Path) -> None:
    members, kind, detail = FAULTS[case]
    first = [("a.jpg", JPG), ("a.txt", ROW)] if case != "doubled" else []
    rest = list(members.items()) if isinstance(members, dict) else members
    index = found(tmp_path, [*first, *rest])
    assert index.report.counts == ({kind: 1} if kind else {})
    assert all(
        detail in fault.detail and fault.file.startswith(str(tmp_path)) for fault in index.report.faults
    )
    if case == "again":  # b.txt is no neighbour of b.jpg: a sample without a picture
        assert len(index) == 4
    if kind:
        with pytest.raises(UserError, match="fatal with --strict"):
            found(tmp_path, [*first, *rest], strict=True)


def test_nothing_to_learn(tmp_path: Path) -> None:
    assert "beside 000012.jpg in a shard belongs" in found(tmp_path, {"a.jpg": JPG}).report.nothing_to_learn
    assert (
        "the only label row was dropped, 1 for 'class out of range'"
        in found(tmp_path, {"a.jpg": JPG, "a.txt": b"7 .5 .5 .1 .1\n"}).report.nothing_to_learn
    )
    with pytest.raises(UserError, match="none of 1 image can be used"):
        found(tmp_path, {"a.jpg": b"x"})
    with pytest.raises(UserError, match=r"no pictures in .*a\.tar"):
        found(tmp_path, {"a.cls": b"x"})


def test_labelme_in_a_shard_is_labelme_beside_the_picture(tmp_path: Path) -> None:
    source = FORMATS["labelme"][0](tmp_path / "set")
    files = {file.name: file.read_bytes() for file in sorted(source.iterdir())}
    index = found(tmp_path, files, NAMES)
    assert_same(index, build_index([source], NAMES, cache=False))
    assert len(index.boxes) == 2 and not index.report.faults


def test_shards_come_behind_files(shards: Shards, tiny_data: Path) -> None:
    both = build_index([shards, tiny_data.parent / "images/val"], CLASSES, cache=False)
    parts = [
        build_index([source], CLASSES, cache=False) for source in (tiny_data.parent / "images/val", shards)
    ]
    assert both.paths() == [path for part in parts for path in part.paths()]
    assert np.array_equal(both.boxes, np.concatenate([part.boxes for part in parts]))
    assert both.offsets.tolist() == [*range(0, 34, 2)]


def test_a_cache_beside_the_images_is_refused(shards: Shards, caplog: pytest.LogCaptureFixture) -> None:
    index = build_index([shards], CLASSES, cache=False)
    store = open_store(index, 64, augment=False, cache="disk")
    assert "they lie in tar shards" in caplog.text and store.load(0).shape == (64, 64, 3)
    memory = open_store(index, 64, augment=False, cache="ram")
    assert np.array_equal(memory.load(11), store.load(11))


def test_a_missing_shard_is_named(shards: Shards) -> None:
    Path(shards.addresses[1]).unlink()
    with pytest.raises(UserError, match=r"shard '.*train-000001\.tar' does not exist"):
        build_index([shards], CLASSES)


def test_a_folder_without_a_place_for_what_is_kept(
    shards: Shards, folder: DatasetIndex, tmp_path: Path
) -> None:
    place = tmp_path / "locked"
    shutil.copytree(Path(shards.addresses[0]).parent, place)
    place.chmod(0o555)
    try:
        assert_same(build_index([open_shards("train-00000?.tar*", place)], CLASSES), folder)
        assert not list(place.glob(f"*{SUFFIX}"))
    finally:
        place.chmod(0o755)
