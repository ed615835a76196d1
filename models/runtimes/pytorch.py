"""PyTorch itself: models in this process, and TorchScript files."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.runtimes.base import MOST_THREADS, Backend, first_line
from models.runtimes.metadata import CONFIG_FILE, read_json
from models.weights import load_model
from models.yolo import DetectionModel
from utils.device import images_at_once
from utils.errors import UserError


def open_pytorch(path: Path, device: torch.device, half: bool, threads: int | None) -> PyTorchBackend:
    """The detector in a checkpoint, fused; `threads` are those of PyTorch in this process."""
    if threads is not None:
        torch.set_num_threads(threads)
    return PyTorchBackend(load_model(path), device, half=half)


class PyTorchBackend(Backend):
    """A DetectionModel in this process.

    Args:
        model: becomes part of the backend (and is fused in place).
        fuse: fold batch norm into the convolutions.
    """

    any_shape = pt = True
    calls = MOST_THREADS

    def __init__(
        self, model: DetectionModel, device: torch.device, *, half: bool = False, fuse: bool = True
    ) -> None:
        super().__init__(device, half)
        self.names, self.stride, self.channels = dict(model.names), model.multiple, model.channels
        self.origin = model.origin
        model.eval().requires_grad_(False)
        if fuse:
            model.fuse()
        self.model = model.to(device, self.dtype)
        self.channels_last = device.type == "cpu"  # a quarter faster there
        if self.channels_last:
            self.model.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        if self.channels_last and not torch.jit.is_tracing():
            images = images.contiguous(memory_format=torch.channels_last)
        weight = next(self.model.parameters())  # its device and precision may have been changed by the caller
        size = None if torch.jit.is_tracing() else images_at_once(weight.device, *images.shape[2:])
        parts = images.split(size) if size else (images,)
        predictions = [self.model(part.to(weight.device, weight.dtype), augment=augment) for part in parts]
        found = [each[0] if isinstance(each, (tuple, list)) else each for each in predictions]
        return found[0] if len(found) == 1 else torch.cat(found)


class TorchScriptBackend(Backend):
    """A traced or scripted module; class names and stride stand in its extra file `config.txt` (JSON)."""

    library = "TorchScript"

    def __init__(self, path: Path, device: torch.device, half: bool, threads: int | None) -> None:
        super().__init__(device, half and device.type == "cuda")  # a trace's constants stay as they are
        if threads is not None:
            torch.set_num_threads(threads)
        extra = {CONFIG_FILE: ""}
        try:
            with warnings.catch_warnings():
                # torch's plans for TorchScript are no user's fault
                warnings.simplefilter("ignore", FutureWarning)
                self.module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
        except Exception as error:  # of C++, as whatever class it has become in Python
            raise UserError(f"'{path}' is not a TorchScript file: {first_line(error)}") from error
        self.module.eval().to(self.dtype)
        text = extra[CONFIG_FILE]
        description = read_json(text.decode(errors="replace") if isinstance(text, bytes) else text, path)
        fixed = None if description.dynamic else description.shape
        batch = None if description.dynamic else description.batch
        self.configure(path, description, (batch, description.channels, *(fixed or (None, None))))
        self.any_shape = description.dynamic  # a trace may keep its shape without saying so

    def run(self, images: Tensor) -> Sequence[Tensor]:
        output = self.module(images.to(self.device, self.dtype))
        return [output] if isinstance(output, Tensor) else output
