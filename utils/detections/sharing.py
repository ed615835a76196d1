"""What detect.py does in several processes: each looks at its share of the files, one writes what all found.

Files go around, the first to the first process and so on, and after every `ROUND` files of each process all
tell what they found. The main process then goes through it in the order of the files, so that everything it
writes and prints is what one process alone would have. Pictures and videos are drawn where they were read,
under names of their own, and get their places in the run folder then.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

import numpy as np

from utils.console import warn
from utils.data.frames import Frame
from utils.data.sources import NONE_READABLE, FileSource, Unread, incomplete, is_live
from utils.detections.annotate import Style
from utils.detections.log import DetectedFrames
from utils.detections.writer import OutputOptions, OutputWriter, spared
from utils.distributed import Process, broadcast, from_all
from utils.errors import UserError
from utils.files import temporary_folder
from utils.pipeline import JobQueue

ROUND = 64  # files of each process after which all tell; a video is a file


def check_shareable(text: str, count: int, *, shown: bool) -> None:
    """Raise a UserError when `count` processes cannot share a source, or what is found in it is `shown`."""
    if shown:
        raise UserError(f"--view-img has one window, for one of {count} processes; leave it out")
    if is_live(text):
        raise UserError(
            f"{count} processes share files, and '{text}' comes in its own time; watch it with one "
            "detect.py, without torchrun"
        )


class PartWriter(OutputWriter):
    """Draws a process's share of pictures, videos and objects into a folder, named by place in the source."""

    def _stem(self, frame: Frame) -> str:
        return str(frame.index)

    def _put_crop(self, path: Path, frame: Frame, row: np.ndarray, place: int) -> None:
        super()._put_crop(_crop_of(self.folder, frame, place), frame, row, place)


class MergingWriter(OutputWriter):
    """Puts what every process has drawn in `parts` in its place, and writes label files and tables.

    Frames have their shape alone.
    """

    def __init__(
        self, folder: Path, options: OutputOptions, names: Mapping[int, str], style: Style, parts: Path
    ) -> None:
        super().__init__(folder, options, names, style)
        self.parts = parts

    def _put_crop(self, path: Path, frame: Frame, row: np.ndarray, place: int) -> None:
        _move(_crop_of(self.parts, frame, place), path)

    def _put_picture(self, path: Path, frame: Frame, rows: np.ndarray, drawn: np.ndarray | None) -> None:
        _move(self.parts / f"{frame.index}{path.suffix}", path)

    def _put_frame(self, stem: str, frame: Frame, rows: np.ndarray, drawn: np.ndarray | None) -> None:
        if (video := self.parts / f"{frame.index}.mp4").exists():
            _move(video, spared(self.folder / f"{stem}.mp4", frame))
        self.complete += 1


def _crop_of(parts: Path, frame: Frame, place: int) -> Path:
    return parts / "crops" / f"{frame.index}-{frame.number}-{place}.jpg"


def _move(part: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(path)


class Sharing:
    """The work of all processes, as one of them sees it.

    Args:
        source: has not been begun; it gives this process's share of the files from now on.
    """

    def __init__(self, source: FileSource, process: Process) -> None:
        self.source, self.process = source, process
        self._mine: list[Unread] = []
        self._all: list[Unread] = []
        self._some = False  # whether anything could be read
        source.rank, source.world_size, source.tell = process.rank, process.world_size, self._mine.append

    @contextmanager
    def writers(
        self, folder: Path | None, options: OutputOptions, names: Mapping[int, str], style: Style
    ) -> Iterator[tuple[PartWriter | None, MergingWriter | None]]:
        """What draws this process's share, and in the main process what puts together that of all.

        Args:
            folder: the run folder, which all processes see; None when nothing is saved.
        """
        if folder is None:
            yield None, None
            return
        drawn = OutputOptions(pictures=options.pictures, crops=options.crops)
        with contextlib.ExitStack() as stack:
            main = self.process.is_main
            place = broadcast(stack.enter_context(temporary_folder(folder, ".parts-")) if main else folder)
            parts = PartWriter(place, drawn, names, style)
            yield parts, MergingWriter(folder, options, names, style, place) if main else None

    def merged(
        self, mine: Iterable[DetectedFrames], parts: PartWriter | None
    ) -> Generator[DetectedFrames, None, None]:
        """What all found, in the order of the files, without the pictures; in the main process only.

        The others have to go through it all the same.

        Args:
            mine: what this process finds in its share.
            parts: is given it first.

        Raises:
            OSError: `parts` cannot write.
        """
        size, count = ROUND * self.process.world_size, len(self.source.places)
        rounds = groupby(mine, key=lambda found: found.frames[0].index // size)
        number, group = next(rounds, (-1, iter(())))
        for now in range(-(-count // size)):
            found = []
            if number == now:
                found = _drawn(group, parts)
                number, group = next(rounds, (-1, iter(())))
            told = from_all((found, [fault for fault in self._mine if fault.index // size == now]))
            everything = [each for frames, _ in told for each in frames]
            faults = sorted((fault for _, some in told for fault in some), key=attrgetter("index"))
            self._all += faults
            self._some |= bool(everything)
            if self.process.is_main:
                for fault in faults:
                    warn(str(fault))
                yield from sorted(everything, key=lambda each: each.frames[0].index)

    def shortfall(self) -> UserError | None:
        """What a command ends with when some of the files, or all, could not be read."""
        count = len(self.source.places)
        if not self._some:
            return UserError(self._all[0].reason if count == 1 else NONE_READABLE.format(count))
        return incomplete(len(self._all), count) if self._all else None


def _drawn(found: Iterable[DetectedFrames], parts: PartWriter | None) -> list[DetectedFrames]:
    """What was found, without the pictures, which are drawn in the meantime."""
    light = []
    with JobQueue() as jobs:
        for each in found:
            for frame, rows in zip(each.frames, each.detections):
                if parts is not None:
                    jobs.submit(partial(parts.write, frame, rows))
            frames = [dataclasses.replace(frame, image=_shape_of(frame)) for frame in each.frames]
            light.append(dataclasses.replace(each, frames=frames))
    if parts is not None:
        parts.close()
    return light


def _shape_of(frame: Frame) -> np.ndarray:
    """An image of the same height and width, without channels and so without bytes."""
    return np.empty((*frame.image.shape[:2], 0), np.uint8)
