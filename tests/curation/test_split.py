"""`dataset.py split`: seeded, by class, groups together, nothing overwritten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import curation.split
import dataset
from curation.split import group_numbers, stratify
from tests.utils.data.formats.instances import FORMATS, text
from utils.data.index import build_index
from utils.data.spec import load_data_spec
from utils.errors import UserError


def split(data: Path, out: Path, *more: str) -> Path:
    dataset.main(["split", "--data", str(data), "--out", str(out), *more])
    return out / "data.yaml"


def test_a_class_is_in_its_share_everywhere() -> None:
    """100 pictures: 60 of class 0, 30 of class 1, 10 of class 2; of each 8 : 1 : 1."""
    counts = np.repeat(np.eye(3), (60, 30, 10), axis=0)
    parts = stratify(counts, np.arange(100), (0.8, 0.1, 0.1), seed=0)
    assert [counts[part].sum(0).tolist() for part in parts] == [[48, 24, 8], [6, 3, 1], [6, 3, 1]]
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))


@pytest.mark.parametrize("seed", range(5))
def test_any_data_is_split_completely_and_evenly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.unique(rng.integers(0, 120, 600), return_inverse=True)[1]
    counts = rng.poisson([5.0, 1.0, 0.3, 0.05], (600, 4)).astype(float)
    parts = stratify(counts, groups, (0.7, 0.2, 0.1), seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(600))
    assert all(not set(groups[a]) & set(groups[b]) for a, b in ((parts[0], parts[1]), (parts[1], parts[2])))
    shares = np.array([counts[part].sum(0) for part in parts]) / counts.sum(0)
    assert np.abs(shares[:, :3] - [[0.7], [0.2], [0.1]]).max() < 0.06
    again = stratify(counts, groups, (0.7, 0.2, 0.1), seed)
    assert all((a == b).all() for a, b in zip(parts, again))
    other = stratify(counts, groups, (0.7, 0.2, 0.1), seed + 100)
    assert any(len(a) != len(b) or (a != b).any() for a, b in zip(parts, other))


def test_few_pictures() -> None:
    """Each split gets one as long as there are enough; a share of 0 gets none."""
    counts = np.ones((3, 1))
    assert [len(part) for part in stratify(counts, np.arange(3), (0.8, 0.1, 0.1), 0)] == [1, 1, 1]
    assert [len(part) for part in stratify(counts, np.arange(3), (1.0, 0.0), 0)] == [3, 0]
    with pytest.raises(UserError, match="1 group cannot fill 3 splits"):
        stratify(counts, np.zeros(3, int), (0.8, 0.1, 0.1), 0)


def test_groups_by_a_regular_expression() -> None:
    paths = ["v/cam1_001.jpg", "v/cam1_002.jpg", "w/cam2_001.jpg", "still.jpg", "other.jpg"]
    assert group_numbers(paths, "").tolist() == [0, 1, 2, 3, 4]
    assert group_numbers(paths, r"(cam\d+)_").tolist() == [0, 0, 1, 2, 3]
    assert group_numbers(paths, r"^.*/").tolist() == [0, 0, 1, 2, 3]
    with pytest.raises(UserError, match=r"--group: '\(' is no regular expression"):
        group_numbers(paths, "(")
    with pytest.raises(UserError, match="matches no path, such as 'v/cam1_001"):
        group_numbers(paths, "video")


def many(root: Path, kind: str) -> Path:
    """Twelve data sets of two pictures each, as one yaml."""
    sources = [FORMATS[kind][0](root / f"set{number:02}") for number in range(12)]
    listed = ", ".join(map(str, sources))
    return text(root / "all.yaml", f"train: [{listed}]\nval: []\nnames: [cat, dog]\n")


@pytest.mark.parametrize("kind", ["yolo", "voc", "coco", "labelme", "retinanet", "labelstudio"])
def test_labels_come_along(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = split(many(tmp_path, kind), tmp_path / "out", "--ratios", "0.5", "0.5", "--group", r"(set\d+)")
    assert "12 groups" in capsys.readouterr().out
    spec = load_data_spec(file)
    indexes = [build_index(sources, spec.names, cache=False) for sources in (spec.train, spec.val)]
    assert [(len(index), len(index.boxes)) for index in indexes] == [(12, 12)] * 2
    folders = [{Path(path).relative_to(tmp_path).parts[0] for path in index.paths()} for index in indexes]
    assert len(folders[0]) == len(folders[1]) == 6 and not folders[0] & folders[1]
    suffix = ".json" if kind in ("coco", "retinanet", "labelstudio") else ".txt"
    assert {path.suffix for path in (*spec.train, *spec.val)} == {suffix}


def test_the_same_seed_gives_the_same_lists(tmp_path: Path) -> None:
    data = many(tmp_path, "yolo")
    lists = {}
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        split(data, tmp_path / name, "--seed", seed)
        lists[name] = [(tmp_path / name / f"{part}.txt").read_bytes() for part in ("train", "val", "test")]
    assert lists["a"] == lists["b"] != lists["c"]


def test_the_lists_of_a_yaml_that_comes_along_stand_beside_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curation.split, "ROOT", tmp_path / "program")
    FORMATS["yolo"][0](tmp_path / "datasets" / "cells")
    (tmp_path / "program" / "data").mkdir(parents=True)
    named = f"path: {tmp_path / 'datasets' / 'cells'}\ntrain: .\nval: []\nnames: [cat, dog]\n"
    data = text(tmp_path / "program" / "data" / "cells.yaml", named)
    dataset.main(["split", "--data", str(data), "--ratios", "0.5", "0.5"])
    assert (tmp_path / "datasets" / "cells-split" / "data.yaml").is_file()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    data = many(tmp_path, "yolo")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    dataset.main(["split", "--data", str(data)])
    assert (tmp_path / "all-split/data.yaml").is_file()
    with pytest.raises(UserError, match="all-split' exists and is not touched"):
        dataset.main(["split", "--data", str(data)])
    assert all(path.read_bytes() == content for path, content in before.items())


@pytest.mark.parametrize(
    "ratios", [["0.5", "0.4"], ["1"], ["0.4", "0.2", "0.2", "0.2"], ["1.5", "-0.5"], ["nan", "1"]]
)
def test_shares_that_are_none(ratios: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        dataset.main(["split", "--data", "digits.yaml", "--ratios", *ratios])
    assert "--ratios" in capsys.readouterr().err


def test_blood_cells(shared: Path, tmp_path: Path) -> None:
    """Each class within a quarter of its share, though platelets are rare."""
    yaml = f"path: {shared / 'data/bccd'}\ntrain: images/train\nval: images/val\ntest: images/test\n"
    file = text(tmp_path / "bccd.yaml", yaml + "names: [Platelets, RBC, WBC]\n")
    spec = load_data_spec(split(file, tmp_path / "out"))
    indexes = [build_index(getattr(spec, part), spec.names, cache=False) for part in ("train", "val", "test")]
    counts = np.array([np.bincount(index.boxes[:, 0].astype(int), minlength=3) for index in indexes])
    assert counts.sum() == 4886
    shares = counts / counts.sum(0)
    assert np.abs(shares / [[0.8], [0.1], [0.1]] - 1).max() < 0.25
