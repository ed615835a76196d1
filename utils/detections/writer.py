"""What detect.py leaves behind: annotated pictures and videos, label files, a table, and crops."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
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
from utils.detections.saving import NamesApart, crop_path, label_rows, mot_rows, write_image
from utils.errors import UserError
from utils.files import append, is_full, native_path, safe_name, write_text

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
CSV_COLUMNS = ("Image Name", "Prediction", "Confidence", "xmin", "ymin", "xmax", "ymax", "Frame")
TRACK_COLUMN = "Track"
TABLE = "predictions.csv"
REPLACED = "results would replace the source '{}'; choose another --project or --name"
DEFAULT_FPS = 30.0  # of a saved stream whose camera does not tell


@dataclass(frozen=True)
class OutputOptions:
    """What to save.

    Attributes:
        corners: x1 y1 x2 y2 in pixels instead of normalised xc yc w h in the label files.
        tracks: detections have the number of their track, a last column of label files and table.
        mot: write the tracks of each video or stream in the format of the MOT challenge too.
    """

    pictures: bool = True
    labels: bool = False
    corners: bool = False
    confidences: bool = False
    table: bool = False
    crops: bool = False
    tracks: bool = False
    mot: bool = False

    @property
    def anything(self) -> bool:
        return self.pictures or self.labels or self.table or self.crops or self.mot


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


def spared(path: Path, frame: Frame) -> Path:
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
        self.label_files = self.complete = 0
        self._stems: dict[int, str] = {}  # of each item
        self._pictures, self._moving = NamesApart(), NamesApart()
        self._series: set[str] = set()  # stems of pictures that end in a number, without it
        self._video_stems: set[str] = set()
        self._crops: set[Path] = set()
        self._videos: dict[int, VideoFile] = {}
        self._mot: set[Path] = set()  # files that have been begun
        if options.table:
            columns = (*CSV_COLUMNS, TRACK_COLUMN) if options.tracks else CSV_COLUMNS
            write_text(self.folder / TABLE, _csv([columns]).decode())

    def write(self, frame: Frame, rows: np.ndarray, drawn: np.ndarray | None = None) -> None:
        """Save what was found on a frame.

        Args:
            rows: (n, 6) x1, y1, x2, y2 in pixels of the frame, confidence, class; with tracks (n, 7), the
                number of the track last, -1 for none.
            drawn: the annotated frame, when somebody has already drawn it.
        """
        stem = self._stem(frame)
        name = stem if frame.mode == "image" else f"{stem}_{frame.number + 1}"
        if self.options.labels:
            self._write_labels(self.folder / "labels" / f"{name}.txt", frame, rows)
        if self.options.mot:
            self._write_mot(self.folder / "mot" / f"{stem}.txt", frame, rows)
        if self.options.table:
            number = "" if frame.mode == "image" else frame.number + 1
            entries = (
                (Path(frame.path).name, self.names[int(cls)], f"{confidence:.2f}",
                 *(f"{side:.1f}" for side in (x1, y1, x2, y2)), number,
                 *("" if each < 0 else int(each) for each in track))
                for x1, y1, x2, y2, confidence, cls, *track in rows.tolist()
            )  # fmt: skip
            append(self.folder / TABLE, _csv(entries))
        if self.options.crops:
            for place, row in enumerate(rows):
                path = crop_path(self.folder, self.names[int(row[5])], name, place, self._crops)
                self._put_crop(spared(path, frame), frame, row, place)
        if self.options.pictures:
            if frame.mode == "image":
                suffix = Path(frame.path).suffix.lower()
                path = self.folder / f"{stem}{suffix if suffix in PICTURE_SUFFIXES else '.jpg'}"
                self._put_picture(spared(path, frame), frame, rows, drawn)
            else:
                self._put_frame(stem, frame, rows, drawn)
                return  # it is complete when the video is
        self.complete += 1

    def _put_crop(self, path: Path, frame: Frame, row: np.ndarray, place: int) -> None:
        """Save the object of a row, the one at `place` on its frame."""
        write_image(path, crop(with_channels(frame.image, 3), row[:4].tolist()))

    def _put_picture(self, path: Path, frame: Frame, rows: np.ndarray, drawn: np.ndarray | None) -> None:
        write_image(path, self._drawn(frame, rows) if drawn is None else drawn)

    def _put_frame(self, stem: str, frame: Frame, rows: np.ndarray, drawn: np.ndarray | None) -> None:
        """Add a frame to its item's video."""
        self._write_video(frame, stem, self._drawn(frame, rows) if drawn is None else drawn)

    def _drawn(self, frame: Frame, rows: np.ndarray) -> np.ndarray:
        return annotate(with_channels(frame.image, 3), rows, self.names, self.style)

    def close(self) -> None:
        """Finish the videos; a video that is not closed cannot be played.

        Raises:
            OSError: of the first that is not what was written.
        """
        with contextlib.ExitStack() as stack:
            while self._videos:
                stack.callback(self._finish, self._videos.popitem()[1])

    def _finish(self, video: VideoFile) -> None:
        video.close()
        self.complete += video.frames

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
        write_text(path, text, durable=False)
        self.label_files += 1

    def _write_mot(self, path: Path, frame: Frame, rows: np.ndarray) -> None:
        if path not in self._mot:
            self._mot.add(path)
            path.parent.mkdir(exist_ok=True)
            write_text(path, "")  # one of an earlier run into the same folder is replaced
        append(path, mot_rows(frame.number + 1, rows).encode())

    def _write_video(self, frame: Frame, stem: str, picture: np.ndarray) -> None:
        size = (picture.shape[1], picture.shape[0])
        if frame.index not in self._videos:
            if frame.mode == "video":
                self.close()  # videos come one after the other, streams side by side
            path = spared(self.folder / f"{stem}.mp4", frame)
            self._videos[frame.index] = VideoFile(path, frame.fps or DEFAULT_FPS, size)
        self._videos[frame.index].write(picture)


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    """Lines of a table; names of files byte by byte, also where they are no text."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


class VideoFile:
    """An mp4 in the making, which gets its name when it is whole: OpenCV itself tells of no failed write.

    Args:
        path: where it is put; an older file stays until then, and when that fails.
        fps: frames a second.
        size: width and height in pixels, to which frames of another size are brought (a camera may come back
            with another resolution).

    Raises (in all methods):
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, fps: float, size: tuple[int, int]) -> None:
        self.path, self.size, self.frames = path, size, 0
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        with native_path(self._partial) as partial:
            self._video = cv2.VideoWriter(partial, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
        if not self._video.isOpened():
            with contextlib.suppress(OSError):
                self._partial.unlink()
            raise OSError(f"cannot write video '{path}'")

    def write(self, picture: np.ndarray) -> None:
        """Add a frame (H, W, 3) BGR."""
        if picture.shape[1::-1] != self.size:
            picture = cv2.resize(picture, self.size)
        self._video.write(picture)
        self.frames += 1
        if is_full(self.path.parent):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        """Put it in its place, if all frames are in it."""
        self._video.release()
        try:
            found = _frames_in(self._partial)
            if found < max(self.frames - 1, 1):  # some systems guess their number from the duration
                raise OSError(
                    f"video '{self.path}' was not saved: {found} of {self.frames} frames could be written; "
                    "is the disk full?"
                )
            self._partial.replace(self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def _frames_in(file: Path) -> int:
    """How many frames a video has; 0 when it cannot be played."""
    with native_path(file) as path:
        capture = cv2.VideoCapture(path)
    try:
        return max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1) if capture.grab() else 0
    finally:
        capture.release()
