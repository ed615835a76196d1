"""Which runtime a network goes through: `--runtime` of the commands, `runtime=` of the hub."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from models.runtimes.base import Backend
from models.runtimes.handover import AFTER, Handover
from models.runtimes.kept import FILES, installed, written
from models.runtimes.opening import load_backend, written_on
from models.runtimes.pytorch import PyTorchBackend
from utils.device import half_dtype
from utils.distributed import this_process
from utils.errors import UserError

Runtime = Literal["torch", "onnx", "openvino", "auto"]
RUNTIMES = ("torch", *FILES, "auto")


@dataclass(frozen=True)
class Wanted:
    """How a network is to be run; see also `load_backend`.

    Attributes:
        runtime: what runs PyTorch weights on the CPU. "auto" begins in PyTorch and moves to a quicker one,
            see `Handover`, or takes that one at once when its network is kept already.
        data: names the classes when the weights do not.
        calls: how many threads will call it at once.
        half: half precision, where the device is faster in it; "auto" is torch then.
        images: that will go through it, where that is known: for few of them "auto" is torch.
        augment: whether some of them are augmented; None when nobody knows, and then PyTorch stays at hand.
    """

    runtime: Runtime = "auto"
    dnn: bool = False
    half: bool = False
    data: str | Path | None = None
    threads: int | None = None
    calls: int = 1
    images: int | None = None
    augment: bool | None = False


def open_in(weights: Sequence[Path], device: torch.device, wanted: Wanted) -> Backend:
    """The network of some weights, an ensemble of several, in the runtime that is wanted; close it at last.

    Raises:
        UserError: as `load_backend`, or a runtime that does not go with the weights or the device.
    """
    runtime = wanted.runtime
    # of several processes each has its share of the cores, as torchrun says in PyTorch's number
    threads = wanted.threads or (torch.get_num_threads() if this_process().world_size > 1 else None)
    short = wanted.images is not None and wanted.images < AFTER
    lower = wanted.half and half_dtype(device) is not None  # of which another runtime gives something else
    if runtime == "auto" and (device.type != "cpu" or wanted.augment or wanted.dnn or short or lower):
        runtime = "torch"
    files = list(weights)
    if runtime in FILES:
        if wanted.dnn:
            raise UserError(f"--dnn and --runtime {runtime} exclude each other; leave one out")
        if device.type != "cpu":
            raise UserError(f"--runtime {runtime} runs on the CPU; leave it out, or --device {device}")
        kept = importlib.import_module("models.exporting.kept")  # start-up stays short
        files = [kept.for_runtime(path, runtime, augment=bool(wanted.augment)) for path in weights]
    elif runtime == "auto" and wanted.augment is not None:
        files = [written(path) or path for path in weights]
    backend = load_backend(
        files,
        device,
        dnn=wanted.dnn,
        half=wanted.half,
        data=wanted.data,
        threads=threads,
        calls=wanted.calls,
    )
    for path, file in zip(weights, files):  # whoever reads the title knows the weights
        backend.title = backend.title.replace(str(file), str(path))
        if file != path:
            backend.origin = backend.origin.replace(
                f"{file}: {written_on(file)}", f"{path}: {written_on(path)}"
            )
    if runtime == "auto" and isinstance(backend, PyTorchBackend) and (there := installed()):
        return Handover(backend, weights[0], there[0], threads, wanted.calls)
    return backend
