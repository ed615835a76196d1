"""Names that are no text and consoles that lack characters: every command ends as it would without them."""

from __future__ import annotations

import csv
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


def command(*argv: str, console: str, cwd: Path = ROOT) -> str:
    ended = subprocess.run(
        [sys.executable, *argv], cwd=cwd, env=ENVIRONMENT | CONSOLES[console], capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")[-2000:]
    return ended.stdout.decode(errors="replace")


@pytest.mark.parametrize("console", CONSOLES)
def test_train_val_and_detect(console: str, odd_data: Path, official_weights: Path, tmp_path: Path) -> None:
    small = ("--imgsz", "64", "--device", "cpu", "--project", str(tmp_path))
    flags = ("--epochs", "1", "--batch-size", "4", "--workers", "0", "--name", "train")
    table = command("train.py", "--data", str(odd_data), *small, *flags, console=console)
    assert "mAP50-95" in table and " all " in table
    best = str(tmp_path / "train" / "weights" / "best.pt")
    saves = ("--save-txt", "--save-json", "--name", "val")
    command("val.py", "--data", str(odd_data), "--weights", best, *small, *saves, console=console)
    assert len(list((tmp_path / "val" / "labels").iterdir())) == 4
    source = odd_data.parent / "images" / "val"
    weights = ("--weights", str(official_weights), "--conf-thres", "0.001", "--max-det", "3")
    saves = ("--save-txt", "--save-csv", "--save-crop", "--name", "detect")
    command("detect.py", *weights, "--source", str(source), *small, *saves, console=console)
    folder = tmp_path / "detect"
    assert (folder / f"{NAME}.png").is_file()
    with (folder / "predictions.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        names = {row["Image Name"].encode("utf-8", "surrogateescape") for row in csv.DictReader(file)}
    assert {os.fsencode(f"{NAME}.png"), b"1.png"} <= names


@pytest.mark.parametrize("name", ["train.py", "val.py", "detect.py", "export.py", "lighten.py", "benchmark.py"])
def test_help_on_a_console_of_ascii(name: str) -> None:
    assert name in command(name, "--help", console="ascii")


def test_printable() -> None:
    assert printable("a_1 é漢 \udcff\n\0") == "a_1 é漢 ???"
    assert printable("👩\u200d🚒 全角\u3000空白\u00a0") == "👩\u200d🚒 全角\u3000空白\u00a0"
