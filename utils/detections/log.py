"""What detect.py tells while it works: a line a picture or a progress bar, and the speed at the end."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.console import Tenths, progress
from utils.data.frames import Frame, Source
from utils.detections.results import STAGES, count_classes, name_counts, speed_line
from utils.detections.writer import OutputWriter

LONG = 200  # sources with more pictures than this get a progress bar instead of a line a picture


@dataclass(frozen=True)
class DetectedFrames:
    """What was found on frames that went through the network together.

    Attributes:
        detections: per frame (n, 6): x1, y1, x2, y2 in whole pixels, confidence, class; with the number of
            the track (n, 7).
        size: (height, width) that the network saw.
        seconds: of pre-processing, inference and NMS, for all frames together.
    """

    frames: list[Frame]
    detections: list[np.ndarray]
    size: tuple[int, int]
    seconds: tuple[float, float, float]


class Advance:
    """How far a video or a long list is: a bar on a terminal, which it leaves again, or a line a tenth."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._bar: tqdm[Any] = progress((), title, total=total or None, unit=f" {unit}")
        self._tenths = Tenths(title, total, unit) if self._bar.disable else None

    def update(self, count: int) -> None:
        if self._tenths is not None:
            self._tenths.update(count)
        self._bar.update(count)

    def close(self) -> None:
        self._bar.close()


class VideoLog:
    """One video: how far it is, and at its end a line with what was in it."""

    def __init__(self, first: Frame, names: Mapping[int, str]) -> None:
        self.first, self.names = first, names
        self._frames, self._seconds = 0, 0.0
        self._found: Counter[int] = Counter()  # boxes of each class, over all frames
        self._tracks: defaultdict[int, Counter[int]] = defaultdict(Counter)  # and of each track
        # a video that does not tell its length says with each frame that it is the last one
        self._advance = Advance(Path(first.path).name, first.frames if first.frames > 1 else 0, "frames")

    def add(self, found: DetectedFrames) -> None:
        """Report frames of it."""
        self._frames += len(found.frames)
        self._seconds += found.seconds[1]
        for rows in found.detections:
            self._found.update(rows[:, 5].astype(int).tolist())
            for cls, track in rows[:, 5:].astype(int).tolist() if rows.shape[1] > 6 else ():
                if track > 0:
                    self._tracks[track][cls] += 1
        self._advance.update(len(found.frames))

    def close(self, size: tuple[int, int]) -> None:
        """Say what was found; `size` is the (height, width) that the network saw."""
        self._advance.close()
        first = self.first
        place = f"video {first.index + 1}" + (f"/{first.count}" if first.count else "")
        told = f"{self._frames} frames at {size[0]}x{size[1]}; boxes: {name_counts(self._found, self.names)}"
        if self._tracks:
            objects = Counter(classes.most_common(1)[0][0] for classes in self._tracks.values())
            told += f"; tracks: {name_counts(objects, self.names)}"
        milliseconds = self._seconds / self._frames * 1e3
        print(f"{place} {first.path}: {told}; {milliseconds:.1f}ms a frame", flush=True)


class DetectionLog:
    """Counts pictures and times, and reports them on stdout; a bar goes to stderr."""

    def __init__(
        self, source: Source, names: Mapping[int, str], channels: int, used: Callable[[], str]
    ) -> None:
        """
        Args:
            channels: of the pictures that the network sees.
            used: says at the end of which source the pictures are, and with what they were looked at.
        """
        self.names, self.channels, self.used = names, channels, used
        self.pictures = 0
        self._start = time.perf_counter()
        self._seconds = np.zeros(len(STAGES))
        self._size = (0, 0)
        self._video: VideoLog | None = None
        self._list: Advance | None = None
        if source.length is not None and source.length > LONG:
            self._list = Advance("detecting", source.length, "images")

    def add(self, found: DetectedFrames) -> None:
        """Report a group of frames."""
        first = found.frames[0]
        if self._video is not None and first.index != self._video.first.index:
            self._end_video()
        self.pictures += len(found.frames)
        self._seconds += found.seconds
        self._size = found.size
        if first.mode == "video":
            self._video = self._video or VideoLog(first, self.names)
            self._video.add(found)
        elif self._list is not None:
            self._list.update(len(found.frames))
        else:
            self._print(found)

    def _print(self, found: DetectedFrames) -> None:
        """A line a picture."""
        height, width = found.size
        milliseconds = found.seconds[1] / len(found.frames) * 1e3
        for frame, detections in zip(found.frames, found.detections):
            place = f"{frame.mode} {frame.index + 1}" + (f"/{frame.count}" if frame.count else "")
            number = f" ({frame.number + 1})" if frame.mode != "image" else ""
            shown = count_classes(detections[:, 5].tolist(), self.names)
            print(f"{place}{number} {frame.path}: {height}x{width} {shown}, {milliseconds:.1f}ms")

    def _end_video(self) -> None:
        if self._video is not None:
            video, self._video = self._video, None
            video.close(self._size)

    def close(self, writer: OutputWriter | None) -> None:
        """Print the speed, and where the writer, if any, has left the results."""
        self._end_video()
        if self._list is not None:
            self._list.close()
        if not self.pictures:
            return
        print(speed_line(self._seconds / self.pictures * 1e3, (1, self.channels, *self._size)))
        elapsed = time.perf_counter() - self._start  # several pictures may be looked at side by side
        print(f"{self.pictures} images {self.used()} in {elapsed:.1f} s")
        if writer is not None:
            part = f" of {writer.complete} of {self.pictures} images"
            counted = f", {writer.label_files} label files in {writer.folder / 'labels'}"
            print(
                f"Results{part if writer.complete < self.pictures else ''} saved to {writer.folder}"
                f"{counted if writer.options.labels else ''}"
            )
