"""From raw predictions to detections: confidence filter and non-maximum suppression.

What `export.py --nms` writes into a file is `models/exporting/nms.py`.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

from utils.boxes import xywh_to_xyxy

MAX_CANDIDATES = 30_000  # boxes of one image that enter suppression, the most confident ones


@torch.no_grad()
def non_max_suppression(
    prediction: Tensor,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    *,
    classes: Sequence[int] | None = None,
    agnostic: bool = False,
    multi_label: bool = False,
    labels: Sequence[Tensor] = (),
    max_det: int = 300,
) -> list[Tensor]:
    """Detections of each image of a batch, most confident first.

    Args:
        prediction: (B, N, 5 + nc) float, decoded: cx, cy, w, h in pixels, objectness and class scores 0–1.
        conf_thres: objectness, and objectness times class score, must exceed this.
        iou_thres: a box that overlaps a more confident one of its class by more than this is dropped.
        classes: class indices to keep; all by default.
        agnostic: let boxes of different classes suppress each other.
        multi_label: every class above the threshold makes a detection, not only the best one of a box.
        labels: per image (m, 5) class, cx, cy, w, h in pixels, taken as predictions of confidence 1.
        max_det: detections kept per image.

    Returns:
        B tensors (n, 6) float32: x1, y1, x2, y2 in pixels, confidence, class.

    Raises:
        ValueError: a threshold outside 0–1 or a prediction of another shape.
    """
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must be between 0 and 1, found {value}")
    if prediction.ndim != 3 or prediction.shape[2] < 6:
        raise ValueError(f"prediction must be (B, N, 5 + nc), found {tuple(prediction.shape)}")
    passes = prediction[..., 4] > conf_thres  # most of the N boxes end here, before anything is copied
    detections = []
    for index, (image, mask) in enumerate(zip(prediction, passes)):
        rows = image[mask].float()
        if len(labels):
            rows = torch.cat((rows, _as_predictions(labels[index], rows)))
        candidates = _candidates(rows, conf_thres, multi_label=multi_label, classes=classes)
        detections.append(suppress(candidates, iou_thres, agnostic=agnostic, max_det=max_det))
    return detections


def _as_predictions(labels: Tensor, like: Tensor) -> Tensor:
    """(m, 5) class and xywh to (m, 5 + nc) rows with objectness 1 and one class score of 1."""
    rows = like.new_zeros(len(labels), like.shape[1])
    rows[:, :4] = labels[:, 1:].to(rows)
    rows[:, 4] = 1
    rows.scatter_(1, 5 + labels[:, :1].to(rows.device, torch.long), 1)
    return rows


def _candidates(
    rows: Tensor, conf_thres: float, *, multi_label: bool, classes: Sequence[int] | None
) -> Tensor:
    """(n, 5 + nc) prediction rows to (k, 6) xyxy, confidence, class above the threshold, confident first."""
    scores = rows[:, 5:] * rows[:, 4:5]
    if multi_label:
        row, cls = (scores > conf_thres).nonzero(as_tuple=True)
        confidence = scores[row, cls]
    else:
        confidence, cls = scores.max(dim=1)
        row = (confidence > conf_thres).nonzero().squeeze(1)
        confidence, cls = confidence[row], cls[row]
    if classes is not None:
        wanted = torch.isin(cls, torch.as_tensor(list(classes), device=cls.device))
        row, confidence, cls = row[wanted], confidence[wanted], cls[wanted]
    confidence, order = confidence.sort(descending=True, stable=True)
    order = order[:MAX_CANDIDATES]
    boxes = xywh_to_xyxy(rows[row[order], :4])
    return torch.cat((boxes, confidence[:MAX_CANDIDATES, None], cls[order, None].to(boxes.dtype)), dim=1)


def suppress(candidates: Tensor, iou_thres: float, *, agnostic: bool, max_det: int) -> Tensor:
    """The survivors of (k, 6) xyxy, confidence, class in descending confidence, at most `max_det`.

    Whether a box survives depends only on more confident boxes. So the survivors of the first rows are the
    first survivors of all rows, and the long tail is looked at only while fewer than `max_det` are found.
    """
    if not len(candidates):
        return candidates
    boxes, scores = candidates[:, :4], candidates[:, 4]
    if not agnostic:
        # Classes are moved to places where they cannot meet. The step is as small as the boxes allow,
        # because float32 loses fractions of a pixel far from the origin.
        step = boxes.max() - boxes.min() + 1
        boxes = boxes + candidates[:, 5:] * step
    nms = nms_kernel()
    count = max(1024, 4 * max_det)
    while True:
        kept = nms(boxes[:count], scores[:count], iou_thres)
        if len(kept) >= max_det or count >= len(candidates):
            return candidates[kept[:max_det]]
        count *= 2


def nms_kernel() -> Callable[[Tensor, Tensor, float], Tensor]:
    """torchvision's operator `(boxes (k, 4) xyxy, scores (k,), iou) -> kept indices`, loaded on first use.

    Importing all of torchvision takes seconds and this one operator is all we need, so only its compiled
    library is loaded; where that is not found in the usual places, torchvision is imported after all.
    """
    if not hasattr(torch.ops.torchvision, "nms"):
        library = _operator_library()
        if library is not None:
            torch.ops.load_library(library)
    if not hasattr(torch.ops.torchvision, "nms"):
        import torchvision  # noqa: F401
    return torch.ops.torchvision.nms


def _operator_library() -> Path | None:
    """torchvision's compiled operators; find_spec locates the package without running it."""
    package = importlib.util.find_spec("torchvision")
    for folder in (package and package.submodule_search_locations) or ():
        for name, suffix in itertools.product(("_C_stable", "_C"), EXTENSION_SUFFIXES):
            library = Path(folder, name + suffix)
            if library.is_file():
                return library
    return None
