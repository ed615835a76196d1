"""What detect.py tells while it works: a line a picture or a progress bar, and the speed at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from utils.console import progress
from utils.data.frames import Frame, Source
from utils.detections.results import STAGES, count_classes, speed_line
from utils.detections.writer import OutputWriter

LONG = 200  # sources with more pictures than this get a progress bar instead of a line a picture


@dataclass(frozen=True)
class DetectedFrames:
    """What was found on frames that went through the network together.

    Attributes:
        detections: per frame (n, 6): x1, y1, x2, y2 in whole pixels, confidence, class.
        size: (height, width) that the network saw.
        seconds: of pre-processing, inference and NMS, for all frames together.
    """

    frames: list[Frame]
    detections: list[np.ndarray]
    size: tuple[int, int]
    seconds: tuple[float, float, float]


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
        self._bar: tqdm[Any] | None = None
        if source.length is not None and source.length > LONG:
            self._bar = progress((), "detecting", total=source.length, unit=" images", visible=True)

    def add(self, found: DetectedFrames) -> None:
        """Report a group of frames."""
        self.pictures += len(found.frames)
        self._seconds += found.seconds
        self._size = found.size
        first = found.frames[0]
        if self._bar is None and first.mode == "video":
            self._bar = progress((), "", unit=" frames", visible=True)
        if self._bar is not None:
            if first.mode == "video" and first.number == 0:  # the bar covers the videos opened so far
                self._bar.total = (self._bar.total or 0) + first.frames
                self._bar.set_description(Path(first.path).name)
            self._bar.update(len(found.frames))
            return
        height, width = found.size
        milliseconds = found.seconds[1] / len(found.frames) * 1e3
        for frame, detections in zip(found.frames, found.detections):
            place = f"{frame.mode} {frame.index + 1}" + (f"/{frame.count}" if frame.count else "")
            number = f" ({frame.number + 1})" if frame.mode != "image" else ""
            shown = count_classes(detections[:, 5].tolist(), self.names)
            print(f"{place}{number} {frame.path}: {height}x{width} {shown}, {milliseconds:.1f}ms")

    def close(self, writer: OutputWriter | None) -> None:
        """Print the speed, and where the writer, if any, has left the results."""
        if self._bar is not None:
            self._bar.close()
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
