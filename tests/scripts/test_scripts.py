"""Scripts as people publish them around YOLOv5, run beside this tree as they would run beside that one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.layouts import small
from tests.models.exporting.weights import lively, seeing
from utils.checkpoints.files import write_checkpoint
from utils.files import ROOT

HERE = Path(__file__).parent
FRAMES, SIDE = 4, (96, 80)
PICTURES = sorted((ROOT / "data" / "images").glob("*.jpg"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with best.pt, a narrow network that finds much, street.avi and three pictures."""
    folder = tmp_path_factory.mktemp("scripts")
    model = seeing(lively(small("yolov5n")))
    write_checkpoint(
        folder / "best.pt",
        {
            "model": model.state_dict(), "ema": None, "yaml": model.yaml, "nc": model.nc, "epoch": 0,
            "names": {0: "face", 1: "plate", 2: "car"}, "stride": model.stride.tolist(),
        },
    )  # fmt: skip
    images = [cv2.resize(cv2.imread(str(file)), SIDE) for file in PICTURES[:FRAMES]]
    video = cv2.VideoWriter(str(folder / "street.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, SIDE)
    for image in images:
        video.write(image)
    video.release()
    (folder / "pictures").mkdir()
    for name, image in zip("abc", images):
        cv2.imwrite(str(folder / "pictures" / f"{name}.png"), image)
    return folder


def run(place: Path, script: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"YOLO_REPOSITORY": str(ROOT), "FLASK_WEIGHTS": "best.pt"}
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, HERE / script, *arguments],
        env=environment,
        cwd=place,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_count_objects_in_a_video(place: Path) -> None:
    flags = ("--weights", "best.pt", "--source", "street.avi", "--imgsz", "96", "--project", "out")
    for name in ("exp", "exp2")[: 1 if sys.platform == "win32" else 2]:
        printed = run(place, "count_in_video.py", *flags)
        assert f"{FRAMES} of {FRAMES} frames, video" in printed and "video 1/1 (4/4) street.avi: " in printed
        assert "car" in printed.splitlines()[-2] and str(Path("out") / name) in printed
        capture = cv2.VideoCapture(str(place / "out" / name / "street.avi"))
        assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
        capture.release()


def test_blur_faces(place: Path) -> None:
    printed = run(place, "blur_faces.py", "best.pt", "pictures", "blurred")
    assert "at 128 px" in printed and not printed.splitlines()[-1].startswith("0 ")
    for name in "abc":
        before, after = (
            cv2.imread(str(place / folder / f"{name}.png")) for folder in ("pictures", "blurred")
        )
        assert before.shape == after.shape and (before != after).any()


def test_crop_plates(place: Path) -> None:
    printed = run(place, "crop_plates.py", str(ROOT), "best.pt", "pictures/a.png", "pictures/b.png")
    lines = printed.splitlines()
    assert lines[0].startswith("image 1/2: 80x96 ") and "<Results of 2 images: " in printed
    assert "True" in lines and "raw (1, 567, 8)" in lines  # 3 * (144 + 36 + 9) boxes
    if sys.platform == "linux":
        assert "UserError: show() needs a screen, and there is no display; use save() or render()" in lines
    runs = place / "runs" / "detect"  # in the working directory
    assert list((runs / "exp" / "crops").rglob("*.jpg"))
    assert {file.name for file in (runs / "exp2").iterdir()} == {"a.jpg", "b.jpg"}
    rows = (place / "plates.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "xmin,ymin,xmax,ymax,confidence,class,name" and 2 <= len(rows) <= 6
    plates = list((place / "plates").rglob("*.jpg"))
    assert len(plates) == len(rows) - 1 and cv2.imread(str(plates[0])) is not None


def test_an_endpoint(place: Path) -> None:
    pytest.importorskip("flask")
    printed = run(place, "serve.py", "pictures/a.png")
    assert printed.splitlines()[-2] == "400"
    status, answer = printed.splitlines()[-1].split(" ", 1)
    found = json.loads(answer)
    assert status == "200" and found and set(found[0]) >= {"xmin", "ymax", "confidence", "class", "name"}


def test_a_tracker(place: Path) -> None:
    printed = run(place, "track.py", str(ROOT), "best.pt", "street.avi")
    objects = int(printed.split()[0])
    assert 0 < objects <= 10 * FRAMES and np.isfinite(objects)
