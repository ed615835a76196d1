"""What `val.py` and `detect.py` can be told of the network that they run."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

import torch

from models.runtimes.opening import Backend, load_backend
from models.weights import find_weights
from utils.console import warn
from utils.errors import UserError
from utils.flags import DEVICE_HELP, THREADS_HELP, CommandConfig, at_least, flag, not_empty


@dataclass(frozen=True)
class InferenceConfig(CommandConfig):
    """The flags that both have."""

    weights: tuple[str, ...] = flag(
        (), "weights, several for an ensemble; default: the newest best.pt in runs/train"
    )
    device: str = flag("", DEVICE_HELP)
    augment: bool = flag(False, "test-time augmentation")
    half: bool = flag(False, "half precision (CUDA)")
    runtime: Literal["torch", "onnx", "openvino"] = flag(
        "torch",
        "what runs PyTorch weights on the CPU; the others get the network once, in the user's cache folder",
    )
    dnn: bool = flag(False, "run ONNX files with OpenCV DNN")
    threads: int | None = flag(None, THREADS_HELP, rule=at_least(1))
    save_txt: bool = flag(False, "save detections as label files")
    save_conf: bool = flag(False, "add the confidence to the label files")
    name: str = flag("exp", "name of the run folder", rule=not_empty)
    exist_ok: bool = flag(False, "write into an existing run folder")

    def open_weights(self, device: torch.device, data: str, calls: int = 1) -> Backend:
        """The network of `--weights`; `data` names its classes when it does not. See `load_backend`."""
        weights = [find_weights(name) for name in self.weights or ("",)]
        files = weights
        if self.runtime != "torch":
            if device.type != "cpu":
                raise UserError(
                    f"--runtime {self.runtime} runs on the CPU; leave it out, or --device {device}"
                )
            kept = importlib.import_module("models.exporting.kept")  # start-up stays short
            files = [kept.for_runtime(path, self.runtime) for path in weights]
        backend = load_backend(
            files, device, dnn=self.dnn, half=self.half, data=data, threads=self.threads, calls=calls
        )
        for path, file in zip(weights, files):  # whoever reads the title knows the weights
            backend.title = backend.title.replace(str(file), str(path))
        return backend

    @staticmethod
    def tell_size(backend: Backend, wanted: tuple[int, int]) -> None:
        """Warn when the weights take another size than the (height, width) that `--imgsz` asks for."""
        if backend.shape and backend.shape != wanted:
            takes, given = ("x".join(map(str, size)) for size in (backend.shape, wanted))
            warn(f"the weights were exported for images of {takes} and are run at that size, not at {given}")
