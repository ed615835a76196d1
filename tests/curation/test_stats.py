"""dataset.py stats: the tables and the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import dataset
from tests.curation.planted import Made
from utils.errors import UserError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Boxes of 16 x 12, 32 x 32, 96 x 96 and 160 x 120 pixels of 160 x 120 in one picture; one is empty."""
    made = Made.sound()
    made.rows["val/0"] = [
        "0 0.5 0.5 0.1 0.1",
        f"0 0.5 0.5 0.2 {32 / 120}",
        f"1 0.5 0.5 0.6 {96 / 120}",
        "1 0.5 0.5 1 1",
    ]
    made.rows["val/1"] = []
    return made.write(tmp_path)


def test_numbers(data: Path, tmp_path: Path) -> None:
    dataset.main(["stats", "--data", str(data), "--json", str(tmp_path / "stats.json")])
    record = json.loads((tmp_path / "stats.json").read_text(encoding="utf-8"))
    assert (record["pictures"], record["boxes"]) == (16, 12 * 4 + 4 + 0 + 2 * 4)
    # val/2 and val/3: 32 x 36 = 1152, 40 x 36 = 1440, 48 x 30 = 1440 and 1152 square pixels, all from 32 * 32
    # on and below 96 * 96; of the four above 192 is small, 1024 medium, 9216 and 19200 are large
    assert record["splits"]["val"] == {
        "pictures": 4, "backgrounds": 1, "boxes": 12, "small": 1, "medium": 9, "large": 2, "most": 4,
        "picture_sizes": [[160, 120, 4]], "other_sizes": 0, "sides": [120, 160],
    }  # fmt: skip
    assert record["classes"] == [
        {"class": 0, "name": "cat", "boxes": {"train": 24, "val": 6}, "pictures": 15},
        {"class": 1, "name": "dog", "boxes": {"train": 24, "val": 6}, "pictures": 15},
    ]


def test_tables(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset.main(["stats", "--data", str(data)])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["val", "4", "1", "12", "3.0", "4", "1", "9", "2"] in lines
    assert ["0", "cat", "24", "6", "15"] in lines
    assert ["val:", "160", "x", "120", "(4);", "sides", "120", "to", "160", "px"] in lines


def test_files_of_others_stay(data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("[]", encoding="utf-8")
    with pytest.raises(UserError, match="was not written by this command"):
        dataset.main(["stats", "--data", str(data), "--json", str(tmp_path / "mine.json")])
    assert (tmp_path / "mine.json").read_text(encoding="utf-8") == "[]"
