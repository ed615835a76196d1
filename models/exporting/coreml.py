"""CoreML: an `.mlpackage` (ML Program, iOS 15, macOS 12): converted anywhere, run by Apple's systems only."""

from __future__ import annotations

from typing import Any

import torch

from models.exporting.job import INPUT_NAME, OUTPUT_NAME, Job
from models.exporting.quiet import quiet
from utils.errors import UserError
from utils.optional import require


@quiet()
@torch.no_grad()
def export(job: Job) -> None:
    """Convert the network for images of exactly the job's shape; `half` computes in fp16.

    Input and output stay tensors, (B, C, H, W) float32 0–1 to (B, N, 5 + nc); what the file describes is
    compared with that, as nothing can be run outside macOS.

    Raises:
        UserError: coremltools is not installed, or describes another input or output than was asked for.
    """
    tools = require("coremltools", "coremltools")
    image = job.image.contiguous()
    precision = tools.precision.FLOAT16 if job.config.half else tools.precision.FLOAT32
    model = tools.convert(
        torch.jit.trace(job.network, image, strict=False),
        inputs=[tools.TensorType(INPUT_NAME, shape=image.shape)],
        outputs=[tools.TensorType(OUTPUT_NAME)],
        convert_to="mlprogram",
        compute_precision=precision,
        skip_model_load=True,
    )
    model.user_defined_metadata.update(job.metadata)
    model.save(str(job.target))
    _check(tools.utils.load_spec(str(job.target)), tuple(image.shape), tuple(job.network(image).shape))


def _check(spec: Any, images: tuple[int, ...], predictions: tuple[int, ...]) -> None:
    """Raise a UserError unless the file takes and gives one tensor each of these shapes."""
    for kind, name, shape in (("input", INPUT_NAME, images), ("output", OUTPUT_NAME, predictions)):
        (found, *others) = getattr(spec.description, kind)
        described = tuple(found.type.multiArrayType.shape)
        # outputs of an ML Program need no shape
        if others or found.name != name or described not in (shape, () if kind == "output" else shape):
            raise UserError(f"coremltools describes {kind} {found.name} {described}, not {name} {shape}")
