"""ONNX files, in ONNX Runtime or in OpenCV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Backend, first_line
from models.runtimes.metadata import described
from models.runtimes.onnx_file import FLOAT, FLOAT16, check_whole, read_input
from utils.console import warn
from utils.errors import UserError
from utils.optional import require

TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxBackend(Backend):
    """An ONNX file in ONNX Runtime (optional package)."""

    library = "ONNX Runtime"

    def __init__(
        self, path: Path, device: torch.device, half: bool, threads: int | None, calls: int = 1
    ) -> None:
        super().__init__(device)
        cuda = device.type == "cuda"
        try:
            onnxruntime = require("onnxruntime", "onnxruntime-gpu" if cuda else "onnxruntime")
        except UserError as error:
            raise UserError(f"'{path}' needs ONNX Runtime: {error} (or use --dnn)") from error
        check_whole(path)
        wanted = [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        if calls > 1 and not cuda:
            # each call runs in its own thread, and those of the session help all of them
            options.intra_op_num_threads = max((threads or torch.get_num_threads()) - calls + 1, 1)
            self.calls = calls
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            entries, metadata = self.session.get_inputs(), self.session.get_modelmeta().custom_metadata_map
            told = [(entry.name, entry.type, entry.shape) for entry in entries]  # names may be no text
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            raise UserError(f"'{path}' is not an ONNX file that can be run: {first_line(error)}") from error
        if cuda and "CUDAExecutionProvider" in self.session.get_providers():
            self.place = str(device)
        elif cuda:
            warn(f"ONNX Runtime here cannot use {device}: '{path}' runs on the CPU")
        if len(told) != 1:
            raise UserError(f"'{path}' has {len(told)} inputs, not one for images")
        self.input_name, kind, shape = told[0]
        if kind not in TYPES:
            raise UserError(f"'{path}' takes {kind}; images are float or float16")
        self.input_type = TYPES[kind]
        # names stand for sizes that are free
        sides = [side if isinstance(side, int) else None for side in shape]
        self.configure(path, described(metadata, path), sides)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        array = images.cpu().numpy().astype(self.input_type, copy=False)
        outputs = self.session.run(None, {self.input_name: array})
        return [torch.from_numpy(np.asarray(output)).float() for output in outputs]


class OpenCVBackend(Backend):
    """An ONNX file in OpenCV's DNN module, for one shape at a time.

    Its `threads` are those of all that OpenCV does in this process.
    """

    library = "OpenCV DNN"

    def __init__(self, path: Path, device: torch.device, half: bool, threads: int | None) -> None:
        super().__init__(device)
        if threads is not None:
            cv2.setNumThreads(threads)
        check_whole(path)
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UserError(f"OpenCV DNN cannot read '{path}': {first_line(error)}") from error
        told = read_input(path)  # OpenCV would run a network of one size on another, and give nonsense
        if told.element not in (FLOAT, FLOAT16):
            raise UserError(f"'{path}' takes elements of type {told.element}; images are float or float16")
        self.configure(path, described(told.metadata, path), told.sides)
        self.batch, self.any_shape = self.batch or 1, False

    def run(self, images: Tensor) -> Sequence[Tensor]:
        self.net.setInput(images.cpu().float().numpy())
        return [torch.from_numpy(np.asarray(self.net.forward()))]
