"""ONNX files, in ONNX Runtime or in OpenCV."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
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
# where a tensor can stand in an ONNX file: by message, the numbers of the fields that hold others
MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "Sparse", 23: "Sparse"},
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
EXTERNAL = {13, 14}  # fields of a tensor: the file that has its values, and that it is another one
FIXED = {1: 8, 5: 4}  # bytes of a value, by wire type
DEEPEST = 100  # messages inside one another, as protobuf has it
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
        check_whole(path)
        wanted = [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=providers)
            entries, metadata = self.session.get_inputs(), self.session.get_modelmeta().custom_metadata_map
            told = [(entry.name, entry.type, entry.shape) for entry in entries]  # names may be no text
        except Exception as error:  # onnxruntime's own classes derive from nothing narrower
            raise UserError(f"'{path}' is not an ONNX file that can be run: {first_line(error)}") from error
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
    """An ONNX file in OpenCV's DNN module. It reads no metadata; class names come from --data.

    Its `threads` are those of all that OpenCV does in this process.
    """

    batch = 1

    def __init__(self, path: Path, device: torch.device, half: bool, threads: int | None) -> None:
        super().__init__(device)
        if threads is not None:
            cv2.setNumThreads(threads)
        check_whole(path)
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


def check_whole(path: Path) -> None:
    """Raise a UserError when an ONNX file takes weights from other files, or is no protobuf message.

    The names of those files stand in it. OpenCV opens any of them, `../../etc/passwd` too, as older versions
    of ONNX Runtime did. No file that is exported here has such names.
    """
    damaged = UserError(f"'{path}' is not an ONNX file: its messages are damaged")
    if not path.stat().st_size:
        raise damaged
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # without this key no tensor has a file; looking for it takes a fiftieth of the walk
        waiting = [("Model", 0, len(data), 0)] if data.find(b"location") >= 0 else []
        try:
            while waiting:
                kind, at, end, depth = waiting.pop()
                if depth > DEEPEST:
                    raise damaged
                for field, start, stop in fields_of(data, at, end):
                    if kind == "Tensor" and field in EXTERNAL and (field == 13 or data[start] != 0):
                        raise UserError(f"'{path}' takes weights from other files; save it as one file")
                    if field in MESSAGES[kind]:
                        waiting.append((MESSAGES[kind][field], start, stop, depth + 1))
        except (ValueError, IndexError) as error:
            raise error if isinstance(error, UserError) else damaged from error


def fields_of(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, begin and end of each field of a protobuf message.

    Raises:
        ValueError, IndexError: it is none.
    """
    while at < end:
        tag, at = varint(data, at)
        start, stop = at, at + FIXED.get(tag & 7, 0)
        if tag & 7 == 0:
            stop = varint(data, at)[1]
        elif tag & 7 == 2:
            length, start = varint(data, at)
            stop = start + length
        if stop > end or stop == at or not tag >> 3:
            raise ValueError("a field that reaches beyond its message, or of no known type")
        yield tag >> 3, start, stop
        at = stop


def varint(data: mmap.mmap | bytes, at: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the lowest first, and the place after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise ValueError("an integer of more than 64 bits")
