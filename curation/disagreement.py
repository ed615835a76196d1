"""Where a trained network and the labels disagree: likely faults of the labels, the likeliest first.

The three scores that matter follow ObjectLab (Tkachenko et al., 2023, arXiv:2309.00832): objects that were
overlooked, badly drawn boxes, and swapped classes. Labels that nothing detects come on top. A network has
seen the labels of its own training split, faults included; a split that it was not trained on shows more.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.detector import Detector
from utils.boxes import box_iou
from utils.console import progress
from utils.data.images import ImageError, read_image
from utils.pipeline import ordered_map, thread_pool

CONFIDENT = 0.5  # a detection that says so much is believed
TRACE = 0.05  # nothing that says less counts at all
SAME, TOUCHING = 0.5, 0.1  # overlaps (IoU) from which two boxes are of one object, and of neighbours
SUPPRESSED = 0.6  # IoU above which detections of one class are one
MOST = 2000  # suspects of a kind that are kept
MOST_DETECTIONS = 300  # of a picture


@dataclass(frozen=True, order=True)
class Suspect:
    """A label, or a place without one.

    Attributes:
        score: how likely it is a fault; comparable within its kind.
        picture: number of the picture.
        box: x1, y1, x2, y2 in pixels of the picture.
        cls: class of the label, or of the detection where there is no label.
        seen: class that the network gives.
        sure: confidence of the detection, 0 without one.
        overlap: IoU of label and detection, 0 without one of them.
        place: x1, y1, x2, y2 of the detection where it is not `box`.
    """

    score: float
    picture: int
    box: tuple[float, ...]
    cls: int
    seen: int = -1
    sure: float = 0.0
    overlap: float = 0.0
    place: tuple[float, ...] = ()


@dataclass
class Ranking:
    """The likeliest of any number of suspects."""

    count: int = 0
    _kept: list[Suspect] = field(default_factory=list)  # a heap, the least likely first

    def add(self, suspect: Suspect) -> None:
        self.count += 1
        if len(self._kept) < MOST:
            heapq.heappush(self._kept, suspect)
        else:
            heapq.heappushpop(self._kept, suspect)

    def ordered(self) -> list[Suspect]:
        return sorted(self._kept, key=lambda suspect: (-suspect.score, suspect.picture))


@dataclass
class Disagreement:
    """What was found in all pictures.

    Attributes:
        swapped: labels on which the network is sure of another class.
        overlooked: confident detections where no label is.
        misplaced: labels whose object the network sees elsewhere, or of another size.
        unseen: labels near which the network sees nothing at all.
    """

    title: str
    swapped: Ranking = field(default_factory=Ranking)
    overlooked: Ranking = field(default_factory=Ranking)
    misplaced: Ranking = field(default_factory=Ranking)
    unseen: Ranking = field(default_factory=Ranking)

    def compare(self, picture: int, labels: np.ndarray, detections: np.ndarray) -> None:
        """Add the suspects of a picture.

        Args:
            labels: (n, 5) class, x1, y1, x2, y2 in pixels.
            detections: (m, 6) x1, y1, x2, y2 in pixels, confidence, class.
        """
        overlap = box_iou(labels[:, 1:].astype(np.float64), detections[:, :4].astype(np.float64))
        confidence, seen = detections[:, 4], detections[:, 5].astype(int)
        own = labels[:, :1].astype(int) == seen[None]  # (n, m)
        agreed = own & (overlap >= SAME)
        supported = np.where(agreed, confidence, 0).max(axis=1, initial=0)  # (n,)
        free = ~agreed.any(axis=0) & (confidence >= CONFIDENT)  # (m,) sure, and no label says the same
        spent = np.zeros(len(detections), bool)
        nearest = _nearest(overlap, own)
        for row, label in enumerate(labels):
            cls, box = int(label[0]), tuple(map(float, label[1:]))
            other = free & ~own[row] & (overlap[row] >= SAME)
            elsewhere = free & (nearest == row) & (overlap[row] >= TOUCHING)
            if other.any():
                best = int(np.where(other, confidence, 0).argmax())
                sure = float(confidence[best])
                spent |= other
                if supported[row] < sure / 2:
                    score = sure - float(supported[row])
                    also = int(seen[best]), sure, float(overlap[row, best])
                    self.swapped.add(Suspect(score, picture, box, cls, *also))
            elif elsewhere.any() and not supported[row]:
                best = int(np.where(elsewhere, overlap[row], 0).argmax())
                sure, shared = float(confidence[best]), float(overlap[row, best])
                place = tuple(map(float, detections[best, :4]))
                facts = (cls, cls, sure, shared, place)
                self.misplaced.add(Suspect(sure * (1 - shared), picture, box, *facts))
            elif overlap[row].max(initial=0) < TOUCHING:
                size = ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5  # small objects are only hard to see
                self.unseen.add(Suspect(size, picture, box, cls))
        near_own = (own & (overlap >= TOUCHING)).any(axis=0)
        for column in np.flatnonzero(free & ~spent & ~near_own):
            box, sure = tuple(map(float, detections[column, :4])), float(confidence[column])
            self.overlooked.add(Suspect(sure, picture, box, int(seen[column]), int(seen[column]), sure))


def disagreements(
    detector: Detector,
    title: str,
    paths: Sequence[str],
    labels: Sequence[np.ndarray],
    imgsz: int,
    batch_size: int,
) -> Disagreement:
    """Run a network on all pictures and compare. Pictures that cannot be decoded are left out.

    Args:
        title: of the network.
        labels: per picture (n, 5) class, x1, y1, x2, y2 in pixels.
    """
    found = Disagreement(title)
    detector.conf, detector.iou, detector.max_det = TRACE, SUPPRESSED, MOST_DETECTIONS
    waiting: list[tuple[int, np.ndarray]] = []

    def look() -> None:
        if waiting:
            rows, _ = detector.detect(detector.prepare([image for _, image in waiting], imgsz))
            for (number, _), detections in zip(waiting, rows):
                found.compare(number, labels[number], detections.cpu().numpy())
            waiting.clear()

    def read(path: str) -> np.ndarray | None:
        try:
            return read_image(path, detector.channels)
        except ImageError:
            return None

    with thread_pool(os.cpu_count() or 1) as pool:
        images = ordered_map(pool, read, paths, depth=2 * batch_size)
        for number, image in enumerate(progress(images, "detecting", total=len(paths), unit=" images")):
            if image is not None:
                waiting.append((number, image))
            if len(waiting) == batch_size:
                look()
        look()
    return found


def _nearest(overlap: np.ndarray, own: np.ndarray) -> np.ndarray:
    """(m,) int: the label that each detection overlaps most among those of its class; -1 where there is none.

    Args:
        overlap: (n, m) IoU of labels and detections.
        own: (n, m) bool, whether their classes agree.
    """
    if not len(own):
        return np.full(own.shape[1], -1)
    return np.where(own.any(axis=0), np.where(own, overlap, -1).argmax(axis=0), -1)
