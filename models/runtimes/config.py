"""What `val.py` and `detect.py` can be told of the network that they run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

import torch

from models.runtimes.handover import AFTER, Handover
from models.runtimes.kept import FILES, installed, written
from models.runtimes.opening import Backend, load_backend
from models.runtimes.pytorch import PyTorchBackend
from models.weights import find_weights
from utils.console import warn
from utils.errors import UserError
from utils.flags import DEVICE_HELP, THREADS_HELP, CommandConfig, at_least, flag, not_empty

RUNTIME_HELP = (
    "what runs PyTorch weights on the CPU: torch; onnx or openvino, for which the network is written once "
    "into the user's cache folder; auto: torch at first, and for long work one of those that is installed"
)


@dataclass(frozen=True)
class InferenceConfig(CommandConfig):
    """The flags that both have."""

    weights: tuple[str, ...] = flag(
        (), "weights, several for an ensemble; default: the newest best.pt in runs/train"
    )
    device: str = flag("", DEVICE_HELP)
    augment: bool = flag(False, "test-time augmentation")
    half: bool = flag(False, "half precision (CUDA)")
    runtime: Literal["torch", "onnx", "openvino", "auto"] = flag("torch", RUNTIME_HELP)
    dnn: bool = flag(False, "run ONNX files with OpenCV DNN")
    threads: int | None = flag(None, THREADS_HELP, rule=at_least(1))
    save_txt: bool = flag(False, "save detections as label files")
    save_conf: bool = flag(False, "add the confidence to the label files")
    name: str = flag("exp", "name of the run folder", rule=not_empty)
    exist_ok: bool = flag(False, "write into an existing run folder")

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
        on_cpu, runtime = device.type == "cpu", self.runtime
        short = images is not None and images < AFTER
        if runtime == "auto" and (not on_cpu or self.augment or self.dnn or short):
            runtime = "torch"
        files = weights
        if runtime in FILES:
            if self.dnn:
                raise UserError(f"--dnn and --runtime {runtime} exclude each other; leave one out")
            if not on_cpu:
                raise UserError(f"--runtime {runtime} runs on the CPU; leave it out, or --device {device}")
            kept = importlib.import_module("models.exporting.kept")  # start-up stays short
            files = [kept.for_runtime(path, runtime, augment=self.augment) for path in weights]
        elif runtime == "auto":
            files = [written(path) or path for path in weights]
        backend = load_backend(
            files, device, dnn=self.dnn, half=self.half, data=data, threads=self.threads, calls=calls
        )
        for path, file in zip(weights, files):  # whoever reads the title knows the weights
            backend.title = backend.title.replace(str(file), str(path))
        if runtime == "auto" and isinstance(backend, PyTorchBackend) and (there := installed()):
            return Handover(backend, weights[0], there[0], self.threads, calls)
        return backend

    @staticmethod
    def tell_size(backend: Backend, wanted: tuple[int, int]) -> None:
        """Warn when the weights take another size than the (height, width) that `--imgsz` asks for."""
        if backend.shape and backend.shape != wanted:
            takes, given = ("x".join(map(str, size)) for size in (backend.shape, wanted))
            warn(f"the weights were exported for images of {takes} and are run at that size, not at {given}")
