"""TorchScript: the traced network, with its metadata in the extra file `config.txt` as in YOLOv5."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor, nn

from models.exporting.job import Job
from models.exporting.network import halved
from models.exporting.quiet import quiet
from models.runtimes.metadata import CONFIG_FILE, config_text


def export(job: Job) -> None:
    """Trace the network and write it; a trace of a dynamic job follows the shape of its input."""
    network, image = halved(job.network, job.image) if job.config.half else (job.network, job.image)
    save_trace(network, image, job.target, {CONFIG_FILE: config_text(job.metadata, tuple(job.image.shape))})


@quiet()  # of torch's plans for TorchScript, and of shapes that a trace makes constant, which is wanted here
@torch.no_grad()
def save_trace(network: nn.Module, image: Tensor, path: Path, extra: dict[str, str] | None = None) -> None:
    """Trace a network and write it; `extra` files, by name, go into the same archive."""
    buffer = io.BytesIO()  # first: torch's own writer ends the process when a disk is full
    torch.jit.save(torch.jit.trace(network, image, strict=False), buffer, _extra_files=extra or {})
    path.write_bytes(buffer.getbuffer())
