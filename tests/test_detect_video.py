"""detect.py with --track, --save-mot and --slice, as a user runs it."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

import detect
import export
from tests.models.exporting.weights import write_weights
from utils.boxes import box_iou
from utils.errors import UserError

FRAMES = 6
SIDES = ("xmin", "ymin", "xmax", "ymax")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def clip(shared: Path, here: Path) -> str:
    """A camera that moves over a photograph of two people, 4 pixels a frame."""
    photograph = cv2.imread(str(shared / "data" / "zidane.jpg"))
    image = cv2.resize(photograph, (512, 288), interpolation=cv2.INTER_AREA)
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (480, 288))
    for number in range(FRAMES):
        writer.write(np.ascontiguousarray(image[:, 4 * number : 4 * number + 480]))
    writer.release()
    return "clip.avi"


def run(*arguments: str | Path) -> Path:
    detect.main([*map(str, arguments), "--imgsz", "320", "--exist-ok", "--project", "out"])
    return Path("out/exp")


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tracks_of_a_video(official_weights: Path, clip: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trackers")
    saved = "--save-txt", "--save-csv", "--save-conf"
    folder = run("--weights", official_weights, "--source", clip, "--track", "--save-mot", *saved)
    numbered = [row for row in table(folder) if row["Track"]]
    people = {row["Track"] for row in numbered if row["Prediction"] == "person"}
    assert people == {"1", "2"} and {row["Frame"] for row in numbered} >= {"4", "5", "6"}
    mot = [line.split(",") for line in (folder / "mot" / "clip.txt").read_text("utf-8").splitlines()]
    assert [(line[0], line[1]) for line in mot] == [(row["Frame"], row["Track"]) for row in numbered]
    for line, row in zip(mot, numbered):
        left, top, width, height = map(float, line[2:6])
        assert [left, top, left + width, top + height] == [float(row[side]) for side in SIDES]
        assert line[7:] == ["-1", "-1", "-1"] and f"{float(line[6]):.2f}" == row["Confidence"]
    last = (folder / "labels" / f"clip_{FRAMES}.txt").read_text("utf-8").splitlines()
    assert all(len(line.split()) == 7 for line in last) and {"1", "2"} <= {line.split()[6] for line in last}
    assert "; tracks: 2 persons" in capsys.readouterr().out


def test_tracking_changes_nothing_but_the_last_column(official_weights: Path, clip: str) -> None:
    pytest.importorskip("trackers")
    plain = table(run("--weights", official_weights, "--source", clip, "--save-csv"))
    tracked = table(run("--weights", official_weights, "--source", clip, "--save-csv", "--track"))
    assert "Track" not in plain[0]
    assert plain == [{key: value for key, value in row.items() if key != "Track"} for row in tracked]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--save-mot"], "--save-mot saves what --track finds; add --track"),
        (["--track", "--source", "a.png"], "'a.png' is a picture; make a video of frames first"),
        (["--overlap", "0.5"], "--overlap is that of the tiles of --slice; add --slice"),
    ],
)
def test_flags_that_do_not_go_together(flags: list[str], complaint: str, here: Path) -> None:
    cv2.imwrite("a.png", np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(UserError, match=complaint):
        run("--source", "a.png", *flags)
    assert not (here / "out").exists()


def test_slicing_finds_what_is_too_small_for_the_whole(
    official_weights: Path, shared: Path, here: Path
) -> None:
    # two people on a photograph, in the corner of a picture of six times its width
    photograph = cv2.resize(cv2.imread(str(shared / "data" / "zidane.jpg")), (160, 90))
    canvas = np.full((160, 960, 3), 114, np.uint8)
    canvas[-90:, -160:] = photograph
    cv2.imwrite("large.png", canvas)
    cv2.imwrite("small.png", photograph)
    found = {}
    for name, flags in {"large": [], "sliced": ["--slice", "160"], "small": []}.items():
        source = "small.png" if name == "small" else "large.png"
        rows = table(
            run("--weights", official_weights, "--source", source, "--save-csv", "--classes", "0", *flags)
        )
        found[name] = np.array([[float(row[side]) for side in SIDES] for row in rows]).reshape(-1, 4)
    expected = found["small"] + np.array([800, 70, 800, 70])
    assert len(expected) == 2 and (box_iou(expected, found["sliced"]).max(axis=1) > 0.7).all()
    assert len(found["large"]) < 2
    assert cv2.imread("out/exp/large.png").shape == (160, 960, 3)


def test_slice_with_an_export_of_one_fixed_size(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its tiles are brought to that size, which is said when --imgsz asks for another one."""
    weights = write_weights(here / "best.pt")
    export.main(["--weights", str(weights), "--imgsz", "64", "--include", "torchscript"])
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    cv2.imwrite("square.png", noise)
    flags = ("--source", "square.png", "--slice", "80", "--imgsz", "64", "--save-csv", "--conf-thres", "0.5")
    rows = {}
    for file in (weights, weights.with_suffix(".torchscript")):
        detect.main(
            ["--weights", str(file), *flags, "--nosave", "--name", file.suffix[1:], "--project", "out"]
        )
        rows[file.suffix] = table(Path("out") / file.suffix[1:])
    assert len(rows[".pt"]) > 4 and rows[".torchscript"] == rows[".pt"]
    capsys.readouterr()
    fixed = str(weights.with_suffix(".torchscript"))
    detect.main(["--weights", fixed, "--source", "square.png", "--slice", "80", "--nosave"])
    said = "warning: the weights were exported for images of 64x64 and are run at that size, not at 640x640\n"
    assert said in capsys.readouterr().err
