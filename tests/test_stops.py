"""Every command ends within seconds of a signal, whenever it comes, and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.killing import LIMIT, Blow, Ended, carry_out, slowness, traces
from tests.conftest import write_squares
from tests.models.exporting.weights import write_weights
from tests.training_runs import run
from training.run_folder import newest_checkpoint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
SECONDS = 9  # in which most of these commands end by themselves
SIGNALS = (signal.SIGINT, signal.SIGTERM)
TRAIN = ("train.py", "--data", "squares.yaml", "--imgsz", "64", "--batch-size", "4", "--epochs", "3")
LATENCY = ("benchmark.py", "latency", "--cfg", "yolov5n", "--imgsz", "64", "--runs", "60", "--runtimes")
COMMANDS: dict[str, tuple[str, ...]] = {
    "train": (*TRAIN, "--workers", "2"),
    "threads": (*TRAIN, "--workers", "0", "--cache", "--noplots"),
    "disk": (*TRAIN, "--workers", "1", "--cache", "disk", "--nosave"),
    "evolve": (*TRAIN, "--evolve", "3"),
    "val": ("val.py", "--weights", "best.pt", "--data", "squares.yaml", "--imgsz", "320", "--save-json"),
    "study": ("val.py", "--weights", "best.pt", "--data", "squares.yaml", "--task", "study"),
    "detect": ("detect.py", "--weights", "best.pt", "--source", "sources", "--imgsz", "320", "--save-crop"),
    "torchscript": ("export.py", "--weights", "best.pt", "--include", "torchscript"),
    "onnx": ("export.py", "--weights", "best.pt", "--include", "onnx", "--simplify"),
    "openvino": ("export.py", "--weights", "best.pt", "--include", "openvino"),
    "ncnn": ("export.py", "--weights", "best.pt", "--include", "ncnn"),
    "int8": ("export.py", "--weights", "best.pt", "--include", "onnx", "--int8", "--data", "squares.yaml"),
    "latency": (*LATENCY, "torch", "onnx", "openvino", "ncnn"),
    "profile": ("benchmark.py", "profile", "--cfg", "yolov5n", "--imgsz", "64", "--runs", "60"),
    "complexity": ("benchmark.py", "complexity", "yolov5n.yaml", "yolov5n-gsconv.yaml"),
    "ledger": ("benchmark.py", "ledger"),
    "comparison": ("benchmark.py", "train", "--data", "squares.yaml", "--variants", "yolov5n", "--imgsz",
                   "64", "--batch-size", "4", "--epochs", "3"),
    "track": ("detect.py", "--weights", "best.pt", "--source", "clip.avi", "--imgsz", "320", "--track"),
    "slice": ("detect.py", "--weights", "best.pt", "--source", "sources", "--imgsz", "64", "--slice", "100"),
    "web": ("export.py", "--weights", "best.pt", "--include", "web"),
    "yolov5": ("export.py", "--weights", "best.pt", "--include", "yolov5"),
    "losses": ("benchmark.py", "losses"),
    "insert": ("benchmark.py", "insert", "--weights", "best.pt", "--data", "squares.yaml", "--imgsz", "64"),
    "maps": ("benchmark.py", "maps", "--weights", "best.pt", "--students", "best.pt", "--source", "sources",
             "--imgsz", "320"),
    "check": ("dataset.py", "check", "--data", "squares.yaml", "--weights", "best.pt"),
    "stats": ("dataset.py", "stats", "--data", "squares.yaml"),
    "view": ("dataset.py", "view", "--data", "squares.yaml", "--count", "0"),
    "convert": ("dataset.py", "convert", "--data", "squares.yaml", "--to", "voc", "--pictures", "copy"),
    "split": ("dataset.py", "split", "--data", "squares.yaml"),
}  # fmt: skip
# that write to `--project`, and those that make a folder at `--out`
INTO_PROJECT = ("train.py", "val.py", "detect.py", "check", "view")
INTO_OUT = ("convert", "split")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, weights, pictures and a video."""
    folder = tmp_path_factory.mktemp("stops")
    data = write_squares(folder, {"train": 12, "val": 8}, 64, 2, (20, 20))
    three = data.read_text(encoding="utf-8").replace("green]", "green, red]")  # as many as the weights have
    data.write_text(three, encoding="utf-8")
    write_weights(folder / "best.pt")
    (folder / "sources").mkdir()
    (folder / "tmp").mkdir()
    video = cv2.VideoWriter(
        str(folder / "sources" / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (320, 240)
    )
    for _ in range(500):
        video.write(np.full((240, 320, 3), 90, np.uint8))
    video.release()
    for number in range(10):
        cv2.imwrite(str(folder / "sources" / f"{number}.png"), np.full((240, 320, 3), 90, np.uint8))
    return folder


def command(name: str, place: Path) -> list[str]:
    """One of `COMMANDS` with the files and folders of a place."""
    here = {file: str(place / file) for file in ("squares.yaml", "best.pt", "sources")}
    here["clip.avi"] = str(place / "sources" / "clip.avi")
    words = [here.get(word, word) for word in COMMANDS[name]]
    if "--variants" in words or {*words[:2]} & {*INTO_PROJECT}:
        words += ["--project", str(place / "runs")]
    if words[1] in INTO_OUT:
        words += ["--out", str(place / "made" / f"{len(list((place / 'made').glob('*')))}")]
    return [sys.executable, *words]


def kill(name: str, place: Path, blow: Blow) -> Ended:
    """Kill a command, and look at how it ended."""
    print(f"{name}: {blow}")
    ended = carry_out(command(name, place), place / "tmp", blow)
    if ended.hit and not ended.outside(blow.number):
        assert "Traceback" not in ended.output, ended.output
        assert ended.status == 128 + blow.number, ended.output
    if ended.hit:
        assert ended.dying < LIMIT * slowness(), ended.output
    assert ended.orphans == []
    assert traces([place]) == []
    for made in (place / "made").glob("*"):  # a folder is there whole, or not at all
        assert (made / "data.yaml").is_file(), ended.output
    return ended


@pytest.mark.parametrize(
    ("name", "number", "share", "whole_group"),
    [
        ("train", signal.SIGTERM, 0.7, True),
        pytest.param("evolve", signal.SIGINT, 0.9, False, marks=pytest.mark.slow),
        ("val", signal.SIGINT, 0.5, True),
        ("detect", signal.SIGTERM, 0.7, False),
        ("onnx", signal.SIGTERM, 0.5, False),
        pytest.param("check", signal.SIGTERM, 0.6, False, marks=pytest.mark.slow),
        pytest.param("track", signal.SIGINT, 0.8, True, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_command(
    name: str, number: signal.Signals, share: float, whole_group: bool, place: Path
) -> None:
    kill(name, place, Blow(number, share * SECONDS * slowness(), whole_group))
    if name == "train" and list((place / "runs").rglob("last.pt")):
        resumed = run("--resume", str(newest_checkpoint(place / "runs")))
        assert resumed.returncode == 0, resumed.stderr


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", COMMANDS)
def test_signals_at_random_moments(name: str, seed: int, place: Path) -> None:
    rng = random.Random(f"{name} {seed}")
    after = rng.uniform(0, SECONDS) * slowness()
    kill(name, place, Blow(rng.choice(SIGNALS), after, rng.random() < 0.5))


# what they wait for does not come: a pipe to which nobody writes, a list that nobody ends
WAITING = {
    "a picture": ("detect.py", "--weights", "best.pt", "--source", "pipe.jpg"),
    "a video": ("detect.py", "--weights", "best.pt", "--source", "pipe.mp4"),
    "a list": ("detect.py", "--weights", "best.pt", "--source", "pipe.txt"),
    "streams": ("detect.py", "--weights", "best.pt", "--source", "pipe.streams"),
}


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("what", WAITING)
def test_waiting_without_an_end_is_ended(
    what: str, number: signal.Signals, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = {file: str(place / file) for file in ("squares.yaml", "best.pt")}
    words = list(WAITING[what])
    for pipe in (word for word in words if word.startswith("pipe")):
        if not (place / pipe).exists():
            os.mkfifo(place / pipe)
        here[pipe] = str(place / pipe)
    monkeypatch.setitem(COMMANDS, what, tuple(here.get(word, word) for word in words))
    assert kill(what, place, Blow(number, 8 * slowness(), whole_group=False)).hit
