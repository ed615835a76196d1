"""Writing tar shards: what is in them, what they are called, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import dataset
from curation import convert, shard, split
from tests.utils.data.formats.instances import FORMATS, NAMES
from tests.utils.data.shards.tars import listed, picture
from utils.data.index import ARRAYS, build_index
from utils.data.shards.listing import END
from utils.data.shards.places import MOST_SHARDS, Shards, expand_braces, of_member, open_shards
from utils.data.spec import load_data_spec
from utils.errors import UserError

pytest.importorskip("webdataset")
SPLITS = ("train", "val")


def write_set(root: Path, names: list[str]) -> Path:
    """Pictures with a box each."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate(names):
        (root / "images" / name).write_bytes(picture(40 + number))
        (root / "labels" / f"{Path(name).stem}.txt").write_text(
            f"0 0.5 0.5 0.{number + 1} 0.5\n", encoding="utf-8"
        )
    (root / "data.yaml").write_text("train: images\nval: images\nnames: [cat, dog]\n", encoding="utf-8")
    return root / "data.yaml"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_set(tmp_path / "set", ["a.jpg", "b.jpg", "c.jpg"])
    monkeypatch.chdir(tmp_path)
    for out in ("shards", "again"):
        dataset.main(["shard", "--data", str(data), "--out", out, "--size", "2"])
    made = tmp_path / "shards"
    assert sorted(file.name for file in made.iterdir()) == sorted(
        [
            "data.yaml",
            *(f"{split}-00000{n}{end}" for split in SPLITS for n in (0, 1) for end in (".tar", END)),
        ]
    )
    assert listed((made / "train-000000.tar").read_bytes()) == ["a.jpg", "a.txt", "b.jpg", "b.txt"]
    assert listed((made / "train-000001.tar").read_bytes()) == ["c.jpg", "c.txt"]
    content = yaml.safe_load((made / "data.yaml").read_text(encoding="utf-8"))
    assert content["train"] == "train-{000000..000001}.tar" and content["names"] == {0: "cat", 1: "dog"}
    for file in made.iterdir():  # no time, no user: the same bytes each time
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    moved = made.rename(tmp_path / "elsewhere")
    (source,) = load_data_spec(moved / "data.yaml").train
    assert isinstance(source, Shards) and source.addresses == tuple(
        str(moved / f"train-00000{number}.tar") for number in (0, 1)
    )
    with pytest.raises(UserError, match="exists and is not touched"):
        dataset.main(["shard", "--data", str(data), "--out", "elsewhere"])


def test_webdataset_reads_them(tmp_path: Path) -> None:
    import webdataset

    shard.run(
        shard.Config(data=str(write_set(tmp_path / "set", ["a.jpg", "b.jpg"])), out=str(tmp_path / "made"))
    )
    url = str(tmp_path / "made/train-000000.tar")
    samples = list(webdataset.WebDataset(url, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a", "b"]
    assert samples[0]["jpg"] == picture(40) and samples[1]["txt"] == b"0 0.5 0.5 0.2 0.5\n"


@pytest.mark.skipif(sys.getfilesystemencoding() == "ascii", reason="no such names can be given there")
def test_names_that_a_shard_cannot_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a.b.jpg", "a_b.jpg", "A_B.png", "at@1.jpg", "ü\u00a0.jpg", f"{'ä' * 120}.jpg"]
    data = write_set(tmp_path / "set", names)
    shard.run(shard.Config(data=str(data), out=str(tmp_path / "made")))
    listing = json.loads((tmp_path / "made/train-000000.index.json").read_text(encoding="utf-8"))
    kept = [row[0] for row in listing["samples"]]
    assert len(set(map(str.lower, kept))) == 6 and all(name.count(".") == 1 for name in kept)
    assert kept[:4] == ["A_B.png", "a_b_2.jpg", "a_b_3.jpg", "at_1.jpg"]
    assert "pictures were renamed (" in capsys.readouterr().out
    index = build_index(load_data_spec(tmp_path / "made/data.yaml").train, {0: "cat", 1: "dog"}, cache=False)
    assert [Path(path).name for path in index.paths()] == kept and not index.report.faults


@pytest.mark.parametrize("kind", ["yolo", "coco", "voc"])
def test_from_any_format_and_back(kind: str, tmp_path: Path) -> None:
    source = FORMATS[kind][0](tmp_path / "set")
    (tmp_path / "data.yaml").write_text(
        f"train: {source}\nval: {source}\nnames: [cat, dog]\n", encoding="utf-8"
    )
    before = build_index([source], NAMES, cache=False)
    shard.run(shard.Config(data=str(tmp_path / "data.yaml"), out=str(tmp_path / "made"), size=1))
    there = str(tmp_path / "made/data.yaml")
    convert.run(convert.Config(data=there, to="yolo", out=str(tmp_path / "back"), pictures="copy"))
    after = build_index([tmp_path / "back/images/train"], NAMES, cache=False)
    for name in ARRAYS:
        assert name.startswith("path") or np.array_equal(getattr(before, name), getattr(after, name)), name
    assert [Path(p).read_bytes() for p in before.paths()] == [Path(p).read_bytes() for p in after.paths()]
    with pytest.raises(UserError, match="cannot be linked to; use --pictures copy"):
        convert.run(convert.Config(data=there, to="yolo", out=str(tmp_path / "linked")))
    with pytest.raises(UserError, match="split the data set that they were made from"):
        split.run(split.Config(data=there, out=str(tmp_path / "parted")))


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webdataset", None)
    with pytest.raises(UserError, match="webdataset"):
        shard.run(shard.Config(data=str(write_set(tmp_path / "set", ["a.jpg"])), out=str(tmp_path / "made")))
    assert not (tmp_path / "made").exists()


# ---- how shards are named ----


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ("a.tar",)),
        ("a-{08..10}.tar", ("a-08.tar", "a-09.tar", "a-10.tar")),
        ("{x,y}-{1..2}.tar", ("x-1.tar", "x-2.tar", "y-1.tar", "y-2.tar")),
        ("https://h/a-{0..1}.tar?k={b}", ("https://h/a-0.tar?k={b}", "https://h/a-1.tar?k={b}")),
    ],
)
def test_braces(pattern: str, names: tuple[str, ...]) -> None:
    assert expand_braces(pattern) == names


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        ("a-{0..99999999}.tar", f"more than {MOST_SHARDS:,} shards"),
        ("{0..999}{0..999}.tar", "more than"),
        ("{" * 3 + "0..9.tar", "a brace is missing"),
        ("https://h/a-*.tar", "servers do not list files"),
    ],
)
def test_patterns_that_are_none(pattern: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        open_shards(pattern, Path())


def test_a_star_on_disk(tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar", "a.index.json"):
        (tmp_path / name).write_bytes(b"")
    assert open_shards("*.tar", tmp_path).addresses == (str(tmp_path / "a.tar"), str(tmp_path / "b.tar"))
    assert not open_shards("*/*.tar", tmp_path).exists()


@pytest.mark.parametrize("address", ["/d/a.tar", "s3://b/a.tar", "https://h/a.tar?k=a/b@c", "C:\\d\\A.TAR"])
def test_the_path_of_a_picture_says_where_it_is(address: str) -> None:
    assert of_member(f"{address}@512+20480/000012.jpg") == (address, 512, 20480)
    assert of_member(address) is None and of_member("/d/a@1+2/b.jpg") is None


def spec_of(folder: Path, text: str) -> object:
    (folder / "data.yaml").write_text(f"{text}\nnames: [a]\n", encoding="utf-8")
    return load_data_spec(folder / "data.yaml").train


def test_data_yamls(tmp_path: Path) -> None:
    remote = "https://h/s/t-{0..1}.tar"
    for text in (
        f"train: {remote}\nval: {remote}",
        "path: https://h/s/\ntrain: t-{0..1}.tar\nval: t-{0..1}.tar",
    ):
        (source,) = spec_of(tmp_path, text)  # type: ignore[misc]
        assert source.addresses == ("https://h/s/t-0.tar", "https://h/s/t-1.tar") and str(source) == remote
    with pytest.raises(UserError, match=r"train: no such shard: '.*t-0.tar'.*; dataset.py shard makes them"):
        spec_of(tmp_path, "train: t-{0..1}.tar\nval: t-{0..1}.tar")
    with pytest.raises(UserError, match=r"val: 'https://h/x' is no tar; behind an address, only tar shards"):
        spec_of(tmp_path, f"train: {remote}\nval: https://h/x")
