"""How good detections are: matching to labels, average precision, confusion matrix.

A prediction row is x1, y1, x2, y2, confidence, class; a label row is class, x1, y1, x2, y2. Both are in
pixels of the same image. C counts the classes that have labels, T the IoU thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from utils.boxes import box_iou

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)  # the first one is that of precision, recall and curves
CONFIDENT, OVERLAPPING = 0.25, 0.45  # what a pair of the confusion matrix exceeds
GRID = np.linspace(0, 1, 1000)  # confidences, or recalls, at which curves are sampled
SMOOTHED = 50  # neighbours on each side over which the mean F1 is averaged before its best place is sought
SUMMARY = ("precision", "recall", "mAP50", "mAP50_95")  # the scores that are shown and weighed
FITNESS_WEIGHTS = (0.0, 0.0, 0.1, 0.9)  # of the scores of `SUMMARY`
EPS = 1e-16


def match_predictions(
    predictions: np.ndarray, labels: np.ndarray, thresholds: np.ndarray = IOU_THRESHOLDS
) -> np.ndarray:
    """Which predictions are right, at each IoU threshold.

    Each prediction claims the label of its class that it overlaps most. Among the claims on a label that
    reach the threshold the most confident one is right; the others are duplicates.

    Args:
        predictions: (n, 6) float, in any order.
        labels: (m, 5) float.
        thresholds: (T,) IoU values.

    Returns:
        (n, T) bool.
    """
    right = np.zeros((len(predictions), len(thresholds)), dtype=bool)
    if not len(predictions) or not len(labels):
        return right
    overlap = box_iou(predictions[:, :4], labels[:, 1:])
    overlap *= predictions[:, 5:6] == labels[:, 0]
    claimed = overlap.argmax(axis=1)
    order = np.lexsort((-predictions[:, 4], claimed))  # by label, then most confident first
    reaches = overlap[order, claimed[order], None] >= thresholds
    rank = np.cumsum(reaches, axis=0)
    starts = np.flatnonzero(np.diff(claimed[order], prepend=-1))
    claims = np.diff(starts, append=len(order))  # on each label
    earlier: np.ndarray = np.repeat(rank[starts] - reaches[starts], claims, axis=0)
    right[order] = reaches & (rank - earlier == 1)
    return right


@dataclass(frozen=True)
class ClassMetrics:
    """Detection quality of the C classes that have labels, in ascending order of `classes`.

    Attributes:
        classes: (C,) int.
        labels: (C,) int, how many of each there are.
        ap: (C, T) average precision.
        curves: `precision`, `recall` and `f1` by confidence, and `precision_by_recall`, at IoU 0.5; (C, 1000)
            each, over `GRID`.
        best: the place in `GRID` of the confidence with the best smoothed mean F1.
        names: class number to name.
        images: how many were looked at.
    """

    classes: np.ndarray
    labels: np.ndarray
    ap: np.ndarray
    curves: dict[str, np.ndarray]
    best: int
    names: dict[int, str]
    images: int

    def name(self, row: int) -> str:
        """Name of the class in `row`, its number when it has none; both when another class has that name."""
        cls = int(self.classes[row])
        name = self.names.get(cls, str(cls))
        return f"{name} ({cls})" if list(self.names.values()).count(name) > 1 else name

    def scores(self) -> dict[str, np.ndarray]:
        """(C,) precision, recall and f1 at the best confidence, and mAP50; mAP50_95 is (C, T)."""
        scores = {key: self.curves[key][:, self.best] for key in ("precision", "recall", "f1")}
        return scores | {"mAP50": self.ap[:, 0], "mAP50_95": self.ap}

    def means(self) -> dict[str, float]:
        """Means of the scores over the classes; all 0 without labels."""
        return {key: float(values.mean()) if values.size else 0.0 for key, values in self.scores().items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for json, overall and per class."""
        means, scores = self.means(), self.scores()
        classes = {
            self.name(row): {
                "class": int(cls),
                "labels": int(self.labels[row]),
                **{key: float(values[row].mean()) for key, values in scores.items()},
            }
            for row, cls in enumerate(self.classes)
        }
        return {
            "images": self.images,
            "labels": int(self.labels.sum()),
            **means,
            "fitness": fitness(*(means[key] for key in SUMMARY)),
            "confidence": float(GRID[self.best]),
            "classes": classes,
        }


def ap_per_class(
    tp: np.ndarray,
    conf: np.ndarray,
    pred_cls: np.ndarray,
    target_cls: np.ndarray,
    names: dict[int, str] | None = None,
    images: int = 0,
) -> ClassMetrics:
    """Precision, recall, F1 and average precision of each class that has labels.

    Args:
        tp: (N, T) bool, from `match_predictions`, of all images.
        conf: (N,) confidences.
        pred_cls: (N,) predicted classes.
        target_cls: (M,) classes of all labels.
        names, images: for reports.
    """
    classes, labels = np.unique(target_cls.astype(int), return_counts=True)
    order = np.lexsort((-conf, pred_cls))
    tp, conf, pred_cls = tp[order], conf[order], pred_cls[order]
    first = np.searchsorted(pred_cls, classes, side="left")
    last = np.searchsorted(pred_cls, classes, side="right")

    ap = np.zeros((len(classes), tp.shape[1]))
    precision, recall, by_recall = np.zeros((3, len(classes), len(GRID)))
    for row, (start, stop) in enumerate(zip(first, last)):
        if start == stop:
            continue
        hits = tp[start:stop].cumsum(axis=0)  # (n, T)
        reached = hits / (labels[row] + EPS)
        exact = hits / np.arange(1, stop - start + 1)[:, None]
        falling = -conf[start:stop]
        precision[row] = np.interp(-GRID, falling, exact[:, 0], left=1)  # above the first: nothing is wrong
        recall[row] = np.interp(-GRID, falling, reached[:, 0], left=0)
        ap[row], by_recall[row] = _average_precision(reached, exact)
    f1 = 2 * precision * recall / (precision + recall + EPS)
    best = int(_smooth(f1.mean(axis=0)).argmax()) if len(classes) else 0
    curves = {"precision": precision, "recall": recall, "f1": f1, "precision_by_recall": by_recall}
    return ClassMetrics(classes, labels, ap, curves, best, names or {}, images)


def _average_precision(recall: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the precision envelope over 101 recalls for each threshold, (n, T) both -> (T,).

    The second result is the envelope of the first threshold over `GRID`.
    """
    count = recall.shape[1]
    recall = np.concatenate((np.zeros((1, count)), recall, np.ones((1, count))))
    precision = np.concatenate((np.ones((1, count)), precision, np.zeros((1, count))))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.linspace(0, 1, 101)
    sampled = np.stack([np.interp(at, recall[:, t], envelope[:, t]) for t in range(count)])
    area = (sampled[:, 1:] + sampled[:, :-1]).sum(axis=1) / 2 * (at[1] - at[0])
    return area, np.interp(GRID, recall[:, 0], envelope[:, 0])


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean of a value and `SMOOTHED` neighbours on each side; the ends are continued evenly."""
    window = 2 * SMOOTHED + 1
    return np.convolve(np.pad(values, SMOOTHED, mode="edge"), np.full(window, 1 / window), mode="valid")


def fitness(precision: float, recall: float, map50: float, map50_95: float) -> float:
    """What training maximises: a tenth of mAP50 and nine tenths of mAP50-95."""
    values = (precision, recall, map50, map50_95)
    return sum(weight * value for weight, value in zip(FITNESS_WEIGHTS, values))


class DetectionMetrics:
    """Gathers detections and labels image by image, then measures them all.

    Args:
        names: class number to name.
    """

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self._right: list[np.ndarray] = []
        self._scored: list[np.ndarray] = []  # (n, 2) confidence, class
        self._labels: list[np.ndarray] = []  # (m,) classes

    def update(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Add an image: predictions (n, 6), labels (m, 5)."""
        self._right.append(match_predictions(predictions, labels))
        self._scored.append(predictions[:, 4:])
        self._labels.append(labels[:, 0])

    def compute(self) -> ClassMetrics:
        """Metrics of all images so far; classes without labels do not occur in it."""
        right = np.concatenate([np.zeros((0, len(IOU_THRESHOLDS)), dtype=bool), *self._right])
        scored = np.concatenate([np.zeros((0, 2), dtype=np.float32), *self._scored])
        labels = np.concatenate([np.zeros(0, dtype=np.float32), *self._labels])
        return ap_per_class(right, scored[:, 0], scored[:, 1], labels, self.names, len(self._labels))


class ConfusionMatrix:
    """Counts which class was predicted for which; index `nc` stands for background.

    `matrix` is (nc + 1, nc + 1) int: rows are predicted classes, columns true ones. A label that nothing was
    matched to counts in the last row, a prediction without label in the last column.
    """

    def __init__(self, nc: int) -> None:
        self.nc = nc
        self.matrix = np.zeros((nc + 1, nc + 1), dtype=np.int64)

    def update(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Add an image: predictions (n, 6), labels (m, 5). Pairs are made by overlap, whatever the class."""
        predictions = predictions[predictions[:, 4] > CONFIDENT]
        predicted, true = predictions[:, 5].astype(int), labels[:, 0].astype(int)
        overlap = box_iou(predictions[:, :4], labels[:, 1:])
        pairs = np.argwhere(overlap > OVERLAPPING)
        pairs = pairs[np.argsort(-overlap[pairs[:, 0], pairs[:, 1]], kind="stable")]
        partner = np.full(len(predicted), self.nc)
        lonely = np.ones(len(true), dtype=bool)
        free = np.ones(len(predicted), dtype=bool)
        for i, j in pairs:
            if free[i] and lonely[j]:
                partner[i] = true[j]
                free[i] = lonely[j] = False
        np.add.at(self.matrix, (predicted, partner), 1)
        np.add.at(self.matrix[self.nc], true[lonely], 1)
