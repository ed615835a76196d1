from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from utils.data.frames import Frame, Mode
from utils.detections.log import DetectedFrames
from utils.detections.tracking import Tracking
from utils.errors import UserError

IMAGE = np.zeros((100, 200, 3), np.uint8)


@pytest.fixture
def tracking() -> Tracking:
    pytest.importorskip("trackers")
    return Tracking()


def frame(number: int, index: int = 0, mode: Mode = "video") -> Frame:
    return Frame(IMAGE, f"{index}.mp4", mode, index, 2, number, 9, 10.0)


def row(x: float, y: float, confidence: float = 0.9, cls: int = 0) -> list[float]:
    return [x, y, x + 20, y + 20, confidence, cls]


def numbers(tracking: Tracking, frame: Frame, *rows: list[float]) -> list[int]:
    """The numbers that the rows of a frame get; the rows themselves stay as they are."""
    given = np.array(rows, np.float32).reshape(-1, 6)
    (tracked,) = tracking.follow(DetectedFrames([frame], [given], (64, 64), (0, 0, 0))).detections
    assert tracked.dtype == np.float32 and np.array_equal(tracked[:, :6], given)
    return tracked[:, 6].astype(int).tolist()


def test_numbers_follow_the_objects_whatever_the_order_of_the_rows(tracking: Tracking) -> None:
    for number in range(4):
        last = numbers(tracking, frame(number), row(10 + 3 * number, 10), row(150 - 3 * number, 60))
    assert sorted(last) == [1, 2]
    assert numbers(tracking, frame(4), row(138, 60), row(22, 10)) == last[::-1]
    assert numbers(tracking, frame(5)) == []
    assert numbers(tracking, frame(6), row(132, 60, cls=3)) == last[1:]  # classes are not looked at


def test_a_weak_box_goes_on_with_a_track_and_begins_none(tracking: Tracking) -> None:
    for number in range(4):
        (first,) = numbers(tracking, frame(number), row(10, 10))
    assert first == 1
    assert numbers(tracking, frame(4), row(10, 10, 0.3), row(150, 60, 0.3)) == [1, -1]
    assert numbers(tracking, frame(5), row(10, 10, 0.3), row(150, 60, 0.3)) == [1, -1]


def test_a_light_network_is_sure_enough(tracking: Tracking) -> None:
    """0.55 begins a track and finds it again, 0.45 begins none."""
    for number in range(4):
        found = numbers(tracking, frame(number), row(10 + 2 * number, 10, 0.55), row(150, 60, 0.45))
    assert found == [1, -1]


@pytest.mark.parametrize(("told", "used"), [(10.0, 10.0), (50.0, 50.0), (0.0, 30.0)])
def test_a_track_is_kept_for_a_time_not_for_frames(
    told: float, used: float, tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package counts in frames, by the rate it is told; a video that tells none has the usual one."""
    made, package = [], tracking._trackers
    make = package.ByteTrackTracker

    def noted(**settings: float) -> object:
        made.append(settings["frame_rate"])
        return make(**settings)

    monkeypatch.setattr(tracking, "_trackers", SimpleNamespace(ByteTrackTracker=noted))
    for index in range(2):
        numbers(tracking, Frame(IMAGE, "a.mp4", "video", index, 2, 0, 9, told), row(10, 10))
    assert made == [used, used]


def test_every_video_has_its_own_numbers(tracking: Tracking) -> None:
    for index in range(2):
        for number in range(4):
            (last,) = numbers(tracking, frame(number, index), row(10 + number, 10))
        assert last == 1


def test_streams_side_by_side(tracking: Tracking) -> None:
    for number in range(5):  # an object in the one where the other has it a frame later, somewhere else
        mine = numbers(tracking, frame(number, 0, "stream"), row(10, 10), row(60, 10))
        others = numbers(tracking, frame(number, 1, "stream"), row(150, 60))
    assert sorted(mine) == [1, 2] and others == [1]


def test_pictures_are_refused(tracking: Tracking) -> None:
    with pytest.raises(UserError, match=r"'0.mp4' is a picture; make a video"):
        numbers(tracking, frame(0, mode="image"), row(10, 10))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(UserError, match="pip install trackers"):
        Tracking()
