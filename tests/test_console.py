"""Names that are no text and consoles that lack characters: every command ends as it would without them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training_runs import ENVIRONMENT, ROOT
from utils.console import printable

NAME = os.fsdecode(b"\xff \xe6\xbc\xa2")
CONSOLES = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "utf-8": {"PYTHONUTF8": "1"},
}
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="file names are text there")


@pytest.fixture
def odd_data(tiny_data: Path, tmp_path: Path) -> Path:
    """The data yaml of a copy in which an image of each split has a name that is not UTF-8."""
    root = tmp_path / "data"
    shutil.copytree(tiny_data.parent, root)
    for kind, suffix in (("images", ".png"), ("labels", ".txt")):
        for split in ("train", "val"):
            folder = root / kind / split
            (folder / f"0{suffix}").rename(folder / f"{NAME}{suffix}")
    text = tiny_data.read_text(encoding="utf-8").replace(str(tiny_data.parent), str(root))
    (root / "squares.yaml").write_text(text.replace("blue", "漢字"), encoding="utf-8")
    return root / "squares.yaml"


# Commands as a user runs them, one after the other in one process: Python looks at the console at its start.
IN_A_ROW = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, (sys.argv, end.code)
    print("\\f", flush=True)
"""


def commands(*argvs: tuple[str, ...], console: str) -> list[str]:
    """What each command prints on that console; each has to end well."""
    ended = subprocess.run(
        [sys.executable, "-c", IN_A_ROW, json.dumps(argvs)],
        cwd=ROOT, env=ENVIRONMENT | CONSOLES[console], capture_output=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")[-2000:]
    *told, rest = ended.stdout.decode(errors="replace").split("\f")
    assert len(told) == len(argvs) and not rest.strip()
    return told


@pytest.mark.parametrize("console", CONSOLES)
def test_train_val_and_detect(console: str, odd_data: Path, official_weights: Path, tmp_path: Path) -> None:
    small = ("--imgsz", "64", "--device", "cpu", "--project", str(tmp_path))
    best = str(tmp_path / "train" / "weights" / "best.pt")
    source = str(odd_data.parent / "images" / "val")
    train = ("train.py", "--data", str(odd_data), "--epochs", "1", "--batch-size", "4", "--workers", "0")
    val = ("val.py", "--data", str(odd_data), "--weights", best, "--save-txt", "--save-json")
    many = ("--conf-thres", "0.001", "--max-det", "3", "--save-txt", "--save-csv", "--save-crop")
    detect = ("detect.py", "--weights", str(official_weights), "--source", source, *many)
    table, *_ = commands(
        (*train, *small, "--name", "train"),
        (*val, *small, "--name", "val"),
        (*detect, *small, "--name", "detect"),
        console=console,
    )
    assert "mAP50-95" in table and " all " in table
    assert len(list((tmp_path / "val" / "labels").iterdir())) == 4
    folder = tmp_path / "detect"
    assert (folder / f"{NAME}.png").is_file()
    with (folder / "predictions.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        names = {row["Image Name"].encode("utf-8", "surrogateescape") for row in csv.DictReader(file)}
    assert {os.fsencode(f"{NAME}.png"), b"1.png"} <= names


def test_help_on_a_console_of_ascii() -> None:
    names = ("train.py", "val.py", "detect.py", "export.py", "lighten.py", "benchmark.py", "dataset.py")
    told = commands(*((name, "--help") for name in names), console="ascii")
    assert all(name in text for name, text in zip(names, told, strict=True))


def test_printable() -> None:
    assert printable("a_1 é漢 \udcff\n\0") == "a_1 é漢 ???"
    assert printable("👩\u200d🚒 全角\u3000空白\u00a0") == "👩\u200d🚒 全角\u3000空白\u00a0"
