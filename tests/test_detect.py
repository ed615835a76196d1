"""detect.py as a user runs it: most runs in this process, a few as a whole command."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tqdm import tqdm

import detect
from utils.errors import UserError
from utils.files import ROOT

Row = list[float]  # class, xc, yc, w, h normalised, confidence


def command(*arguments: str | Path, cwd: Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "detect.py", *map(str, arguments)],
        cwd=cwd, input=stdin, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pictures(shared: Path, here: Path) -> Path:
    folder = here / "pictures"
    folder.mkdir()
    for source in (shared / "data" / "bus.jpg", shared / "data" / "zidane.jpg"):
        image = cv2.imread(str(source))
        cv2.imwrite(
            str(folder / source.name), cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
        )
    return folder


def run(*arguments: str | Path) -> None:
    detect.main([*map(str, arguments)])


def read_labels(folder: Path) -> dict[str, list[Row]]:
    return {
        p.stem: [[float(v) for v in line.split()] for line in p.read_text(encoding="utf-8").splitlines()]
        for p in folder.glob("*.txt")
    }


def overlap(one: Row, other: Row) -> float:
    sides = []
    for axis in (1, 2):
        low = max(one[axis] - one[axis + 2] / 2, other[axis] - other[axis + 2] / 2)
        high = min(one[axis] + one[axis + 2] / 2, other[axis] + other[axis + 2] / 2)
        sides.append(max(high - low, 0))
    shared = sides[0] * sides[1]
    return shared / (one[3] * one[4] + other[3] * other[4] - shared)


def differing(found: list[Row], recorded: list[Row]) -> int:
    """Boxes without a partner of the same class, IoU >= 0.99 and confidence within 0.002."""
    left = list(found)
    missing = 0
    for row in recorded:
        for candidate in left:
            same = candidate[0] == row[0] and abs(candidate[5] - row[5]) <= 0.002
            if same and overlap(candidate, row) >= 0.99:
                left.remove(candidate)
                break
        else:
            missing += 1
    return missing + len(left)


def compare_with_recorded(shared: Path, weights: Path, here: Path, stems: list[str] | None) -> int:
    recorded = json.loads((shared / "golden" / "detect_val128.json").read_text(encoding="utf-8"))[
        "detections"
    ]
    folder = shared / "data" / "coco256" / "images" / "val2017"
    source = folder
    if stems is not None:
        source = here / "some.txt"
        source.write_text("".join(f"{folder / stem}.jpg\n" for stem in stems), encoding="utf-8")
        recorded = {stem: recorded.get(stem, []) for stem in stems}
    run("--weights", weights, "--source", source, "--save-txt", "--save-conf", "--nosave")
    found = read_labels(here / "runs" / "detect" / "exp" / "labels")
    assert set(found) <= set(recorded) | {p.stem for p in folder.iterdir()}
    return sum(differing(found.get(stem, []), rows) for stem, rows in recorded.items())


def test_recorded_detections_on_some_photographs(shared: Path, official_weights: Path, here: Path) -> None:
    # among them the three whose height is not a whole number after scaling, where the padding matters
    stems = ["000000000139", "000000006471", "000000007386", "000000009378", "000000012639", "000000002299"]
    assert compare_with_recorded(shared, official_weights, here, stems) == 0


@pytest.mark.slow
def test_recorded_detections_on_all_photographs(shared: Path, official_weights: Path, here: Path) -> None:
    assert compare_with_recorded(shared, official_weights, here, None) <= 2


def test_everything_that_can_be_saved(
    official_weights: Path, pictures: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--weights", official_weights, "--source", pictures, "--img", "320", "--save-txt", "--save-conf",
        "--save-csv", "--save-crop", "--project", "out", "--name", "a")  # fmt: skip
    folder = here / "out" / "a"
    assert {p.name for p in folder.iterdir()} >= {
        "bus.jpg",
        "zidane.jpg",
        "labels",
        "crops",
        "predictions.csv",
    }
    before, after = cv2.imread(str(pictures / "bus.jpg")), cv2.imread(str(folder / "bus.jpg"))
    assert before.shape == after.shape and np.abs(before.astype(int) - after).mean() > 3
    rows = read_labels(folder / "labels")["bus"]
    assert all(len(row) == 6 and min(row[1:]) >= 0 and max(row[1:]) <= 1 for row in rows)
    assert sorted(row[0] for row in rows)[-1] == 5  # a bus
    assert list((folder / "crops" / "bus").glob("bus*.jpg"))
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))[1:]
    assert sum(row[0] == "bus.jpg" for row in table) == len(rows)
    printed = capsys.readouterr().out
    assert "image 1/2 " in printed and "bus.jpg: 320x256 " in printed and "1 bus" in printed
    assert "Speed: " in printed and "2 label files" in printed


def test_run_folders_are_numbered(official_weights: Path, pictures: Path, here: Path) -> None:
    common = ["--weights", str(official_weights), "--source", str(pictures / "bus.jpg"), "--img", "64"]
    for _ in range(2):
        run(*common)
    run(*common, "--exist-ok")
    assert {p.name for p in (here / "runs" / "detect").iterdir()} == {"exp", "exp2"}
    run(*common, "--nosave", "--name", "none")
    assert not (here / "runs" / "detect" / "none").exists()


def test_corners_in_pixels_and_chosen_classes(official_weights: Path, pictures: Path, here: Path) -> None:
    run("--weights", official_weights, "--source", pictures / "bus.jpg", "--img", "320", "--classes", "5",
        "--save-txt", "--save-format", "1", "--nosave")  # fmt: skip
    ((category, x1, y1, x2, y2),) = read_labels(here / "runs" / "detect" / "exp" / "labels")["bus"]
    assert category == 5 and all(v == int(v) for v in (x1, y1, x2, y2))
    assert 0 <= x1 < x2 <= 324 and 0 <= y1 < y2 <= 432 and x2 - x1 > 200  # the picture is 324 x 432


def test_line_and_label_flags_change_the_picture(official_weights: Path, pictures: Path, here: Path) -> None:
    common = ["--weights", str(official_weights), "--source", str(pictures / "bus.jpg"), "--img", "192"]
    changes = {}
    for name, flags in {"all": [], "no_conf": ["--hide-conf"], "no_label": ["--hide-labels"],
                        "thick": ["--hide-labels", "--line-thickness", "9"]}.items():  # fmt: skip
        run(*common, *flags, "--name", name)
        changes[name] = cv2.imread(str(here / "runs" / "detect" / name / "bus.jpg")).astype(int)
    plain = cv2.imread(str(pictures / "bus.jpg")).astype(int)
    painted = {name: (np.abs(image - plain).max(axis=2) > 60).sum() for name, image in changes.items()}
    assert painted["no_label"] < painted["no_conf"] < painted["all"]
    assert painted["thick"] > 1.8 * painted["no_label"]


def test_a_video(official_weights: Path, pictures: Path, here: Path) -> None:
    image = cv2.imread(str(pictures / "zidane.jpg"))
    writer = cv2.VideoWriter(
        "clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (image.shape[1], image.shape[0])
    )
    for shift in range(6):
        writer.write(np.roll(image, shift * 4, axis=1))
    writer.release()
    run(
        "--weights",
        official_weights,
        "--source",
        "clip.avi",
        "--img",
        "320",
        "--save-txt",
        "--vid-stride",
        "2",
    )
    capture = cv2.VideoCapture(str(here / "runs" / "detect" / "exp" / "clip.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and capture.get(cv2.CAP_PROP_FPS) == 5
    labels = read_labels(here / "runs" / "detect" / "exp" / "labels")
    assert set(labels) == {"clip_1", "clip_2", "clip_3"} and all(row[0] == 0 for row in labels["clip_1"][:1])


def test_long_sources_get_a_bar(
    official_weights: Path, pictures: Path, here: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def terminal_bar(*args: Any, **options: Any) -> tqdm[Any]:
        return tqdm(*args, **{**options, "disable": False, "delay": 0, "leave": True})

    monkeypatch.setattr("utils.detections.log.LONG", 1)
    monkeypatch.setattr("utils.console.tqdm", terminal_bar)
    run("--weights", official_weights, "--source", pictures, "--img", "64", "--nosave")
    output = capsys.readouterr()
    assert "2/2" in output.err and "image 1/2" not in output.out and "Speed" in output.out


def test_no_display_is_one_warning(
    official_weights: Path, pictures: Path, here: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    run("--weights", official_weights, "--source", pictures, "--img", "64", "--view-img")
    assert capsys.readouterr().err.count("--view-img") == 1
    assert (here / "runs" / "detect" / "exp" / "bus.jpg").exists()


def test_a_failing_write_ends_the_run(
    official_weights: Path, pictures: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, image: np.ndarray) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("utils.detections.writer.write_image", full)
    with pytest.raises(OSError, match="No space left"):
        run("--weights", official_weights, "--source", pictures, "--img", "64")


def test_ensemble_and_augmentation(official_weights: Path, pictures: Path, here: Path) -> None:
    run("--weights", official_weights, official_weights, "--source", pictures / "bus.jpg", "--img", "320",
        "--augment", "--save-txt", "--nosave")  # fmt: skip
    assert len(read_labels(here / "runs" / "detect" / "exp" / "labels")["bus"]) >= 3


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--source", "nowhere"], "'nowhere' not found"),
        (["--weights", "none.pt"], "none.pt"),
        (["--weights", "yolov5x.pt"], "nothing is downloaded"),
        (["--classes", "99"], "--classes 99: the network has classes 0 to 79"),
        (["--imgsz", "1", "2", "3"], "--imgsz takes"),
        (["--device", "warp"], "--device warp"),
    ],
)
def test_bad_flags(
    flags: list[str], complaint: str, official_weights: Path, pictures: Path, here: Path
) -> None:
    with pytest.raises(UserError, match=complaint):
        run("--weights", official_weights, "--source", pictures, *flags)


@pytest.mark.parametrize("flags", [["--weights", "bad.pt"], ["--classes", "80"]])
def test_a_late_fault_leaves_no_thread_behind(
    flags: list[str], official_weights: Path, pictures: Path, here: Path
) -> None:
    (here / "bad.pt").write_text("no weights", encoding="utf-8")
    threads = threading.active_count()
    with pytest.raises(UserError):
        run("--weights", official_weights, "--source", pictures, *flags)
    assert threading.active_count() == threads
    assert not (here / "runs").exists()


def test_sources_survive_a_run_into_their_own_folder(official_weights: Path, pictures: Path) -> None:
    before = {p.name: p.read_bytes() for p in pictures.iterdir()}
    with pytest.raises(UserError, match="would replace the source"):
        run("--weights", official_weights, "--source", pictures, "--project", ".", "--name", "pictures",
            "--exist-ok")  # fmt: skip
    assert {p.name: p.read_bytes() for p in pictures.iterdir()} == before


def test_a_file_that_cannot_be_read_is_counted_and_status_1(
    official_weights: Path, pictures: Path, here: Path
) -> None:
    (pictures / "broken.jpg").write_bytes(b"no picture")
    ended = command("--weights", official_weights, "--source", pictures, "--imgsz", "64", cwd=here)
    assert ended.returncode == 1
    lines = ended.stderr.splitlines()
    assert lines[-1] == "error: 1 of 3 files could not be read, or not to their end"
    assert len(list((here / "runs/detect/exp").glob("*.jpg"))) == 2


def test_without_weights_the_error_says_what_to_do(pictures: Path) -> None:
    with pytest.raises(UserError, match="train a model first, or name a file with --weights"):
        run("--source", pictures)


def test_the_command_with_paths_on_stdin(official_weights: Path, pictures: Path, here: Path) -> None:
    ended = command("--weights", official_weights, "--source", "-", "--imgsz", "320", cwd=here,
                    stdin=f"{pictures / 'zidane.jpg'}\n{pictures / 'bus.jpg'}\n")  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "image 1 " in ended.stdout and "image 2 " in ended.stdout
    assert f"Results saved to {Path('runs/detect/exp')}" in ended.stdout and ended.stderr == ""
    assert (here / "runs" / "detect" / "exp" / "zidane.jpg").exists()


def test_a_fault_is_one_line_and_status_2(here: Path) -> None:
    ended = command("--source", "nowhere.jpg", cwd=here)
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith("error: source 'nowhere.jpg' not found") and ended.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_ctrl_c_finishes_the_video(official_weights: Path, pictures: Path, here: Path) -> None:
    image = cv2.imread(str(pictures / "zidane.jpg"))
    size = (image.shape[1], image.shape[0])
    writer = cv2.VideoWriter("long.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10.0, size)
    for _ in range(1500):
        writer.write(image)
    writer.release()
    process = subprocess.Popen(
        [sys.executable, ROOT / "detect.py", "--weights", official_weights, "--source", "long.avi",
         "--imgsz", "320"],
        cwd=here, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ},
    )  # fmt: skip
    video = here / "runs" / "detect" / "exp" / "long.mp4"
    deadline = time.monotonic() + 120
    unfinished = video.with_name(".long.partial.mp4")
    while not unfinished.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)  # a few frames
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Results saved to" in printed
    capture = cv2.VideoCapture(str(video))
    count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    assert 0 < count < 1500 and capture.read()[0]
