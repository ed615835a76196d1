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

from utils.data.channels import with_channels
from utils.data.frames import Frame
from utils.detections.annotate import Style, annotate, crop
from utils.detections.saving import NamesApart, crop_path, label_rows, write_image
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
    places = ["*"] * options.pictures + ["crops/*/*"] * options.crops
    there = {_identity(file) for place in places for file in folder.glob(place)} - {None}
    for source in sources:
        if there and "://" not in source and _identity(source) in there:
            raise UserError(REPLACED.format(source))


def _spared(path: Path, frame: Frame) -> Path:
    """`path`, unless it is the very file that the frame comes from (paths on standard input come late)."""
    if frame.mode != "stream" and (found := _identity(path)) and found == _identity(frame.path):
        raise UserError(REPLACED.format(frame.path))
    return path


def _identity(file: str | Path) -> tuple[int, int] | None:
    """What tells a file from every other, whatever its names and links; None when it is gone."""
    try:
        status = os.stat(file)  # noqa: PTH116 - follows links, and takes text as well
    except OSError:
        return None
    return status.st_dev, status.st_ino


class OutputWriter:
    """Writes the results of a run, frame by frame; used by one thread at a time.

    Every picture has a stem of its own, and every video: a second `cat.jpg` from another folder becomes
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
        self._stems: dict[int, str] = {}  # of each item
        self._pictures, self._moving = NamesApart(), NamesApart()
        self._series: set[str] = set()  # stems of pictures that end in a number, without it
        self._video_stems: set[str] = set()
        self._crops: set[Path] = set()
        self._videos: dict[int, tuple[cv2.VideoWriter, tuple[int, int]]] = {}  # with width and height
        if options.table:
            self._write_table([CSV_COLUMNS], "w")

    def write(self, frame: Frame, rows: np.ndarray, drawn: np.ndarray | None = None) -> None:
        """Save what was found on a frame.

        Args:
            rows: (n, 6) x1, y1, x2, y2 in pixels of the frame, confidence, class.
            drawn: the annotated frame, when somebody has already drawn it.
        """
        image = with_channels(frame.image, 3)
        stem = self._stem(frame)
        name = stem if frame.mode == "image" else f"{stem}_{frame.number + 1}"
        if self.options.labels:
            self._write_labels(self.folder / "labels" / f"{name}.txt", frame, rows)
        if self.options.table:
            number = "" if frame.mode == "image" else frame.number + 1
            self._write_table(
                (Path(frame.path).name, self.names[int(cls)], f"{confidence:.2f}",
                 *(f"{side:.1f}" for side in box), number)
                for *box, confidence, cls in rows.tolist()
            )  # fmt: skip
        if self.options.crops:
            for place, row in enumerate(rows):
                path = crop_path(self.folder, self.names[int(row[5])], name, place, self._crops)
                write_image(_spared(path, frame), crop(image, row[:4]))
        if self.options.pictures:
            picture = annotate(image, rows, self.names, self.style) if drawn is None else drawn
            if frame.mode == "image":
                suffix = Path(frame.path).suffix.lower()
                path = self.folder / f"{stem}{suffix if suffix in PICTURE_SUFFIXES else '.jpg'}"
                write_image(_spared(path, frame), picture)
            else:
                self._write_video(frame, stem, picture)

    def close(self) -> None:
        """Finish the videos; a video that is not closed cannot be played."""
        for video, _ in self._videos.values():
            video.release()
        self._videos.clear()

    def _stem(self, frame: Frame) -> str:
        """The item's name for files, given on its first frame."""
        if frame.index not in self._stems:
            place = frame.path.split("?")[0] if "://" in frame.path else frame.path
            base = Path(place).stem if frame.mode != "stream" else re.sub(r"\W+", "_", place).strip("_")
            if "://" in place:  # no file has vouched for the name
                base = safe_name(base)
            apart = self._apart_from_videos if frame.mode == "image" else self._apart_from_pictures
            self._stems[frame.index] = apart(base)
        return self._stems[frame.index]

    def _apart_from_videos(self, base: str) -> str:
        """A stem for a picture that is not the name of a frame of a video."""
        while True:
            stem = self._pictures.take(base)
            series, numbers = re.subn(r"_[1-9]\d*\Z", "", stem.casefold())
            if not numbers:
                return stem
            if series not in self._video_stems:
                self._series.add(series)
                return stem
            base = f"{stem}_2"  # whose series is another one

    def _apart_from_pictures(self, base: str) -> str:
        """A stem for a video or stream, none of whose frames has the name of a picture."""
        while True:
            stem = self._moving.take(base)
            if stem.casefold() not in self._series:
                self._video_stems.add(stem.casefold())
                return stem

    def _write_labels(self, path: Path, frame: Frame, rows: np.ndarray) -> None:
        if not len(rows):
            path.unlink(missing_ok=True)  # of an earlier run into the same folder
            return
        height, width = frame.image.shape[:2]
        options, exact = self.options, rows.astype(np.float64)
        text = label_rows(exact, (height, width), corners=options.corners, confidences=options.confidences)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        self.label_files += 1

    def _write_table(self, rows: Iterable[Iterable[object]], mode: str = "a") -> None:
        path = self.folder / "predictions.csv"
        with path.open(mode, newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows(rows)  # names of files byte by byte, also where they are no text

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
            self._videos[frame.index] = video, size
        video, opened = self._videos[frame.index]
        if size != opened:  # a camera came back with another resolution
            picture = cv2.resize(picture, opened)
        video.write(picture)
