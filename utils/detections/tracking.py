"""Objects followed from frame to frame: a number for each, the same in all frames that show it.

ByteTrack (Zhang et al., ECCV 2022, arXiv:2110.06864) as the package `trackers` has it: a Kalman filter
predicts where a box goes, and boxes meet tracks by overlap, the confident ones first. It looks at boxes only,
not at classes: a track whose class changes from one frame to the next keeps its number.
"""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np

from utils.data.frames import Frame
from utils.detections.log import DetectedFrames
from utils.errors import UserError
from utils.optional import require

# supervision, of whose table of detections the trackers are made, brings PyAV from 0.30 on, whose wheels hold
# parts under the GPL; nothing here needs it.
PACKAGES = "trackers 'supervision<0.30'"
# Confidence of boxes that may begin a track; weaker ones only continue one. The package's own values, 0.7 and
# 0.6, are the paper's, for a network of 99 million parameters: a light one is seldom that sure.
SURE = 0.5
NONE = -1  # the number of a box that belongs to no track
USUAL_FPS = 30.0  # of a video that does not tell
PICTURES = (
    "--track follows objects through the frames of videos and streams, and '{}' is a picture; make a video "
    "of frames first, for example with ffmpeg -i frames/%06d.jpg frames.mp4"
)


class Tracking:
    """Numbers what is found, in the order of the frames; each video or stream has its own numbers, from 1.

    Raises:
        UserError: the package is absent.
    """

    def __init__(self) -> None:
        self._trackers = require("trackers", PACKAGES)
        self._supervision = require("supervision", PACKAGES)
        self._items: dict[int, _Item] = {}

    def follow(self, found: DetectedFrames) -> DetectedFrames:
        """The same detections, (n, 7) a frame: the last column is the track's number, or `NONE`.

        Raises:
            UserError: a frame is a picture.
        """
        return replace(found, detections=list(map(self._number, found.frames, found.detections)))

    def _number(self, frame: Frame, rows: np.ndarray) -> np.ndarray:
        if frame.mode == "image":
            raise UserError(PICTURES.format(frame.path))
        if frame.index not in self._items:
            if frame.mode == "video":  # videos come one after the other, streams side by side
                self._items.clear()
            tracker = self._trackers.ByteTrackTracker(
                frame_rate=frame.fps or USUAL_FPS,
                track_activation_threshold=SURE,
                high_conf_det_threshold=SURE,
            )
            self._items[frame.index] = _Item(tracker, self._supervision)
        return np.column_stack((rows, self._items[frame.index].numbers(rows))).astype(rows.dtype)


class _Item:
    """The tracks of one video or stream."""

    def __init__(self, tracker: Any, supervision: ModuleType) -> None:
        self._tracker, self._supervision = tracker, supervision
        self._numbers: dict[
            int, int
        ] = {}  # ours, from 1; the package counts through all trackers of a process

    def numbers(self, rows: np.ndarray) -> np.ndarray:
        """(n, 6) detections of the next frame to (n,) numbers of their tracks."""
        given = self._supervision.Detections(
            xyxy=rows[:, :4].astype(np.float32),
            confidence=rows[:, 4].astype(np.float32),
            class_id=rows[:, 5].astype(int),
            data={"row": np.arange(len(rows))},  # they come back in another order
        )
        tracked = self._tracker.update(given)
        numbers = np.full(len(rows), NONE)
        if len(tracked):
            places = tracked.data["row"].astype(int)
            numbers[places] = [self._own(int(track)) for track in tracked.tracker_id]
        return numbers

    def _own(self, track: int) -> int:
        return NONE if track < 0 else self._numbers.setdefault(track, len(self._numbers) + 1)
