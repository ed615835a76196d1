"""What detect.py says of videos and long lists, without a terminal as with one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tqdm import tqdm

from utils.data.frames import Frame, Mode
from utils.detections.log import LONG, DetectedFrames, DetectionLog

NAMES = {0: "cat", 1: "dog"}
CAT, DOG = [0, 0, 9, 9, 0.5, 0], [0, 0, 9, 9, 0.5, 1]


class Fake:
    """A source that is not read."""

    live = False

    def __init__(self, length: int | None) -> None:
        self.length = length


def log(length: int | None = None) -> DetectionLog:
    return DetectionLog(Fake(length), NAMES, 3, lambda: "of somewhere")  # type: ignore[arg-type]


def found(index: int, mode: Mode, number: int, frames: int, *rows: list[float]) -> DetectedFrames:
    frame = Frame(np.zeros((9, 9, 3), np.uint8), f"x/{index}.mp4", mode, index, 3, number, frames, 10.0)
    width = len(rows[0]) if rows else 6
    return DetectedFrames(
        [frame], [np.array(rows, np.float32).reshape(-1, width)], (64, 96), (0.1, 0.25, 0.1)
    )


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    output = capsys.readouterr()
    assert output.err == ""  # no bar where there is no terminal
    return output.out.splitlines()


def test_a_video_gets_a_line_a_tenth_and_counts_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    told = log()
    for number in range(25):
        told.add(found(0, "video", number, 25, CAT, CAT, DOG))
    told.close(None)
    *tenths, video, _, _ = lines(capsys)
    assert tenths[:3] == [
        "0.mp4: 10 %, 3 of 25 frames",
        "0.mp4: 20 %, 5 of 25 frames",
        "0.mp4: 30 %, 8 of 25 frames",
    ]
    assert len(tenths) == 10 and tenths[-1] == "0.mp4: 100 %, 25 of 25 frames"
    assert video == "video 1/3 x/0.mp4: 25 frames at 64x96; boxes: 50 cats, 25 dogs; 250.0ms a frame"


def test_pictures_and_videos_after_a_video_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    told = log()
    told.add(found(0, "video", 0, 1, CAT))
    told.add(found(1, "image", 0, 0, DOG))
    told.add(found(2, "video", 0, 1))
    told.close(None)
    assert [line.split(":")[0] for line in lines(capsys)[:3]] == [
        "video 1/3 x/0.mp4", "image 2/3 x/1.mp4", "video 3/3 x/2.mp4",
    ]  # fmt: skip


def test_a_video_that_does_not_tell_its_length(capsys: pytest.CaptureFixture[str]) -> None:
    told = log()
    for number in range(30):
        told.add(found(0, "video", number, number + 1))
    told.close(None)
    assert lines(capsys)[0].startswith("video 1/3 x/0.mp4: 30 frames at 64x96; boxes: no detections;")


def test_a_header_that_promises_too_little(capsys: pytest.CaptureFixture[str]) -> None:
    told = log()
    for number in range(30):
        told.add(found(0, "video", number, max(20, number + 1)))
    told.close(None)
    assert [line for line in lines(capsys) if "%" in line][-1] == "0.mp4: 100 %, 20 of 20 frames"


def test_tracks_are_counted_once_with_the_class_that_they_mostly_have(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = log()
    for number, cls in enumerate((0, 1, 1)):
        told.add(found(0, "video", number, 3, [*CAT, 1], [*CAT[:5], cls, 2], [*CAT, -1]))
    told.close(None)
    assert "; boxes: 7 cats, 2 dogs; tracks: 1 cat, 1 dog; " in lines(capsys)[-3]


def test_a_long_list_of_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    told = log(length=LONG + 1)
    for number in range(LONG + 1):
        told.add(found(number, "image", 0, 0, CAT))
    told.close(None)
    tenths = [line for line in lines(capsys) if line.startswith("detecting:")]
    assert len(tenths) == 10 and tenths[0] == "detecting: 10 %, 21 of 201 images"


def test_a_terminal_gets_a_bar_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def shown(*args: Any, **options: Any) -> tqdm[Any]:
        return tqdm(*args, **{**options, "disable": False, "delay": 0, "mininterval": 0})

    monkeypatch.setattr("utils.console.tqdm", shown)
    told = log()
    for number in range(10):
        told.add(found(0, "video", number, 10, CAT))
    told.close(None)
    output = capsys.readouterr()
    assert "9/10" in output.err and "%, " not in output.out and "boxes: 10 cats" in output.out
