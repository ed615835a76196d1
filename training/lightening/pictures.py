"""Pictures without labels: where they come from, which are held out, and what the teacher sees on those."""

from __future__ import annotations

import os
import reprlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from models.yolo import DetectionModel
from utils.boxes import xyxy_to_xywh
from utils.console import LOGGER, progress, warn
from utils.data.dataset import DetectionDataset
from utils.data.images import IMAGE_SUFFIXES, ImageError, read_image
from utils.data.index import DatasetIndex, index_pictures
from utils.data.loader import Loader
from utils.data.report import Fault, LabelReport
from utils.data.sources import expand, is_stream, read_file, suffix_of
from utils.errors import UserError
from utils.evaluation.evaluate import EvaluationOptions, ImageResult, evaluate
from utils.files import atomic_write
from utils.pipeline import thread_pool
from utils.seeding import generator_for

LEAST, FEW = 4, 20  # pictures; below the first nothing can be learnt, below the second little
HELD_OUT, MOST_HELD_OUT = 0.15, 300
FEW_BOXES = 50
SAMPLE = 200  # pictures that are looked at for copies of each other
CONFIDENT = EvaluationOptions(conf_thres=0.25, iou_thres=0.45)  # as detect.py


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


def as_seen_by(
    teacher: DetectionModel, index: DatasetIndex, imgsz: int, batch_size: int, workers: int
) -> DatasetIndex:
    """The same pictures with the teacher's confident boxes as labels.

    Raises:
        UserError: it sees nothing on any of them.
    """
    seen: dict[str, np.ndarray] = {}

    def note(result: ImageResult) -> None:
        height, width = result.shape
        found = result.detections.numpy()
        boxes = xyxy_to_xywh(torch.from_numpy(found[:, :4].clip(0, [width, height, width, height])))
        normalised = boxes.numpy() / np.array([width, height, width, height], np.float32)
        seen[result.path] = np.concatenate((found[:, 5:6], normalised), axis=1).astype(np.float32)

    loader = held_loader(teacher, index, imgsz, batch_size, workers)
    device = teacher.stride.device
    evaluate(teacher.eval(), loader, device, teacher.names, CONFIDENT, on_image=note)
    gone = next((path for path in index.paths() if path not in seen), None)
    if gone is not None:
        raise UserError(f"{gone}: cannot be read any more; put it back, or take it out and start anew")
    rows = [seen[path] for path in index.paths()]
    empty = sum(not len(boxes) for boxes in rows)
    if empty == len(rows):
        known = reprlib.repr([*teacher.names.values()])
        raise UserError(
            f"the teacher sees nothing on the {len(rows)} pictures held out, at {imgsz} px and confidence "
            f"{CONFIDENT.conf_thres}; --source must show what it knows: {known}"
        )
    if empty > len(rows) / 2:
        warn(f"the teacher sees nothing on {empty} of the {len(rows)} pictures held out")
    boxes = sum(map(len, rows))
    LOGGER.info(f"held out: {len(rows)} pictures with {boxes} confident boxes of the teacher")
    if boxes < FEW_BOXES:
        warn(f"{boxes} boxes are few to measure by; agreement will be rough")
    return index.with_boxes(rows)


def held_loader(
    model: DetectionModel, index: DatasetIndex, imgsz: int, batch_size: int, workers: int
) -> Loader:
    """Validation batches of pictures for a network, each once."""
    dataset = DetectionDataset(
        index,
        imgsz,
        rect=True,
        pad=0.5,
        batch_size=batch_size,
        stride=model.multiple,
        channels=model.channels,
    )
    return Loader(dataset, workers=workers, shuffle=False)
