"""ExecuTorch: one `.pte` file; XNNPACK runs its network, its method `metadata` gives the metadata."""

from __future__ import annotations

import importlib.metadata
import json

import torch

from models.exporting.job import Job
from models.exporting.quiet import quiet
from models.runtimes.metadata import METHOD
from utils.errors import UserError
from utils.optional import require


@quiet()
@torch.no_grad()
def export(job: Job) -> None:
    """Lower the network for images of exactly the job's shape; needs the executorch made for this torch.

    Raises:
        UserError: executorch is not installed, or does not fit this torch, or cannot express the network.
    """
    require("executorch", "executorch")
    try:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
    except (ImportError, AttributeError, TypeError) as error:  # it builds on torch's inner parts
        own, reason = importlib.metadata.version("executorch"), " ".join(str(error).split())[:120]
        raise UserError(
            f"executorch {own} does not work with torch {torch.__version__} ({reason}); "
            "each release is made for one torch: executorch 1.5.1 for torch 2.14"
        ) from error
    # XNNPACK has layouts of its own and refuses images that are channels last
    program = torch.export.export(job.network, (job.image.contiguous(),))
    lowered = to_edge_transform_and_lower(
        program, partitioner=[XnnpackPartitioner()], constant_methods={METHOD: json.dumps(job.metadata)}
    )
    job.target.write_bytes(lowered.to_executorch().buffer)
