"""ExecuTorch: one `.pte` file; XNNPACK runs its network, its method `metadata` gives the metadata."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import warnings

import torch

from models.exporting.job import Job
from utils.errors import UserError
from utils.optional import require

METADATA = "metadata"  # name of the method that returns Job.metadata as the text of a JSON object


def export(job: Job) -> None:
    """Lower the network for images of exactly the job's shape; needs the executorch made for this torch.

    Raises:
        UserError: executorch is not installed, or does not fit this torch, or cannot express the network.
    """
    require("executorch", "executorch")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of executorch about torch and itself
        try:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower
        except (ImportError, AttributeError, TypeError) as error:  # it builds on torch's inner parts
            raise UserError(_unfit(error)) from error
        # XNNPACK has layouts of its own and refuses images that are channels last
        example = (job.image.contiguous(),)
        noise = logging.getLogger("executorch")
        level = noise.level
        noise.setLevel(logging.ERROR)
        try:
            program = torch.export.export(job.network, example)
            lowered = to_edge_transform_and_lower(
                program,
                partitioner=[XnnpackPartitioner()],
                constant_methods={METADATA: json.dumps(job.metadata)},
            ).to_executorch()
        finally:
            noise.setLevel(level)
    job.target.write_bytes(lowered.buffer)


def _unfit(error: Exception) -> str:
    own = importlib.metadata.version("executorch")
    reason = " ".join(str(error).split())[:120]
    return (
        f"executorch {own} does not work with torch {torch.__version__} ({reason}); "
        "each release is made for one torch: executorch 1.5.1 for torch 2.14"
    )
