"""Jobs for exporters that are tested without `export.py`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from models.exporting.config import ExportConfig
from models.exporting.job import Job, example
from models.exporting.network import exported_network
from models.yolo import DetectionModel
from tests.layouts import small
from tests.models.exporting.weights import NAMES, lively, seeing

SIZE = (64, 96)
BOX = 4


def make_job(
    target: Path,
    layout: str = "yolov5n-gsconv",
    *,
    batch: int = 1,
    half: bool = False,
    dynamic: bool = False,
) -> Job:
    """A narrow network with three classes, for pictures of the repository at 64 x 96 pixels."""
    return job_of(seeing(lively(small(layout))), target, batch=batch, half=half, dynamic=dynamic)


def job_of(
    model: DetectionModel,
    target: Path,
    size: tuple[int, int] = SIZE,
    *,
    batch: int = 1,
    half: bool = False,
    dynamic: bool = False,
) -> Job:
    names = NAMES if model.nc == len(NAMES) else model.names
    metadata = {
        "names": json.dumps(names, ensure_ascii=False), "stride": str(model.multiple),
        "imgsz": json.dumps(list(size)), "batch": str(batch), "dynamic": json.dumps(dynamic), "variant": "x",
        "source": "0",
    }  # fmt: skip
    network = exported_network(model, None if dynamic else size)
    config = ExportConfig(dynamic=dynamic, half=half)
    return Job(network, example(size, batch), target, metadata, config)


def shares(found: Tensor, expected: Tensor) -> list[float]:
    """Largest differences of boxes and of scores, each as a share of its largest expected value."""
    assert found.shape == expected.shape
    pairs = [(found[..., part], expected[..., part]) for part in (slice(BOX), slice(BOX, None))]
    return [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]


@torch.inference_mode()
def expectation(job: Job) -> Tensor:
    """What PyTorch gives; a comparison with it means something, as it depends on what is in the picture."""
    expected = job.network(job.image)
    other = job.network(job.image.flip(3))
    assert min(shares(other, expected)) > 0.02
    return expected
