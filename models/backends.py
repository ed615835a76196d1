"""Trained networks in every form that can be run here, behind one call.

A backend takes (B, 3, H, W) float RGB images in 0–1 and gives (B, N, 5 + nc): cx, cy, w, h in pixels, then
objectness and class scores between 0 and 1.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.weights import load_model
from models.yolo import DetectionModel
from utils.data.spec import load_data_spec
from utils.errors import UserError

DEFAULT_STRIDE = 32
Names = dict[int, str]


class Backend(nn.Module):
    """A network ready to run.

    Attributes:
        names: class index to class name.
        stride: image sides must be multiples of this.
        shape: (height, width) of images when only one is possible, else None.
        batch: images per call when only one number is possible, else None; other numbers are split or padded.
        pt: whether this is a PyTorch model with all that it offers (any shape, augmentation, tracing).
    """

    names: Names
    stride: int
    shape: tuple[int, int] | None = None
    batch: int | None = None
    pt = False

    def __init__(self, device: torch.device, half: bool = False) -> None:
        super().__init__()
        self.device = device
        self.dtype = torch.float16 if half else torch.float32

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        """(B, 3, H, W) float 0–1 to (B, N, 5 + nc) on the same device; `augment` is for PyTorch models."""
        if augment:
            raise UserError("--augment needs PyTorch weights (.pt, .safetensors)")
        size = self.batch or len(images)
        parts = [self._run_part(images[start : start + size], size) for start in range(0, len(images), size)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def train(self, mode: bool = True) -> Backend:
        """Backends only predict: whatever the mode asked for, they stay in evaluation mode."""
        return super().train(False)

    def _run_part(self, images: Tensor, size: int) -> Tensor:
        count = len(images)
        if count < size:  # the network has a fixed batch: fill it up, drop the surplus
            images = torch.cat((images, images.new_zeros(size - count, *images.shape[1:])))
        return self.run(images)[:count]

    def run(self, images: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define how to run")


class PyTorchBackend(Backend):
    """A DetectionModel in this process.

    Args:
        model: becomes part of the backend (and is fused in place).
        fuse: fold batch norm into the convolutions.
    """

    pt = True

    def __init__(
        self, model: DetectionModel, device: torch.device, *, half: bool = False, fuse: bool = True
    ) -> None:
        half = half and device.type == "cuda"  # CPUs compute half precision slower than single
        super().__init__(device, half)
        self.names = dict(model.names)
        self.stride = int(model.stride.max())
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
        prediction = self.model(images.to(weight.device, weight.dtype), augment=augment)
        return prediction[0] if isinstance(prediction, (tuple, list)) else prediction


class TorchScriptBackend(Backend):
    """A traced or scripted module; class names and stride stand in its extra file `config.txt` (JSON)."""

    def __init__(self, path: Path, device: torch.device, half: bool = False) -> None:
        super().__init__(device, half and device.type == "cuda")
        extra = {"config.txt": ""}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter(
                    "ignore", FutureWarning
                )  # torch's plans for TorchScript are no user's fault
                self.module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"'{path}' is not a TorchScript file: {_first_line(error)}") from error
        self.module.eval().to(self.dtype)
        config = json.loads(extra["config.txt"]) if extra["config.txt"] else {}
        self.names = _clean_names(config.get("names"))
        self.stride = int(config.get("stride", DEFAULT_STRIDE))
        shape = config.get("shape")  # (B, 3, H, W) that the trace was made with
        if shape and not config.get("dynamic"):
            self.batch, _, height, width = (int(side) for side in shape)
            self.shape = (height, width)

    def run(self, images: Tensor) -> Tensor:
        output = self.module(images.to(self.device, self.dtype))
        return output[0] if isinstance(output, (tuple, list)) else output


class OnnxBackend(Backend):
    """An ONNX file in ONNX Runtime (optional package)."""

    def __init__(self, path: Path, device: torch.device, half: bool = False) -> None:
        super().__init__(device)
        try:
            import onnxruntime
        except ImportError as error:
            package = "onnxruntime-gpu" if device.type == "cuda" else "onnxruntime"
            raise UserError(f"'{path}' needs ONNX Runtime: pip install {package} (or use --dnn)") from error
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        providers = [
            p for p in [*wanted, "CPUExecutionProvider"] if p in onnxruntime.get_available_providers()
        ]
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=providers)
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            raise UserError(f"'{path}' is not an ONNX file that can be run: {_first_line(error)}") from error
        entry = self.session.get_inputs()[0]
        self.input_name, self.half_input = entry.name, "float16" in entry.type
        batch, _, height, width = entry.shape  # names stand for sizes that are free
        self.shape = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self.batch = batch if isinstance(batch, int) else None
        self._read_metadata(self.session.get_modelmeta().custom_metadata_map)

    def _read_metadata(self, metadata: Mapping[str, str]) -> None:
        self.names = _clean_names(metadata.get("names"))
        self.stride = int(metadata.get("stride", DEFAULT_STRIDE))

    def run(self, images: Tensor) -> Tensor:
        array = images.cpu().numpy().astype(np.float16 if self.half_input else np.float32, copy=False)
        output = self.session.run(None, {self.input_name: array})[0]
        return torch.from_numpy(np.asarray(output)).to(self.device).float()


class OpenCVBackend(Backend):
    """An ONNX file in OpenCV's DNN module. It reads no metadata; class names come from --data."""

    def __init__(self, path: Path, device: torch.device) -> None:
        super().__init__(device)
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UserError(f"OpenCV DNN cannot read '{path}': {_first_line(error)}") from error
        self.names, self.stride = {}, DEFAULT_STRIDE
        self.batch = 1

    def run(self, images: Tensor) -> Tensor:
        self.net.setInput(images.cpu().float().numpy())
        return torch.from_numpy(np.asarray(self.net.forward())).to(self.device)


class Ensemble(Backend):
    """Several networks with the same classes; their predictions are put side by side before suppression."""

    def __init__(self, members: Sequence[Backend]) -> None:
        first = members[0]
        super().__init__(first.device, first.dtype == torch.float16)
        for member in members[1:]:
            if member.names != first.names:
                raise UserError(
                    f"the weights of an ensemble must have the same classes; found {_summary(first.names)} "
                    f"and {_summary(member.names)}"
                )
        self.members = nn.ModuleList(members)
        self.names, self.stride = first.names, max(m.stride for m in members)
        shapes = {m.shape for m in members if m.shape}
        if len(shapes) > 1:
            raise UserError(f"the weights of an ensemble need one image size; found {sorted(shapes)}")
        self.shape = next(iter(shapes), None)
        self.pt = all(m.pt for m in members)

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        return torch.cat([member(images, augment).float() for member in self.members], dim=1)


def _open_pytorch(path: Path, device: torch.device, half: bool, fuse: bool) -> Backend:
    return PyTorchBackend(load_model(path, device="cpu"), device, half=half, fuse=fuse)


Opener = Callable[[Path, torch.device, bool, bool], Backend]
OPENERS: dict[str, Opener] = {
    ".pt": _open_pytorch,
    ".safetensors": _open_pytorch,
    ".torchscript": lambda path, device, half, fuse: TorchScriptBackend(path, device, half),
    ".onnx": lambda path, device, half, fuse: OnnxBackend(path, device, half),
}


def load_backend(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str = "cpu",
    *,
    dnn: bool = False,
    half: bool = False,
    data: str | Path | None = None,
    fuse: bool = True,
) -> Backend:
    """Open weights in whatever form they are; several of them become an ensemble.

    Args:
        weights: files; the suffix says what they are (`OPENERS`).
        dnn: run ONNX files with OpenCV DNN.
        half: half precision, on CUDA only.
        data: dataset yaml that names the classes when the file does not.
        fuse: fold batch norm into convolutions.

    Raises:
        UserError: no such file, an unknown form, a damaged file, a missing package, classes that disagree.
    """
    files = [weights] if isinstance(weights, (str, Path)) else list(weights)
    if not files:
        raise UserError("no weights given")
    members = [_load_one(Path(f), torch.device(device), dnn=dnn, half=half, fuse=fuse) for f in files]
    for member in members:
        if not member.names and data:
            member.names = dict(load_data_spec(data, needed=()).names)
    return members[0] if len(members) == 1 else Ensemble(members)


def _load_one(path: Path, device: torch.device, *, dnn: bool, half: bool, fuse: bool) -> Backend:
    opener = OPENERS.get(path.suffix.lower())
    if opener is None:
        found = path.suffix or "no suffix"
        raise UserError(f"weights '{path}': cannot run {found}; known are {', '.join(OPENERS)}")
    if not path.is_file():
        raise UserError(f"weights '{path}' not found")
    if dnn:
        if path.suffix.lower() != ".onnx":
            raise UserError(f"--dnn runs .onnx files, found '{path}'")
        return OpenCVBackend(path, device)
    return opener(path, device, half, fuse)


def _clean_names(names: Any) -> Names:
    """Class names from metadata: a mapping, a list, or the text of one; empty when there are none."""
    if isinstance(names, str):
        try:
            names = ast.literal_eval(names)
        except (ValueError, SyntaxError) as error:
            raise UserError(f"the file's class names are damaged: {names[:60]!r}") from error
    if isinstance(names, Mapping):
        return {int(index): str(name) for index, name in names.items()}
    return {index: str(name) for index, name in enumerate(names or ())}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _summary(names: Names) -> str:
    some = ", ".join(list(names.values())[:3])
    return f"{len(names)} ({some}{', …' if len(names) > 3 else ''})"
