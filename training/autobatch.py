"""The largest batch that fits a GPU (`--batch-size -1`). CUDA only; untested here for want of a device."""

from __future__ import annotations

import copy

import numpy as np
import torch

from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.device import autocast

FALLBACK = 16
PROBES = (1, 2, 4, 8, 16)


def largest_batch(
    model: DetectionModel,
    imgsz: int,
    device: torch.device,
    dtype: torch.dtype | None,
    fraction: float = 0.8,
    *,
    teacher: DetectionModel | None = None,
) -> int:
    """Estimate the batch size whose training step takes `fraction` of the free memory of a CUDA device.

    Memory grows linearly with the batch, so a line through a few small batches is enough. Elsewhere than on
    CUDA the answer is 16. A teacher runs beside the model, without gradients.
    """
    if device.type != "cuda":
        LOGGER.info(f"--batch-size -1 needs a CUDA device, found {device.type}: using {FALLBACK}")
        return FALLBACK
    free, total = torch.cuda.mem_get_info(device)
    used = [_step_memory(model, teacher, batch, imgsz, device, dtype) for batch in PROBES]
    slope, offset = np.polyfit(PROBES, used, deg=1)
    batch = max(int((free * fraction - offset) / slope), 1)
    LOGGER.info(f"--batch-size -1: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, using {batch}")
    return batch


def _step_memory(
    model: DetectionModel,
    teacher: DetectionModel | None,
    batch: int,
    imgsz: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> int:
    """Peak bytes of one forward and backward pass, on a copy so that batch-norm statistics stay put."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    probe, channels = copy.deepcopy(model).train(), model.channels
    with autocast(device, dtype):
        images = torch.zeros(batch, channels, imgsz, imgsz, device=device)
        outputs = probe(images)
        if teacher is not None:
            with torch.no_grad():
                teacher(images)
    sum(output.float().mean() for output in outputs).backward()
    return torch.cuda.max_memory_allocated(device) - before
