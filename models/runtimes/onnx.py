"""ONNX files, in ONNX Runtime or in OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import DEFAULT_STRIDE, Backend, first_line
from models.runtimes.metadata import described
from utils.errors import UserError
from utils.optional import require


class OnnxBackend(Backend):
    """An ONNX file in ONNX Runtime (optional package).

    Args:
        threads: that a layer is split over, None for as many as there are cores.
    """

    def __init__(self, path: Path, device: torch.device, threads: int | None = None) -> None:
        super().__init__(device)
        try:
            onnxruntime = require(
                "onnxruntime", "onnxruntime-gpu" if device.type == "cuda" else "onnxruntime"
            )
        except UserError as error:
            raise UserError(f"'{path}' needs ONNX Runtime: {error} (or use --dnn)") from error
        wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
        providers = [
            p for p in [*wanted, "CPUExecutionProvider"] if p in onnxruntime.get_available_providers()
        ]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            raise UserError(f"'{path}' is not an ONNX file that can be run: {first_line(error)}") from error
        entries = self.session.get_inputs()
        if len(entries) != 1:
            raise UserError(f"'{path}' has {len(entries)} inputs, not one for images")
        entry = entries[0]
        channels = entry.shape[1] if len(entry.shape) == 4 else 0
        if isinstance(channels, int) and channels != 3:
            raise UserError(f"'{path}' takes {entry.shape}, not images (B, 3, H, W)")
        if entry.type not in ("tensor(float)", "tensor(float16)"):
            raise UserError(f"'{path}' takes {entry.type}; images are float or float16")
        self.input_name, self.half_input = entry.name, "float16" in entry.type
        batch, _, height, width = entry.shape  # names stand for sizes that are free
        self.shape = (height, width) if isinstance(height, int) and isinstance(width, int) else None
        self.any_shape = self.shape is None
        self.batch = batch if isinstance(batch, int) else None
        description = described(self.session.get_modelmeta().custom_metadata_map, path)
        self.names, self.stride = description.names, description.stride

    def run(self, images: Tensor) -> Tensor:
        array = images.cpu().numpy().astype(np.float16 if self.half_input else np.float32, copy=False)
        output = self.session.run(None, {self.input_name: array})[0]
        return torch.from_numpy(np.asarray(output)).to(self.device).float()


class OpenCVBackend(Backend):
    """An ONNX file in OpenCV's DNN module. It reads no metadata; class names come from --data.

    Args:
        threads: for all that OpenCV does in this process, None for as many as there are cores.
    """

    def __init__(self, path: Path, device: torch.device, threads: int | None = None) -> None:
        super().__init__(device)
        if threads is not None:
            cv2.setNumThreads(threads)
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UserError(f"OpenCV DNN cannot read '{path}': {first_line(error)}") from error
        self.names, self.stride = {}, DEFAULT_STRIDE
        self.batch = 1

    def run(self, images: Tensor) -> Tensor:
        self.net.setInput(images.cpu().float().numpy())
        try:
            output = self.net.forward()
        except cv2.error as error:
            size = tuple(images.shape[2:])
            raise UserError(f"OpenCV DNN cannot run images of {size}: {first_line(error)}") from error
        return torch.from_numpy(np.asarray(output)).to(self.device)
