"""Pictures without labels: where they come from, and which are held out."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.console import progress, warn
from utils.data.images import IMAGE_SUFFIXES, ImageError, read_image
from utils.data.index import DatasetIndex, index_pictures
from utils.data.report import Fault, LabelReport
from utils.data.sources import expand, is_stream, read_file, suffix_of
from utils.errors import UserError
from utils.files import atomic_write
from utils.pipeline import thread_pool
from utils.seeding import generator_for

LEAST, FEW = 4, 20  # pictures; below the first nothing can be learnt, below the second little
HELD_OUT, MOST_HELD_OUT = 0.15, 300
SAMPLE = 200  # pictures that are looked at for copies of each other


@dataclass(frozen=True)
class Pictures:
    """What is learnt from, and what is held out to measure with."""

    train: DatasetIndex
    held: DatasetIndex
    all: DatasetIndex

    def fingerprint(self) -> str:
        """Changes when pictures come, go or change their size."""
        return f"{zlib.crc32(self.all.path_bytes.tobytes() + self.all.shapes.tobytes()):08x}"


def find_pictures(text: str, folder: Callable[[], Path], vid_stride: int) -> list[str]:
    """Whole paths of the image files of a source as `detect.py` reads it.

    Args:
        folder: gives the place where frames of videos, and pictures behind URLs, are kept as files.

    Raises:
        UserError: nothing is there, or it is a stream.
    """
    if is_stream(text):
        raise UserError(f"--source {text}: pictures are looked at again and again; name files, not a stream")
    files = (file for place in expand(text) for file in _kept(place, folder, vid_stride))
    return list(dict.fromkeys(str(Path(file).absolute()) for file in files))


def open_pictures(files: Sequence[str], seed: int) -> Pictures:
    """The pictures in two parts.

    Args:
        seed: chooses which pictures are held out: 15 % of them, 300 at most.

    Raises:
        UserError: too few of them can be read, or all are alike.
    """
    index = whole_pictures(index_pictures(files))
    for fault in index.report.faults:
        warn(f"left out: {fault.file}: {fault.kind} ({fault.detail})")
    if len(index) < LEAST:
        raise UserError(f"--source: {len(index)} pictures can be read, at least {LEAST} are needed")
    different = len({zlib.crc32(Path(path).read_bytes()) for path in index.paths()[:SAMPLE]})
    if different < LEAST:
        raise UserError("--source: the pictures are all alike")
    if min(different, len(index)) < FEW:
        warn(f"{different} different pictures are few; {FEW} are a beginning, and some hundreds do well")
    order = generator_for(seed, 1).permutation(len(index))
    count = min(max(round(HELD_OUT * len(index)), 2), MOST_HELD_OUT)
    train, held = np.sort(order[count:]), np.sort(order[:count])
    return Pictures(index.subset(train), index.subset(held), index)


def write_list(file: Path, pictures: Pictures) -> None:
    """Write the paths of a run's pictures, null bytes between them, for the one who continues it."""
    with atomic_write(file) as target:
        target.write(b"\0".join(map(os.fsencode, pictures.all.paths())))


def read_list(file: Path) -> list[str]:
    """The paths that `write_list` has written.

    Raises:
        OSError: the file is gone.
    """
    return [os.fsdecode(path) for path in file.read_bytes().split(b"\0") if path]


def whole_pictures(index: DatasetIndex) -> DatasetIndex:
    """The pictures of an index that can be decoded; its scan has read their heads alone."""

    def fault_of(path: str) -> Fault | None:
        try:
            read_image(path)
        except ImageError as error:
            return Fault(f"{error.kind} image", 0, error.reason, path)
        return None

    with thread_pool(os.cpu_count()) as pool:
        jobs = pool.map(fault_of, index.paths())
        found = list(progress(jobs, "looking at pictures", total=len(index), unit=" pictures"))
    faults = [fault for fault in found if fault]
    if not faults:
        return index
    kept = index.subset(np.array([number for number, fault in enumerate(found) if not fault], np.int64))
    kept.report = LabelReport([*index.report.faults, *faults], images=len(kept))
    return kept


def _kept(place: str, folder: Callable[[], Path], vid_stride: int) -> list[str]:
    """The image files of one file or URL: itself, or the frames of it that are written into `folder`."""
    if "://" not in place and suffix_of(place) in IMAGE_SUFFIXES:
        return [place]
    stem = f"{Path(place).stem[:60]}-{zlib.crc32(place.encode(errors='surrogateescape')):08x}"
    files = []
    try:
        for frame in read_file(place, 0, 0, vid_stride):
            file = folder() / f"{stem}-{frame.number:06d}.png"
            good, data = cv2.imencode(".png", frame.image)
            if not good:
                raise UserError(f"{place}: frame {frame.number} cannot be written as PNG")
            file.parent.mkdir(exist_ok=True)
            with atomic_write(file, durable=False) as target:
                target.write(data.tobytes())
            files.append(str(file))
    except UserError as error:
        warn(f"{'read in part' if files else 'left out'}: {error}")
    return files
