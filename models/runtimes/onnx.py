"""ONNX files, in ONNX Runtime or in OpenCV."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Backend, first_line
from models.runtimes.metadata import described
from utils.data.channels import checked_channels
from utils.errors import UserError
from utils.optional import require

# how OpenCV describes an input of (B, C, H, W): `<Input> CV_32FC1 [1 x 3 x 640 x 640]`; names are free
SIDES = re.compile(r"<Input> \w+ \[([^\]]*)\]")
TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxBackend(Backend):
    """An ONNX file in ONNX Runtime (optional package)."""

    def __init__(self, path: Path, device: torch.device, half: bool, threads: int | None) -> None:
        super().__init__(device)
        cuda = device.type == "cuda"
        try:
            onnxruntime = require("onnxruntime", "onnxruntime-gpu" if cuda else "onnxruntime")
        except UserError as error:
            raise UserError(f"'{path}' needs ONNX Runtime: {error} (or use --dnn)") from error
        wanted = [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            raise UserError(f"'{path}' is not an ONNX file that can be run: {first_line(error)}") from error
        entries = self.session.get_inputs()
        if len(entries) != 1:
            raise UserError(f"'{path}' has {len(entries)} inputs, not one for images")
        if entries[0].type not in TYPES:
            raise UserError(f"'{path}' takes {entries[0].type}; images are float or float16")
        self.input_name, self.input_type = entries[0].name, TYPES[entries[0].type]
        # names stand for sizes that are free
        sides = [side if isinstance(side, int) else None for side in entries[0].shape]
        self.configure(path, described(self.session.get_modelmeta().custom_metadata_map, path), sides)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        array = images.cpu().numpy().astype(self.input_type, copy=False)
        outputs = self.session.run(None, {self.input_name: array})
        return [torch.from_numpy(np.asarray(output)).float() for output in outputs]


class OpenCVBackend(Backend):
    """An ONNX file in OpenCV's DNN module. It reads no metadata; class names come from --data.

    Its `threads` are those of all that OpenCV does in this process.
    """

    batch = 1

    def __init__(self, path: Path, device: torch.device, half: bool, threads: int | None) -> None:
        super().__init__(device)
        if threads is not None:
            cv2.setNumThreads(threads)
        try:
            self.net = cv2.dnn.readNetFromONNX(str(path))
        except cv2.error as error:
            raise UserError(f"OpenCV DNN cannot read '{path}': {first_line(error)}") from error
        # it would compute something for any number of channels, and say nothing
        described = SIDES.search(self.net.dump())
        sides = described[1].split(" x ") if described else []
        if len(sides) == 4 and sides[1].isdecimal():
            self.channels = checked_channels(int(sides[1]), f"'{path}': its number of channels")

    def run(self, images: Tensor) -> Sequence[Tensor]:
        self.net.setInput(images.cpu().float().numpy())
        return [torch.from_numpy(np.asarray(self.net.forward()))]
