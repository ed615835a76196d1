import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.hyp_yaml import load_hyperparameters
from utils.data import digits as digits_module
from utils.data.digits import SIDE, Digits, compose_scene, generate_digits, load_digits
from utils.data.index import build_index
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.files import ROOT
from utils.seeding import generator_for

FEW = {"train": 6, "val": 3}


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digits_module, "SCENES", FEW)


def checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_generation_is_reproducible_to_the_byte(tmp_path: Path) -> None:
    generate_digits(tmp_path / "one")
    generate_digits(tmp_path / "sub/two")
    found = checksums(tmp_path / "one")
    assert len(found) == 2 * 9 + 1
    assert len(set(found.values())) == len(found)
    assert found == checksums(tmp_path / "sub/two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "sub"]


def test_generated_set_is_sound(tmp_path: Path) -> None:
    generate_digits(tmp_path / "set")
    for split, count in FEW.items():
        index = build_index([tmp_path / f"set/images/{split}"], {i: str(i) for i in range(10)}, strict=True)
        assert len(index) == count
        assert (index.shapes == SIDE).all()
        assert index.report.backgrounds == 0
        assert index.boxes[:, 3:].max(1).min() * SIDE >= 28 - 1
        assert index.boxes[:, 3:].max() * SIDE <= 64 + 1


def test_digits_of_the_splits_are_disjoint() -> None:
    parts = {part: load_digits(part) for part in ("train", "val", "held-out")}
    assert sum(len(part.classes) for part in parts.values()) == 1797
    seen = [{stroke.tobytes() for stroke in part.strokes} for part in parts.values()]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    for part in parts.values():
        assert set(part.classes.tolist()) == set(range(10))
        assert part.strokes.max() == 1


def test_boxes_are_tight_around_the_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    """On plain paper everything dark lies in a box, and dark columns and rows reach to its edges."""
    monkeypatch.setattr(digits_module, "_clutter", lambda rng, paper: np.full_like(paper, 230))
    digits = load_digits("val")
    for number in range(10):
        scene, rows = compose_scene(digits, generator_for(1, number))
        dark = scene.max(-1) < 180
        outside = dark.copy()
        for _, xc, yc, width, height in rows * [1, SIDE, SIDE, SIDE, SIDE]:
            x1, y1 = round(xc - width / 2), round(yc - height / 2)
            x2, y2 = round(xc + width / 2), round(yc + height / 2)
            outside[y1:y2, x1:x2] = False
            inside = dark[y1:y2, x1:x2]
            rows_, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
            assert rows_[0] <= 3
            assert columns[0] <= 3
            assert rows_[-1] >= len(inside) - 4
            assert columns[-1] >= inside.shape[1] - 4
        assert not outside.any()


def test_digits_do_not_overlap() -> None:
    digits = Digits(np.ones((1, 8, 8), np.float32), np.array([4]))
    for number in range(20):
        _, rows = compose_scene(digits, generator_for(2, number))
        low, high = rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2
        overlap = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).clip(0).prod(-1)
        np.fill_diagonal(overlap, 0)
        assert overlap.max() < 1e-9
        assert (low >= 0).all()
        assert (high <= 1).all()


def test_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(digits_module, "compose_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate_digits(tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_another_process_may_be_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(folder: Path, split: str, count: int) -> None:
        (tmp_path / "set/images").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(digits_module, "_write_split", meanwhile)
    generate_digits(tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="cannot write the digits"):
        generate_digits(tmp_path / "file/set")


def test_shipped_files() -> None:
    spec = load_data_spec("digits.yaml", needed=())
    assert spec.names == {i: str(i) for i in range(10)}
    hyp = load_hyperparameters(ROOT / "data/hyps/hyp.digits.yaml")
    assert (hyp.nominal_batch, hyp.cls, hyp.obj, hyp.fliplr, hyp.flipud) == (16, 3.0, 3.0, 0.0, 0.0)
    scenes = sorted((ROOT / "data/images").glob("*.jpg"))
    assert len(scenes) == 6
    held_out = load_digits("held-out")
    for number, path in enumerate(scenes):
        assert path.stat().st_size <= 15_000
        scene, _ = compose_scene(held_out, generator_for(digits_module.SEED, *b"held-out", number))
        difference = cv2.imread(str(path)).astype(int) - scene
        assert np.abs(difference).mean() < 4  # they are what the generator makes, as JPEG
