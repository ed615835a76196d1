"""TorchScript: the traced network, with its metadata in the extra file `config.txt` as in YOLOv5."""

from __future__ import annotations

import json
import warnings
from typing import Any

import torch

from models.exporting.job import Job
from models.exporting.network import halved


def export(job: Job) -> None:
    """Trace the network and write it; a trace of a dynamic job follows the shape of its input."""
    network, image = (halved(job.network), job.image.half()) if job.half else (job.network, job.image)
    with warnings.catch_warnings(), torch.no_grad():
        # torch's plans for TorchScript, and shapes that a trace makes constant, which is what is wanted here
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, image, strict=False)
        torch.jit.save(traced, str(job.target), _extra_files={"config.txt": json.dumps(_config(job))})


def _config(job: Job) -> dict[str, Any]:
    """The metadata with YOLOv5's keys `shape`, `stride` and `names` as values, not texts."""
    return {
        **job.metadata,
        "shape": list(job.image.shape),
        "stride": int(job.metadata["stride"]),
        "names": json.loads(job.metadata["names"]),
        "dynamic": job.dynamic,
    }
