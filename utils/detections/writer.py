"""What detect.py leaves behind: annotated pictures and videos, label files, a table, and crops."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.data.frames import Frame
from utils.detections.annotate import Style, annotate, crop
from utils.detections.results import crop_path, write_image
from utils.errors import UserError
from utils.files import safe_name

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CSV_COLUMNS = ("Image Name", "Prediction", "Confidence", "xmin", "ymin", "xmax", "ymax", "Frame")
REPLACED = "results would replace the source '{}'; choose another --project or --name"
DEFAULT_FPS = 30.0  # of a saved stream whose camera does not tell


@dataclass(frozen=True)
class OutputOptions:
    """What to save; `corners` is x1 y1 x2 y2 in pixels instead of normalised xc yc w h in the label files."""

    pictures: bool = True
    labels: bool = False
    corners: bool = False
    confidences: bool = False
    table: bool = False
    crops: bool = False

    @property
    def anything(self) -> bool:
        return self.pictures or self.labels or self.table or self.crops


def spare_sources(folder: Path, options: OutputOptions, sources: Iterable[str]) -> None:
    """Refuse a run folder in which results would replace the pictures they are made from.

    Args:
        folder: the run folder, which may exist.
        sources: files (URLs are ignored); a link to one of them counts as the file itself.

    Raises:
        UserError: one of the sources lies where results go.
    """
    places = [folder] if options.pictures else []
    if options.crops and (folder / "crops").is_dir():
        places += [p for p in (folder / "crops").iterdir() if p.is_dir()]
    there = {_identity(file) for place in places if place.is_dir() for file in place.iterdir()} - {None}
    for source in sources:
        if there and "://" not in source and _identity(source) in there:
            raise UserError(REPLACED.format(source))


def _identity(file: str | Path) -> tuple[int, int] | None:
    """What tells a file from every other, whatever its names and links; None when it is gone."""
    try:
        status = os.stat(file)  # noqa: PTH116 - follows links, and takes text as well
    except OSError:
        return None
    return status.st_dev, status.st_ino


class OutputWriter:
    """Writes the results of a run, frame by frame; used by one thread at a time.

    Every item of the source has a stem of its own: a second `cat.jpg` from another folder becomes
    `cat_2`, and a `cat_7.jpg` after a `cat.mp4`, whose frames are called `cat_1`, `cat_2` …, becomes
    `cat_7_2`.

    Args:
        folder: the run folder, which exists.
        names: class index to class name.
        style: how boxes look.

    Raises (in `write`):
        OSError: a file cannot be written.
        UserError: a result would replace the picture it was made from.
    """

    def __init__(self, folder: Path, options: OutputOptions, names: Mapping[int, str], style: Style) -> None:
        self.folder, self.options, self.names, self.style = folder, options, names, style
        self.label_files = 0
        self._stems: dict[int, str] = {}
        self._pictures: set[str] = set()  # stems of pictures
        self._numbered: set[str] = set()  # those of them that end in a number, without it
        self._films: set[str] = set()  # stems of videos and streams
        self._crops: set[Path] = set()
        self._videos: dict[int, cv2.VideoWriter] = {}
        self._video_sizes: dict[int, tuple[int, int]] = {}
        if options.table:
            with self._table.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(CSV_COLUMNS)

    @property
    def _table(self) -> Path:
        return self.folder / "predictions.csv"

    def write(self, frame: Frame, rows: np.ndarray, drawn: np.ndarray | None = None) -> None:
        """Save what was found on a frame.

        Args:
            rows: (n, 6) x1, y1, x2, y2 in pixels of the frame, confidence, class.
            drawn: the annotated frame, when somebody has already drawn it.
        """
        stem = self._stem(frame)
        name = stem if frame.mode == "image" else f"{stem}_{frame.number + 1}"
        if self.options.labels:
            self._write_labels(self.folder / "labels" / f"{name}.txt", frame, rows)
        if self.options.table:
            self._write_rows(frame, rows)
        if self.options.crops:
            for place, row in enumerate(rows):
                path = crop_path(self.folder, self.names[int(row[5])], name, place, self._crops)
                write_image(_spared(path, frame), crop(frame.image, row[:4]))
        if self.options.pictures:
            picture = annotate(frame.image, rows, self.names, self.style) if drawn is None else drawn
            if frame.mode == "image":
                suffix = Path(frame.path).suffix.lower()
                path = self.folder / f"{stem}{suffix if suffix in PICTURE_SUFFIXES else '.jpg'}"
                write_image(_spared(path, frame), picture)
            else:
                self._write_video(frame, stem, picture)

    def close(self) -> None:
        """Finish the videos; a video that is not closed cannot be played."""
        for video in self._videos.values():
            video.release()
        self._videos.clear()

    def _stem(self, frame: Frame) -> str:
        """The item's name for files, given on its first frame."""
        if frame.index not in self._stems:
            place = frame.path.split("?")[0] if "://" in frame.path else frame.path
            base = Path(place).stem if frame.mode != "stream" else re.sub(r"\W+", "_", place).strip("_")
            if "://" in place:  # no file has vouched for the name
                base = safe_name(base)
            stem, number = base, 2
            while not self._claim(stem, frame.mode == "image"):
                stem, number = f"{base}_{number}", number + 1
            self._stems[frame.index] = stem
        return self._stems[frame.index]

    def _claim(self, stem: str, picture: bool) -> bool:
        """Take a stem, unless it is taken or could become the name of a video's frame, or the other way."""
        counted = re.fullmatch(r"(.*)_[1-9]\d*", stem, re.DOTALL) if picture else None
        taken = stem in self._pictures or stem in self._films
        if taken or (counted and counted[1] in self._films) or (not picture and stem in self._numbered):
            return False
        (self._pictures if picture else self._films).add(stem)
        if counted:
            self._numbered.add(counted[1])
        return True

    def _write_labels(self, path: Path, frame: Frame, rows: np.ndarray) -> None:
        if not len(rows):
            path.unlink(missing_ok=True)  # of an earlier run into the same folder
            return
        boxes = rows[:, :4].astype(np.float64)
        if not self.options.corners:
            low, high = boxes[:, :2], boxes[:, 2:]
            sides = np.array(frame.image.shape[1::-1], np.float64)
            boxes = np.concatenate(((low + high) / 2 / sides, (high - low) / sides), axis=1)
        lines = []
        for row, box in zip(rows, boxes):
            values = [int(row[5]), *box, *([row[4]] if self.options.confidences else [])]
            lines.append(" ".join(f"{value:g}" for value in values) + "\n")
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
        self.label_files += 1

    def _write_rows(self, frame: Frame, rows: np.ndarray) -> None:
        number = "" if frame.mode == "image" else frame.number + 1
        with self._table.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            for *box, confidence, category in rows.tolist():
                shown = [f"{value:.1f}" for value in box]
                found = self.names[int(category)]
                table.writerow([Path(frame.path).name, found, f"{confidence:.2f}", *shown, number])

    def _write_video(self, frame: Frame, stem: str, picture: np.ndarray) -> None:
        size = (picture.shape[1], picture.shape[0])
        if frame.index not in self._videos:
            if frame.mode == "video":
                self.close()  # videos come one after the other, streams side by side
            path = self.folder / f"{stem}.mp4"
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            video = cv2.VideoWriter(str(_spared(path, frame)), codec, frame.fps or DEFAULT_FPS, size)
            if not video.isOpened():
                raise OSError(f"cannot write video '{path}'")
            self._videos[frame.index], self._video_sizes[frame.index] = video, size
        if size != self._video_sizes[frame.index]:  # a camera came back with another resolution
            picture = cv2.resize(picture, self._video_sizes[frame.index])
        self._videos[frame.index].write(picture)


def _spared(path: Path, frame: Frame) -> Path:
    """`path`, unless it is the very file that the frame comes from (paths on standard input come late)."""
    if frame.mode != "stream" and (found := _identity(path)) and found == _identity(frame.path):
        raise UserError(REPLACED.format(frame.path))
    return path
