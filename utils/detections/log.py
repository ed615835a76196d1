"""What detect.py tells while it works: a line a picture or a progress bar, and the speed at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from utils.data.frames import Frame, Source
from utils.detections.results import STAGES, count_classes

LONG = 200  # sources with more pictures than this get a progress bar instead of a line a picture


class DetectionLog:
    """Counts pictures and times, and reports them on stdout; a bar goes to stderr."""

    def __init__(self, source: Source, names: Mapping[int, str]) -> None:
        self.names = names
        self.pictures = 0
        self._start = time.perf_counter()
        self._seconds = np.zeros(len(STAGES))
        self._size = (0, 0)
        self._bar: tqdm | None = None
        if source.length is not None and source.length > LONG:
            self._bar = tqdm(total=source.length, unit="image")

    def add(
        self,
        frames: Sequence[Frame],
        rows: Sequence[np.ndarray],
        size: tuple[int, int],
        seconds: tuple[float, float, float],
    ) -> None:
        """Report frames that were looked at together.

        Args:
            rows: per frame (n, 6) detections.
            size: (height, width) that the network saw.
            seconds: of pre-processing, inference and NMS, for all frames together.
        """
        self.pictures += len(frames)
        self._seconds += seconds
        self._size = size
        first = frames[0]
        if self._bar is None and first.mode == "video":
            self._bar = tqdm(unit="frame")
        if self._bar is not None:
            if first.mode == "video" and first.number == 0:  # the bar covers the videos opened so far
                self._bar.total = (self._bar.total or 0) + first.frames
                self._bar.set_description(Path(first.path).name)
            self._bar.update(len(frames))
            return
        for frame, found in zip(frames, rows):
            print(self._line(frame, found, size, seconds[1] / len(frames)))

    def _line(self, frame: Frame, found: np.ndarray, size: tuple[int, int], seconds: float) -> str:
        place = f"{frame.mode} {frame.index + 1}" + (f"/{frame.count}" if frame.count else "")
        number = f" ({frame.number + 1})" if frame.mode != "image" else ""
        shown = count_classes(found[:, 5].tolist(), self.names)
        return f"{place}{number} {frame.path}: {size[0]}x{size[1]} {shown}, {seconds * 1e3:.1f}ms"

    def close(self, folder: Path | None, label_files: int | None) -> None:
        """Print the speed and where the results are; `label_files` is None when none were asked for."""
        if self._bar is not None:
            self._bar.close()
        if not self.pictures:
            return
        average = self._seconds / self.pictures * 1e3
        stages = ", ".join(f"{ms:.1f}ms {stage}" for ms, stage in zip(average, STAGES))
        height, width = self._size
        print(f"Speed: {stages} per image at shape (1, 3, {height}, {width})")
        elapsed = time.perf_counter() - self._start  # several pictures may be looked at side by side
        print(f"{self.pictures} images in {elapsed:.1f} s")
        if folder is not None:
            labels = "" if label_files is None else f", {label_files} label files in {folder / 'labels'}"
            print(f"Results saved to {folder}{labels}")
