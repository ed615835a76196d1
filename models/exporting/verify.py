"""Whether an exported file computes what the model computes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.exporting import litert, web
from models.exporting.config import ExportConfig
from models.exporting.network import Predictions
from models.exporting.nms import WithSuppression
from models.runtimes.opening import load_backend
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.errors import UserError

TOLERANCE = 1e-4  # largest difference in fp32, as a share of the largest value
HALF_TOLERANCE = 2e-2  # fp16 has 11 bits, and a box's side is the square of what a network gives
BOX = 4


@torch.inference_mode()
def difference(path: Path, images: Tensor, model: DetectionModel, config: ExportConfig) -> float:
    """The largest difference of a file to PyTorch on (B, C, H, W) float 0–1, a share of the largest value.

    PyTorch runs the model as it was loaded: nothing folded, single precision. Boxes and scores are compared
    apart, so that scores count as much as pixels.

    Raises:
        UserError: it cannot be run, its outputs have other shapes, or the difference is not tolerable.
    """
    tolerance = HALF_TOLERANCE if config.half else TOLERANCE
    found = [output.float() for output in run_file(path, images, whole=config.raw or config.nms)]
    if config.nms:
        worst = _between_detections(found[0], WithSuppression(Predictions(model), config)(images), config)
    else:
        predictions, logits = model(images)
        maps = [level.permute(0, 1, 4, 2, 3).flatten(1, 2) for level in logits]  # (B, na * no, H, W)
        expected = maps if config.raw else [predictions]
        shapes = [[tuple(tensor.shape) for tensor in tensors] for tensors in (found, expected)]
        if shapes[0] != shapes[1]:
            raise UserError(f"gives {shapes[0]} where PyTorch gives {shapes[1]}")
        parts = (slice(None),) if config.raw else (slice(BOX), slice(BOX, None))
        pairs = [(a[..., part], b[..., part]) for a, b in zip(found, expected) for part in parts]
        worst = max(float((a - b).abs().max() / b.abs().max().clamp(min=1e-12)) for a, b in pairs)
    if not worst <= tolerance:  # NaN is not
        raise UserError(f"differs from PyTorch by {worst:.2g} of the range ({tolerance:g} allowed)")
    return worst


def run_file(path: Path, images: Tensor, whole: bool) -> Sequence[Tensor]:
    """The outputs of an exported file: all of them when `whole`, else predictions as detect.py gets them."""
    if path.suffix == ".tflite":
        return [litert.run(path, images)]
    backend = load_backend(web.network_of(path) if path.name.endswith(web.SUFFIX) else path)
    return backend.run(images) if whole else [backend(images)]


def _between_detections(found: Tensor, expected: Tensor, config: ExportConfig) -> float:
    """The largest difference between rows of `WithSuppression`, (n, 7) and (m, 7).

    Each must have a partner in the same image and of the same class. Only what lies at the threshold of
    confidence, or is as good as the last one that a limit lets through, may be there on one side alone.
    """
    if not len(found) and not len(expected):
        LOGGER.warning(
            f"no detection above --conf-thres {config.conf_thres:g} on the pictures of data/images, so the "
            "comparison says only that both find nothing"
        )
    worst = 0.0
    for image in torch.cat((found, expected))[:, 0].unique():
        a, b = (rows[rows[:, 0] == image, 1:] for rows in (found, expected))
        worst = max(worst, _to_nearest(a, b, config), _to_nearest(b, a, config))
    return worst


def _to_nearest(rows: Tensor, others: Tensor, config: ExportConfig) -> float:
    """How far the (n, 6) rows of x1, y1, x2, y2, confidence, class are from their nearest others."""
    tolerance = HALF_TOLERANCE if config.half else TOLERANCE
    clear = rows[rows[:, 4] > _floor(rows, config) + tolerance]
    if not len(clear):
        return 0.0
    largest = max(float(clear[:, :4].abs().max()), 1.0)
    scale = clear.new_tensor([largest] * 4 + [1.0, tolerance / 2])  # another class is never near
    apart = ((clear[:, None] - others[None]) / scale).abs().amax(dim=2)  # (n, m)
    return float(apart.amin(dim=1).max()) if len(others) else float("inf")


def _floor(rows: Tensor, config: ExportConfig) -> Tensor:
    """(n,) confidence up to which a row of an image may be there or not.

    It is that of the threshold, or of the last row where a limit on their number cuts.
    """
    floor = torch.full_like(rows[:, 4], config.conf_thres)
    if len(rows) >= config.topk_all:
        floor = floor.clamp(min=float(rows[:, 4].min()))
    for class_id in rows[:, 5].unique() if not config.agnostic_nms else ():
        own = rows[:, 5] == class_id
        if int(own.sum()) >= config.topk_per_class:
            floor[own] = floor[own].clamp(min=float(rows[own, 4].min()))
    return floor
