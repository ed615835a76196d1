"""One pass of validation over a data set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.boxes import scale_boxes, xywh_to_xyxy
from utils.console import progress
from utils.data.batch import Batch
from utils.data.loader import Loader
from utils.detections.results import STAGES
from utils.device import images_at_once, memory_format, synchronise
from utils.distributed import from_all
from utils.evaluation.metrics import SUMMARY, ClassMetrics, ConfusionMatrix, DetectionMetrics
from utils.losses.detection import DetectionLoss
from utils.nms import non_max_suppression
from utils.pipeline import JobQueue


@dataclass(frozen=True)
class EvaluationOptions:
    """How detections are made and compared.

    Attributes:
        save_hybrid: labels take part in suppression as certain predictions (to label more, not to score).
    """

    conf_thres: float = 0.001
    iou_thres: float = 0.6
    max_det: int = 300
    single_cls: bool = False
    save_hybrid: bool = False


@dataclass(frozen=True)
class ImageResult:
    """Detections and labels of one image, in pixels of the source image.

    Attributes:
        shape: height and width of the source image.
        detections: (n, 6) float32: x1, y1, x2, y2, confidence, class.
        labels: (m, 5) float32: class, x1, y1, x2, y2.
    """

    path: str
    shape: tuple[int, int]
    detections: Tensor
    labels: Tensor


@dataclass
class Evaluation:
    """What a validation pass measured.

    Attributes:
        metrics: per class, of classes that have labels.
        report: plain numbers for `metrics.json`, overall and per class, and under `speed_ms_per_image` those
            of each of `STAGES`.
        losses: box, objectness and class loss a batch; zeros without a criterion.
        unreadable: images that were left out, since they could not be decoded.
    """

    metrics: ClassMetrics
    confusion: ConfusionMatrix
    report: dict[str, Any]
    losses: list[float]
    unreadable: list[str]

    @property
    def confident(self) -> bool:
        """Whether any detection was sure enough for the confusion matrix and for detect.py."""
        return bool(self.confusion.matrix[:-1].any())

    def summary(self) -> list[float]:
        """Mean precision, recall, mAP50 and mAP50-95."""
        return [self.report[key] for key in SUMMARY]

    @property
    def maps(self) -> NDArray[np.float64]:
        """(nc,) mAP50-95 of each class; the mean for classes without labels."""
        maps = np.full(len(self.metrics.names), self.report["mAP50_95"])
        maps[self.metrics.classes] = self.metrics.ap.mean(axis=1)
        return maps


@torch.inference_mode()
def evaluate(
    infer: Callable[[Tensor], Any],
    loader: Loader,
    device: torch.device,
    names: dict[int, str],
    options: EvaluationOptions | None = None,
    *,
    at_once: int | None = None,
    criterion: DetectionLoss | None = None,
    on_image: Callable[[ImageResult], None] | None = None,
    on_batch: Callable[[int, Batch, list[Tensor]], None] | None = None,
) -> Evaluation:
    """Detect on all images of a loader and compare with their labels.

    A batch goes through the network in parts, each as large as suits the device; suppression runs in a thread
    while the network works on the next one. Where a loader shares its images with other processes, each
    detects on its own, and all compare what was found by any, in the order of the images: the result is that
    of one process.

    Args:
        infer: maps (B, C, H, W) float 0–1 to predictions (B, N, 5 + nc), or to these and each level's logits.
        names: class index to name.
        at_once: images of a part, where `infer` likes one number only.
        criterion: measures the loss, from the logits.
        on_image: called once for each image that could be read, in order, of other processes too.
        on_batch: called with the number of the batch, the batch and its detections, (n, 6) each in pixels of
            the batch; of this process.
    """
    comparison = _Comparison(DetectionMetrics(names), ConfusionMatrix(len(names)), on_image)
    shared = loader.world_size > 1
    mine: list[ImageResult | str] = []
    scorer = _Scorer(options or EvaluationOptions(), mine.append if shared else comparison.add, on_batch)
    clocks = dict.fromkeys(STAGES, 0.0)
    losses = torch.zeros(3, device=device)
    with _suppression_queue() as suppression:
        for number, batch in enumerate(progress(loader, "validating")):
            count, _, height, width = batch.images.shape
            step = at_once or images_at_once(device, height, width) or count
            targets = batch.targets.to(device)
            heard = scorer.begin(number, batch, targets)
            levels = []
            for part in batch.images.split(step):
                with _timed(clocks, "pre-process", device):
                    images = part.to(device, non_blocking=True)
                    images = images.to(torch.float32, memory_format=memory_format(device)).div_(255)
                with _timed(clocks, "inference", device):
                    output = infer(images)
                predictions, logits = output if isinstance(output, (tuple, list)) else (output, None)
                levels.append(logits)
                suppression.submit(partial(heard.add, predictions, clocks))
            if criterion is not None:
                whole = levels[0] if len(levels) == 1 else [torch.cat(level) for level in zip(*levels)]
                losses += criterion(whole, targets)[1]
    if shared:
        told = from_all((list(zip(loader.places(), mine, strict=True)), clocks))
        for _, found in sorted((pair for pairs, _ in told for pair in pairs), key=itemgetter(0)):
            comparison.add(found)
        clocks = {stage: sum(each[stage] for _, each in told) for stage in STAGES}
    result = comparison.metrics.compute()
    speeds = {stage: seconds / max(result.images, 1) * 1e3 for stage, seconds in clocks.items()}
    report = result.as_dict() | {"speed_ms_per_image": speeds}
    mean = (losses / max(len(loader), 1)).tolist()
    return Evaluation(result, comparison.confusion, report, mean, comparison.unreadable)


@contextmanager
def _suppression_queue() -> Iterator[JobQueue]:
    """A thread with one thread of arithmetic, for the network has the others.

    To say so to PyTorch also says it to all threads that start later, until it is told the number again.
    """
    threads = torch.get_num_threads()
    try:
        with JobQueue(depth=2, initializer=partial(torch.set_num_threads, 1)) as queue:
            yield queue
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Comparison:
    """Compares what was found on images with their labels."""

    metrics: DetectionMetrics
    confusion: ConfusionMatrix
    on_image: Callable[[ImageResult], None] | None
    unreadable: list[str] = field(default_factory=list)

    def add(self, found: ImageResult | str) -> None:
        """Add the next image, or the path of one that could not be read."""
        if isinstance(found, str):
            self.unreadable.append(found)
            return
        detections, labels = found.detections.numpy(), found.labels.numpy()
        self.metrics.update(detections, labels)
        self.confusion.update(detections, labels)
        if self.on_image is not None:
            self.on_image(found)


@dataclass(frozen=True)
class _Scorer:
    """Turns raw predictions into detections on the source images, and hands them on in order."""

    options: EvaluationOptions
    hand_on: Callable[[ImageResult | str], None]
    on_batch: Callable[[int, Batch, list[Tensor]], None] | None

    def begin(self, number: int, batch: Batch, targets: Tensor) -> _Hearing:
        """The next batch, whose predictions come in parts; `targets` as in `Batch`, on their device."""
        height, width = batch.images.shape[2:]
        labels = targets[:, 1:] * targets.new_tensor([1, width, height, width, height])  # class, xywh pixels
        per_image = [labels[targets[:, 0] == index] for index in range(len(batch.images))]
        return _Hearing(self, number, batch, per_image)


@dataclass(frozen=True)
class _Hearing:
    """What was found so far on the images of a batch.

    Attributes:
        labels: of each image, (m, 5): class and xywh in pixels of the batch.
    """

    scorer: _Scorer
    number: int
    batch: Batch
    labels: list[Tensor]
    found: list[Tensor] = field(default_factory=list)

    @torch.inference_mode()
    def add(self, predictions: Tensor, clocks: dict[str, float]) -> None:
        """Add the predictions of the images that come next."""
        scorer, options, first = self.scorer, self.scorer.options, len(self.found)
        labels = self.labels[first : first + len(predictions)]
        with _timed(clocks, "NMS", predictions.device):
            detections = non_max_suppression(
                predictions,
                options.conf_thres,
                options.iou_thres,
                labels=labels if options.save_hybrid else (),
                multi_label=True,
                agnostic=options.single_cls,
                max_det=options.max_det,
            )
        for index, (found, truth) in enumerate(zip(detections, labels, strict=True), first):
            if options.single_cls:
                found[:, 5] = 0
            scorer.hand_on(_on_source(self.batch, index, found.cpu(), truth.cpu()))
        self.found.extend(detections)
        if scorer.on_batch is not None and len(self.found) == len(self.labels):
            scorer.on_batch(self.number, self.batch, self.found)


def _on_source(batch: Batch, index: int, found: Tensor, labels: Tensor) -> ImageResult | str:
    """An image's detections and labels where it matters, on the source; its path if it is unreadable."""
    seen = (int(batch.images.shape[2]), int(batch.images.shape[3]))
    path, shapes = batch.paths[index], batch.shapes[index]
    if shapes is None:
        return path
    source, ((vertical, horizontal), pad) = shapes
    ratio = horizontal, vertical
    detections, truth = found.clone(), labels.clone()
    detections[:, :4] = scale_boxes(found[:, :4], seen, source, ratio, pad)
    truth[:, 1:] = scale_boxes(xywh_to_xyxy(labels[:, 1:]), seen, source, ratio, pad)
    return ImageResult(path, source, detections, truth)


@contextmanager
def _timed(clocks: dict[str, float], stage: str, device: torch.device) -> Iterator[None]:
    """Add the time of a block to a stage's clock."""
    start = time.perf_counter()
    yield
    synchronise(device)
    clocks[stage] += time.perf_counter() - start
