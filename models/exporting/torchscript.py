"""TorchScript: the traced network, with its metadata in the extra file `config.txt` as in YOLOv5."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.exporting.job import Job
from models.exporting.network import halved


def export(job: Job) -> None:
    """Trace the network and write it; a trace of a dynamic job follows the shape of its input."""
    network, image = (halved(job.network), job.image.half()) if job.half else (job.network, job.image)
    save_trace(network, image, job.target, {"config.txt": json.dumps(_config(job))})


def save_trace(network: nn.Module, image: Tensor, path: Path, extra: dict[str, str] | None = None) -> None:
    """Trace a network and write it; `extra` files, by name, go into the same archive."""
    with warnings.catch_warnings(), torch.no_grad():
        # torch's plans for TorchScript, and shapes that a trace makes constant, which is what is wanted here
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(network, image, strict=False), str(path), _extra_files=extra or {})


def _config(job: Job) -> dict[str, Any]:
    """The metadata with YOLOv5's keys `shape`, `stride` and `names` as values, not texts."""
    return {
        **job.metadata,
        "shape": list(job.image.shape),
        "stride": int(job.metadata["stride"]),
        "names": json.loads(job.metadata["names"]),
        "dynamic": job.dynamic,
    }
