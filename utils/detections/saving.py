"""What everything that saves detections shares: names that stay apart, label rows, pictures and crops."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from utils.boxes import normalize, xyxy_to_xywh
from utils.files import atomic_write, safe_name


def numbered(stem: str, first: int = 1) -> Iterator[str]:
    """`stem`, `stem_2`, `stem_3` … without end, or from number `first` on: to take the first that is free."""
    return (stem if number == 1 else f"{stem}_{number}" for number in itertools.count(first))


class NamesApart:
    """Gives names of which no two are the same file, also where upper and lower case are one."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}  # the number that is tried first: names that were taken stay so

    def take(self, stem: str) -> str:
        """`stem`, or the first of `stem_2`, `stem_3` … that has not been given."""
        number = self._next.get(stem, 1)
        for name in numbered(stem, number):
            number += 1
            if name.casefold() not in self._taken:
                break
        self._next[stem] = number
        self._taken.add(name.casefold())
        return name


def crop_path(folder: Path, name: str, stem: str, place: int, taken: set[Path]) -> Path:
    """Where the crop of a picture's detection number `place` goes.

    Args:
        name: of the class; may hold what paths may not.
        taken: paths given before, which are not given again: the second crop of `a` and the first of `a_2`
            want the same. The result is added.
    """
    paths = (folder / "crops" / safe_name(name) / f"{free}.jpg" for free in numbered(stem, place + 1))
    path = next(path for path in paths if path not in taken)
    taken.add(path)
    return path


def label_rows(
    detections: np.ndarray, shape: tuple[int, int], *, corners: bool = False, confidences: bool = False
) -> str:
    """The content of a label file: a line `class xc yc w h [confidence] [track]` for each detection.

    Args:
        detections: (n, 6) float, x1, y1, x2, y2 in pixels of the image, confidence, class; or (n, 7) with the
            number of the track, which then comes last.
        shape: (height, width) of the image, by which boxes are divided.
        corners: `x1 y1 x2 y2` in pixels instead.
    """
    boxes = detections[:, :4] if corners else normalize(xyxy_to_xywh(detections[:, :4]), shape)
    lines = []
    for box, (confidence, cls, *track) in zip(boxes.tolist(), detections[:, 4:].tolist()):
        values = [*box, confidence] if confidences else box
        words = [f"{value:g}" for value in values] + [str(int(number)) for number in track]
        lines.append(f"{int(cls)} {' '.join(words)}\n")
    return "".join(lines)


def mot_rows(frame: int, detections: np.ndarray) -> str:
    """The lines of a frame in a file of the MOT challenge: frame, id, left, top, width, height, confidence,
    and three times -1 for what it knows of the world. Pixels count from 0, frames and ids from 1.

    Args:
        frame: from 1.
        detections: (n, 7) float, x1, y1, x2, y2 in pixels, confidence, class, track; only those with a track
            are written.
    """
    return "".join(
        f"{frame},{int(track)},{left:g},{top:g},{right - left:g},{bottom - top:g},{confidence:.4f},-1,-1,-1\n"
        for left, top, right, bottom, confidence, _, track in detections.tolist()
        if track > 0
    )


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image (H, W, 3) BGR in the format that the suffix names; creates the folder.

    Raises:
        OSError: the file cannot be written, and an older one stays; OpenCV itself would say nothing.
    """
    good, data = cv2.imencode(path.suffix, np.ascontiguousarray(image))
    if not good:
        raise OSError(f"cannot encode '{path}' as {path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, durable=False) as file:
        file.write(data.tobytes())
