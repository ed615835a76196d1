"""What `val.py` and `detect.py` can be told of the network that they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from models.runtimes.base import Backend
from models.runtimes.choosing import Wanted, open_in
from models.weights import find_weights
from utils.console import warn
from utils.device import half_dtype, select_device
from utils.distributed import Process
from utils.flags import DEVICE_HELP, THREADS_HELP, CommandConfig, at_least, flag, not_empty

RUNTIME_HELP = (
    "what runs PyTorch weights on the CPU: torch; onnx or openvino, for which the network is written once "
    "into the user's cache folder; auto: torch at first, and for long work one of those that is installed"
)
HALF_HELP = "half precision: fp16 on CUDA, bf16 on CPUs with AMX or AVX512-BF16, in PyTorch and OpenVINO"


@dataclass(frozen=True)
class InferenceConfig(CommandConfig):
    """The flags that both have."""

    weights: tuple[str, ...] = flag(
        (), "weights, several for an ensemble; default: the newest best.pt in runs/train"
    )
    device: str = flag("", DEVICE_HELP)
    augment: bool = flag(False, "test-time augmentation")
    half: bool = flag(False, HALF_HELP)
    runtime: Literal["torch", "onnx", "openvino", "auto"] = flag("torch", RUNTIME_HELP)
    dnn: bool = flag(False, "run ONNX files with OpenCV DNN")
    threads: int | None = flag(None, THREADS_HELP, rule=at_least(1))
    save_txt: bool = flag(False, "save detections as label files")
    save_conf: bool = flag(False, "add the confidence to the label files")
    name: str = flag("exp", "name of the run folder", rule=not_empty)
    exist_ok: bool = flag(False, "write into an existing run folder")

    def place(self, process: Process) -> torch.device:
        """What `--device` names, for one of several processes.

        Raises:
            UserError: as `select_device`.
        """
        return select_device(self.device, process.local_rank, process.world_size)

    def open_weights(
        self, device: torch.device, data: str, *, calls: int = 1, images: int | None = None
    ) -> Backend:
        """The network of `--weights`, to be closed in the end; see also `load_backend`.

        Args:
            data: names its classes when it does not.
            calls: how many threads will call it at once.
            images: that will go through it, where that is known: for few of them "auto" is torch.
        """
        weights = [find_weights(name) for name in self.weights or ("",)]
        wanted = Wanted(
            self.runtime,
            dnn=self.dnn,
            half=self.half,
            data=data,
            threads=self.threads,
            calls=calls,
            images=images,
            augment=self.augment,
        )
        backend = open_in(weights, device, wanted)
        if self.half and backend.dtype == torch.float32:
            warn(f"--half: {slow_in_half(backend)}; running in single precision")
        return backend

    @staticmethod
    def tell_size(backend: Backend, wanted: tuple[int, int]) -> None:
        """Warn when the weights take another size than the (height, width) that `--imgsz` asks for."""
        if backend.shape and backend.shape != wanted:
            takes, given = ("x".join(map(str, size)) for size in (backend.shape, wanted))
            warn(f"the weights were exported for images of {takes} and are run at that size, not at {given}")


def slow_in_half(backend: Backend) -> str:
    """Why a network does not run in half precision although that was asked for."""
    if backend.device.type == "cpu" and half_dtype(backend.device) is None:
        return "this CPU has neither AMX nor AVX512-BF16 and would be slower in it"
    if half_dtype(backend.device) is None:
        return f"it is for CUDA and some CPUs, not for {backend.device}"
    return f"{backend.library} has no half precision for this file here"
