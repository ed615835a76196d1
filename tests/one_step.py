"""A training step of each named layout in every process of a group; test_layouts.py starts it with torchrun.

    torchrun --nproc_per_node 2 tests/one_step.py RESULTS.json yolov5n yolov5n-gsconv …

Plain data-parallel training: a parameter without a gradient makes the second forward pass fail.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.layouts import images, small


def step(name: str) -> str:
    """ "ok", or what went wrong."""
    rank = dist.get_rank()
    model = small(name)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    try:
        for turn in range(2):
            outputs = parallel(images(model, 2, seed=10 * turn + rank))
            sum(level.square().mean() for level in outputs).backward()
            optimizer.step()
            optimizer.zero_grad()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    ours = torch.cat([p.detach().flatten() for p in model.parameters()])
    theirs = [torch.empty_like(ours) for _ in range(dist.get_world_size())]
    dist.all_gather(theirs, ours)
    return "ok" if torch.equal(theirs[0], theirs[1]) else "the processes have different weights"


def main() -> None:
    dist.init_process_group("gloo")
    results = {name: step(name) for name in sys.argv[2:]}
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps(results), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
