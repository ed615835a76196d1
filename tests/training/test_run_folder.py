"""The folder of a training run: its parts, its newest checkpoint, and the table of its epochs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from training.run_folder import RESULT_COLUMNS, RunFolder, newest_checkpoint, write_results
from utils.errors import UserError


def test_parts_have_their_places(tmp_path: Path) -> None:
    run = RunFolder.create(str(tmp_path), "exp", exist_ok=False)
    assert run.root == tmp_path / "exp"
    assert run.last == tmp_path / "exp" / "weights" / "last.pt"
    assert run.best == tmp_path / "exp" / "weights" / "best.pt"
    assert run.results == tmp_path / "exp" / "results.csv"
    assert run.last.parent.is_dir()


def test_a_folder_is_numbered_or_used_again(tmp_path: Path) -> None:
    for expected, exist_ok in (("exp", False), ("exp2", False), ("exp", True), ("exp3", False)):
        assert RunFolder.create(str(tmp_path), "exp", exist_ok).root.name == expected


def test_yamls_keep_their_order_and_their_letters(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_yaml("opt.yaml", {"b": "ü", "a": [1, 2]})
    text = (tmp_path / "opt.yaml").read_text(encoding="utf-8")
    assert text.startswith("b: ü\na:")
    assert yaml.safe_load(text) == {"b": "ü", "a": [1, 2]}


def test_the_newest_checkpoint_is_that_written_last(tmp_path: Path) -> None:
    (tmp_path / "a" / "last.pt").mkdir(parents=True)  # a folder of that name is none
    with pytest.raises(UserError, match=r"--resume: no last\.pt below"):
        newest_checkpoint(tmp_path)
    for age, name in enumerate(("exp2", "exp", "exp3")):
        path = tmp_path / name / "weights" / "last.pt"
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1000 - age, 1000 - age))
    assert newest_checkpoint(tmp_path) == tmp_path / "exp2" / "weights" / "last.pt"


def test_a_checkpoint_of_another_project_is_named(tmp_path: Path) -> None:
    path = tmp_path / "demo" / "train" / "weights" / "last.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(UserError, match=re.escape(f"as in --resume {path}")):
        newest_checkpoint(tmp_path / "train")


def test_results_are_a_table_of_six_digits(tmp_path: Path) -> None:
    write_results(tmp_path / "results.csv", [[0.0, *[1 / 3] * 13], [12.0, *[2e-7] * 13]])
    head, first, second, end = (tmp_path / "results.csv").read_text(encoding="utf-8").split("\n")
    assert head == ",".join(RESULT_COLUMNS)
    assert first == ",".join(["0", *["0.333333"] * 13])
    assert second == ",".join(["12", *["2e-07"] * 13])
    assert end == ""
