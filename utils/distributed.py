"""Work of several processes under `torchrun`: who am I, and the few things that processes have to agree on.

Every function does the obvious thing in a single process, so that callers need no special case.
Tested with two gloo processes on CPU; NCCL on CUDA follows the same path but is untested here
(`benchmark.py gpu` tests it).
"""

from __future__ import annotations

import datetime
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from utils.console import warn
from utils.errors import UserError

T = TypeVar("T")
OWN_STORE = (
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"  # where 1, torchrun opens a new store whenever it starts them
)
LONGEST_WAIT = datetime.timedelta(hours=3)


@dataclass(frozen=True)
class Process:
    """This process among those that train together.

    Attributes:
        job: how `torchrun` calls the work of all of them, also after it has started them again.
        restarts: how often it has, as far as this machine knows.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    job: str = ""
    restarts: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process prints, validates and writes files."""
        return self.rank == 0


def this_process() -> Process:
    """This process as `torchrun` announces it in the environment; the only one without it."""
    told = os.environ
    job, restarts = told.get("TORCHELASTIC_RUN_ID", ""), int(told.get("TORCHELASTIC_RESTART_COUNT", "0"))
    world_size = int(told.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Process(job=job, restarts=restarts)
    return Process(int(told["RANK"]), world_size, int(told.get("LOCAL_RANK", "0")), job, restarts)


def join_group(process: Process, device: torch.device) -> None:
    """Meet the other processes, when there are any."""
    if process.world_size == 1:
        return
    if process.is_main and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and _store_is_kept():
        warn(f"--max-restarts: processes that start again may miss each other; use {OWN_STORE}=1 torchrun …")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # the others wait while the main process scans or validates
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=LONGEST_WAIT)


def _store_is_kept() -> bool:
    """Whether torchrun's processes meet where those before them have left their addresses.

    A process that comes first then takes the address of one that is gone (torch 2.10 to 2.14).
    """
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and os.environ.get(OWN_STORE) != "1"


def leave_group(together: bool = False) -> None:
    """Part from the other processes; `together` waits until all of them are done."""
    if dist.is_initialized():
        if together:
            dist.barrier()
        dist.destroy_process_group()


@contextmanager
def noticing_losses(cure: str = "start again, or continue what had begun with --resume") -> Iterator[None]:
    """Context in which the death of another process is a `UserError`: its connections break."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise UserError(f"another process of this run has ended, see its message; {cure}") from error
        raise


def wrap(model: nn.Module, process: Process, device: torch.device, sync_bn: bool = False) -> nn.Module:
    """The model as the training loop calls it: with gradients averaged when there are several processes."""
    if process.world_size == 1:
        return model
    if sync_bn and device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model, device_ids=[device.index] if device.type == "cuda" else None)


def broadcast(value: T) -> T:
    """The value that the main process holds, on every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def from_all(value: T) -> list[T]:
    """The value of every process, by rank, on every process."""
    if not dist.is_initialized():
        return [value]
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, value)
    return told


def main_first(make: Callable[[], T], process: Process) -> T:
    """What `make` returns, called by the main process before the others, which then find its files."""
    if not process.is_main:
        broadcast(None)
    result = make()
    if process.is_main:
        broadcast(None)
    return result


def once_per_machine(make: Callable[[], T], process: Process) -> T:
    """What `make` returns, called by one process of each machine; the others get a pickled copy.

    `SharedArray`s in it are shared. Where the system shows no process the memory of another, each calls
    `make`.

    Raises:
        UserError: what `make` raised, in any of them.
    """
    if not dist.is_initialized():
        return make()
    made, error = None, None
    if process.local_rank == 0:
        try:
            made = make()
        except UserError as failure:  # the others wait to be told
            error = failure
    told = from_all((error, pickle.dumps(made)))
    for fault, _ in told:
        if fault is not None:
            raise fault
    if made is not None:
        return made
    try:
        found: T = pickle.loads(told[process.rank - process.local_rank][1])
        return found
    except OSError:
        return make()


def any_process(flags: list[bool], device: torch.device) -> list[bool]:
    """Per flag, whether it is set on at least one process."""
    if not dist.is_initialized():
        return flags
    tensor = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return [bool(flag) for flag in tensor.tolist()]


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The element-wise mean of a tensor over processes."""
    if not dist.is_initialized():
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Set the gradients of all processes to their mean; for what `wrap` cannot wrap."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if dist.is_initialized() and gradients:
        mean = mean_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics are those of the batches of all processes, equally large; on any device.

    As BatchNorm does, it reckons in the precision of its weights and gives that of the maps, which is another
    under mixed precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        wide = x.to(self.weight.dtype)
        mean = _Mean.apply(wide.mean(dim=(0, 2, 3)))
        centred = wide - mean[:, None, None]
        var = _Mean.apply(centred.square().mean(dim=(0, 2, 3)))
        count = x.numel() // x.shape[1] * dist.get_world_size()
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / max(count - 1, 1)), self.momentum)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
        scale = torch.rsqrt(var + self.eps) * self.weight
        y: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)


def share_statistics(model: nn.Module) -> None:
    """Turn every BatchNorm of a model into one over all processes, in place; its tensors stay."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm


class _Mean(torch.autograd.Function):
    """The mean of a tensor over processes, through which gradients go."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return mean_over_processes(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return mean_over_processes(gradients[0].contiguous())
