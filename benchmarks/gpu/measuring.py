"""What the checks of `benchmark.py gpu` share: what they are told, clocks, and boxes side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.detector import Detector
from models.yolo import DetectionModel
from training.optim import build_optimizer
from utils.data.spec import DataSpec
from utils.device import autocast, memory_format, synchronise
from utils.hyperparameters import Hyperparameters
from utils.losses.detection import DetectionLoss

WARMUP, STEPS = 3, 10  # passes before the clock runs, and while it does
SURE = 0.3  # confidence of a detection that both have to have; the threshold is 0.25
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}


class LeftOut(Exception):
    """A check that this machine, or the time that is left, cannot have; the reason."""


@dataclass
class Setting:
    """What the checks are told, and what they learn for those after them.

    Attributes:
        batches: images a batch, least first.
        imgsz: side of the square images of what is timed by itself.
        trained: weights; of the training in fp32 unless some were given.
        spec, val_imgsz: what these weights are validated on.
        deadline: `time.monotonic()` at which no check is begun any more.
    """

    device: torch.device
    cfg: str
    train_data: str
    spec: DataSpec
    val_imgsz: int
    batches: tuple[int, ...]
    imgsz: int
    epochs: int
    train_imgsz: int
    workers: int
    folder: Path
    deadline: float
    trained: Path | None = None
    maps: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def precisions(self) -> dict[str, torch.dtype | None]:
        """Those of training here: without CUDA there is no gradient scaling, hence no fp16."""
        return {name: dtype for name, dtype in PRECISIONS.items() if self.cuda or name != "fp16"}

    def network(self) -> DetectionModel:
        """A new network with 80 classes, random weights and no gradients so far."""
        torch.manual_seed(0)
        return DetectionModel(self.cfg).to(self.device).to(memory_format=memory_format(self.device))


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, the mean of some after those that warm up."""
    for _ in range(WARMUP):
        call()
    synchronise(device)
    started = time.perf_counter()
    for _ in range(STEPS):
        call()
    synchronise(device)
    return (time.perf_counter() - started) / STEPS


def timed_steps(
    at: Setting, model: DetectionModel, batch: int, dtype: torch.dtype | None
) -> tuple[float, int]:
    """Seconds of a training step, infinite where memory does not suffice, and its peak in bytes (on CUDA)."""
    hyp = Hyperparameters()
    criterion = DetectionLoss(
        model.head.anchors, model.nc, hyp.scaled(nl=model.head.nl, nc=model.nc, imgsz=at.imgsz)
    )
    optimizer = build_optimizer(model, "SGD", hyp, hyp.weight_decay)
    scaler = torch.amp.GradScaler(at.device.type, enabled=dtype is torch.float16)
    images = torch.rand(batch, model.channels, at.imgsz, at.imgsz, device=at.device)
    images = images.to(memory_format=memory_format(at.device))
    targets = some_targets(batch, model.nc).to(at.device)
    if at.cuda:
        torch.cuda.reset_peak_memory_stats(at.device)

    def step() -> None:
        with autocast(at.device, dtype):
            predictions = model(images)
        loss, _ = criterion(predictions, targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    try:
        seconds = timed(step, at.device)
    except torch.OutOfMemoryError:
        seconds = math.inf
    return seconds, torch.cuda.max_memory_allocated(at.device) if at.cuda else 0


def some_targets(batch: int, classes: int) -> Tensor:
    """(4 * batch, 6) float32 labels: image, class, x centre, y centre, width, height in 0–1."""
    rng = np.random.default_rng(0)
    count = 4 * batch
    places = rng.uniform(0.3, 0.7, (count, 2)), rng.uniform(0.05, 0.4, (count, 2))
    columns = (np.arange(count)[:, None] // 4, rng.integers(0, classes, (count, 1)), *places)
    return torch.from_numpy(np.concatenate(columns, axis=1).astype(np.float32))


@torch.inference_mode()
def timed_forward(at: Setting, model: Callable[[Tensor], object], batch: int, dtype: torch.dtype) -> float:
    """Seconds of a forward pass of a network in a precision, on one fixed batch."""
    images = torch.rand(batch, 3, at.imgsz, at.imgsz, device=at.device).to(dtype)
    images = images.to(memory_format=memory_format(at.device))
    return timed(lambda: model(images), at.device)


def boxes_of(
    detector: Detector, pictures: list[np.ndarray], imgsz: int, batch: int
) -> tuple[list[Tensor], float]:
    """Detections of each picture, on the CPU, and the seconds that all took after a first batch."""
    groups = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    detector.detect(detector.prepare(groups[0], imgsz))
    started = time.perf_counter()
    rows = [row for group in groups for row in detector.detect(detector.prepare(group, imgsz))[0]]
    seconds = time.perf_counter() - started
    return [row.cpu() for row in rows], seconds


def differences(expected: list[Tensor], found: list[Tensor]) -> tuple[int, float]:
    """How many detections there are more, and the largest distance in pixels between those of both.

    Every sure detection of either side is compared with the nearest of the other; one near the threshold may
    be missing there.
    """
    apart = 0.0
    for pair in zip(expected, found):
        for own, other in (pair, pair[::-1]):
            sure = own[own[:, 4] > SURE, :4]
            if len(sure) and len(other):
                far = (sure[:, None] - other[None, :, :4]).abs().amax(dim=2).amin(dim=1)
                apart = max(apart, float(far.max()))
            elif len(sure):
                apart = math.inf
    return sum(map(len, found)) - sum(map(len, expected)), apart


def gigabytes(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size else "–"
