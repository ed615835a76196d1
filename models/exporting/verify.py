"""Whether an exported file computes what the model computes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.exporting import litert
from models.exporting.network import RawMaps
from models.exporting.nms import Suppression
from models.runtimes.opening import load_backend
from models.runtimes.openvino import shared_core
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.errors import UserError
from utils.nms import non_max_suppression
from utils.optional import require

TOLERANCE = 1e-4  # largest difference in fp32, as a share of the largest value
HALF_TOLERANCE = 2e-2  # fp16 has 11 bits, and a box's side is the square of what a network gives
BOX = 4


@dataclass(frozen=True)
class Expectation:
    """What PyTorch gives, with the model as it was loaded: nothing folded, single precision.

    Attributes:
        raw: maps of the head instead of predictions.
        suppression: detections instead of predictions.
        tolerance: see `TOLERANCE`.
    """

    model: DetectionModel
    raw: bool = False
    suppression: Suppression | None = None
    tolerance: float = TOLERANCE

    def difference(self, path: Path, images: Tensor) -> float:
        """Run a file on (B, 3, H, W) float 0–1 and give its largest difference, a share of the largest value.

        Boxes and scores are compared apart, so that scores count as much as pixels.

        Raises:
            UserError: it cannot be run, its outputs have other shapes, or the difference is not tolerable.
        """
        with torch.inference_mode():
            outputs = [t.float() for t in run_file(path, images, whole=self.raw or bool(self.suppression))]
            if self.suppression is not None:
                return self._compare_detections(outputs[0], images)
            expected = RawMaps(self.model)(images) if self.raw else (self.model(images)[0],)
        found = [tuple(t.shape) for t in outputs]
        wanted = [tuple(t.shape) for t in expected]
        if found != wanted:
            raise UserError(f"gives {found} where PyTorch gives {wanted}")
        pairs = list(zip(outputs, expected))
        if not self.raw:
            pairs = [
                (a[..., part], b[..., part]) for a, b in pairs for part in (slice(BOX), slice(BOX, None))
            ]
        return self._tolerable(max(_share(a, b) for a, b in pairs))

    def _tolerable(self, difference: float) -> float:
        if not difference <= self.tolerance:  # NaN is not
            raise UserError(
                f"differs from PyTorch by {difference:.2g} of the range ({self.tolerance:g} allowed)"
            )
        return difference

    def _compare_detections(self, rows: Tensor, images: Tensor) -> float:
        """The largest difference between (n, 7) detections and those of `non_max_suppression`.

        Each must have a partner in the same image and of the same class. Only what lies at the threshold of
        confidence, or is as good as the last one that a limit lets through, may be there on one side alone.
        """
        rule = self.suppression
        assert rule is not None
        expected = [self._limited(own) for own in self._survivors(images)]
        if not len(rows) and not any(len(wanted) for wanted in expected):
            LOGGER.warning(
                f"no detection above --conf-thres {rule.conf_thres:g} on the pictures of data/images, so the "
                "comparison says only that both find nothing"
            )
        worst = 0.0
        for index, wanted in enumerate(expected):
            found = rows[rows[:, 0] == index, 1:]
            worst = max(worst, self._pair(found, wanted), self._pair(wanted, found))
        return self._tolerable(worst)

    def _survivors(self, images: Tensor) -> list[Tensor]:
        rule = self.suppression
        assert rule is not None
        predictions = self.model(images)[0]
        return non_max_suppression(
            predictions,
            rule.conf_thres,
            rule.iou_thres,
            agnostic=rule.agnostic,
            max_det=predictions.shape[1],
        )

    def _limited(self, rows: Tensor) -> Tensor:
        """The (n, 6) rows of an image, most confident first, that --topk-per-class and --topk-all leave."""
        rule = self.suppression
        assert rule is not None
        if not rule.agnostic:
            same = rows[:, None, 5] == rows[None, :, 5]
            rows = rows[same.tril().sum(dim=1) <= rule.most_per_class]  # the place of a row within its class
        return rows[: rule.most]

    def _floor(self, rows: Tensor) -> Tensor:
        """(n,) confidence up to which a row may be there or not: that of the threshold, or of the last row
        where a limit on their number cuts.
        """
        rule = self.suppression
        assert rule is not None
        floor = torch.full_like(rows[:, 4], rule.conf_thres)
        if len(rows) >= rule.most:
            floor = floor.clamp(min=float(rows[:, 4].min()))
        for category in rows[:, 5].unique() if not rule.agnostic else ():
            own = rows[:, 5] == category
            if int(own.sum()) >= rule.most_per_class:
                floor[own] = floor[own].clamp(min=float(rows[own, 4].min()))
        return floor

    def _pair(self, rows: Tensor, others: Tensor) -> float:
        """How far the (n, 6) rows of x1, y1, x2, y2, confidence, class are from their nearest others."""
        clear = rows[rows[:, 4] > self._floor(rows) + self.tolerance]
        if not len(clear):
            return 0.0
        largest = max(float(clear[:, :4].abs().max()), 1.0)
        scale = clear.new_tensor([largest] * 4 + [1.0, self.tolerance / 2])  # another class is never near
        apart = ((clear[:, None] - others[None]) / scale).abs().amax(dim=2)  # (n, m)
        return float(apart.amin(dim=1).max()) if len(others) else float("inf")


def _share(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def run_file(path: Path, images: Tensor, whole: bool = False) -> Sequence[Tensor]:
    """The outputs of an exported file for (B, 3, H, W) float 0–1.

    Args:
        whole: every output as it is; otherwise predictions, through the backend that detect.py uses.
    """
    if path.suffix == ".tflite":
        return [litert.run(path, images)]
    if not whole:
        return [load_backend(path)(images)]
    if path.suffix == ".torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's plans for TorchScript
            module = torch.jit.load(str(path))
        outputs = module(images.to(next(module.parameters()).dtype))
        return [outputs] if isinstance(outputs, Tensor) else outputs
    array = images.numpy()
    if path.suffix == ".onnx":
        session = require("onnxruntime", "onnxruntime").InferenceSession(str(path))
        entry = session.get_inputs()[0]
        kind = np.float16 if "float16" in entry.type else np.float32
        return [torch.from_numpy(t) for t in session.run(None, {entry.name: array.astype(kind)})]
    (xml,) = path.glob("*.xml")
    compiled = shared_core().compile_model(str(xml), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    results = compiled([array])
    return [torch.from_numpy(np.array(results[output])) for output in compiled.outputs]
