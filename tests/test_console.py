"""Names that are no text and consoles that lack characters: every command ends as it would without them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.training_runs import ENVIRONMENT, ROOT
from utils.console import printable, warn
from utils.data.index import build_index
from utils.data.spec import DataSpec, load_data_spec
from utils.errors import UserError, one_line, run_command

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


@pytest.mark.parametrize("console", ["ascii", "cp1252", pytest.param("utf-8", marks=pytest.mark.slow)])
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


@pytest.mark.parametrize("console", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
def test_data_sets(console: str, odd_data: Path, tmp_path: Path) -> None:
    """Class names of other scripts, pictures whose names are no text: every subcommand, and what it made."""
    odd_data.write_text(odd_data.read_text(encoding="utf-8").replace("漢字", "漢字 😀"), encoding="utf-8")
    data, runs = ("--data", str(odd_data)), ("--project", str(tmp_path))
    forms = ("yolo", "voc", "coco")
    check, stats, *_ = commands(
        ("dataset.py", "check", *data, *runs, "--name", "check"),
        ("dataset.py", "stats", *data),
        ("dataset.py", "view", *data, *runs, "--name", "view"),
        *(("dataset.py", "convert", *data, "--to", to, "--out", str(tmp_path / to)) for to in forms),
        ("dataset.py", "split", *data, "--ratios", "0.5", "0.5", "--out", str(tmp_path / "split")),
        *(
            ("dataset.py", "stats", "--data", str(tmp_path / made / "data.yaml"))
            for made in (*forms, "split")
        ),
        console=console,
    )
    assert "check.html" in check and "train" in stats
    page = (tmp_path / "check" / "check.html").read_text(encoding="utf-8")
    assert "漢字 😀" in page
    names = [path.name for path in (tmp_path / "view").iterdir()]
    assert all(name.encode() for name in names) and len(names) > 2  # each can be written in a page
    for made in (*forms, "split"):
        spec = load_data_spec(tmp_path / made / "data.yaml")
        assert "漢字 😀" in spec.names.values()
        assert boxes_of(spec) == boxes_of(load_data_spec(odd_data))


def boxes_of(spec: DataSpec) -> list[list[float]]:
    """All boxes of a data set, sorted: a split changes their places."""
    indices = [build_index(places, spec.names, cache=False) for places in (spec.train, spec.val)]
    return sorted(row for index in indices for row in index.boxes.tolist())


@pytest.mark.skipif(sys.getfilesystemencoding() == "ascii", reason="no such names can be given there")
@pytest.mark.parametrize("console", ["ascii", pytest.param("cp1252", marks=pytest.mark.slow)])
@pytest.mark.parametrize("flags", [("--track",), pytest.param(("--slice", "48"), marks=pytest.mark.slow)])
def test_videos(console: str, flags: tuple[str, ...], official_weights: Path, tmp_path: Path) -> None:
    """Videos whose names are no text, and of another script, followed or sliced, with all that is saved."""
    if "--track" in flags:
        pytest.importorskip("trackers")
    (tmp_path / "videos").mkdir()
    names = (f"{NAME}.avi", "漢 😀.avi")
    for name in names:
        write_clip(tmp_path / "clip.avi", 4)
        (tmp_path / "clip.avi").rename(tmp_path / "videos" / name)
    many = ("--conf-thres", "0.001", "--max-det", "3", "--save-txt", "--save-csv")
    source = ("--source", str(tmp_path / "videos"), "--project", str(tmp_path), "--imgsz", "64")
    commands(("detect.py", "--weights", str(official_weights), *source, *many, *flags), console=console)
    made = {path.name for path in (tmp_path / "exp").glob("*.mp4")}
    assert made == {f"{Path(name).stem}.mp4" for name in names}
    for name in made:
        (tmp_path / "exp" / name).rename(tmp_path / "seen.mp4")
        assert cv2.VideoCapture(str(tmp_path / "seen.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 4


def write_clip(path: Path, frames: int) -> None:
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    for shade in range(frames):
        video.write(np.full((64, 96, 3), 60 + 20 * shade, np.uint8))
    video.release()


def test_help_on_a_console_of_ascii() -> None:
    names = ("train.py", "val.py", "detect.py", "export.py", "lighten.py", "benchmark.py", "dataset.py")
    told = commands(*((name, "--help") for name in names), console="ascii")
    assert all(name in text for name, text in zip(names, told, strict=True))


def test_printable() -> None:
    assert printable("a_1 é漢 \udcff\n\0\u2028\u2029") == "a_1 é漢 ?????"
    assert printable("👩\u200d🚒 全角\u3000空白\u00a0") == "👩\u200d🚒 全角\u3000空白\u00a0"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.json: 'x\ny\u2028z'\t is no name", "a.json: 'x y z' is no name"),
        ("class \x1b[31mred\x9b2J", "class ?[31mred?2J"),
        ("\udcff.jpg", "\udcff.jpg"),  # a byte of a name: the console shows its number
        ("a: " + "b" * 1600 + " is wrong", "a: " + "b" * 997 + "…" + "b" * 491 + " is wrong"),
        ("a" * 1500, "a" * 1500),
    ],
)
def test_a_message_is_one_line(text: str, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What files and names bring into a message breaks no line and tells the terminal nothing."""
    assert one_line(text) == shown
    if shown.isprintable():  # a command's console shows any; that of a test does not
        warn(text[:1400])
        assert capsys.readouterr().err.startswith(f"warning: {shown[:1000]}")


@pytest.mark.usefixtures("unwatched")
@pytest.mark.parametrize("error", [UserError("a\x1b[2J\nb"), OSError(2, "not there", "a\x1b[2J\nb")])
def test_a_command_ends_with_one_line(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run_command(fail)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("error: a?[2J b") and told.count("\n") == 1
