"""A folder that `export.py --include openvino` wrote: an .xml and a .bin file, and metadata.yaml."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Backend, first_line, the_pair
from models.runtimes.metadata import read_yaml
from utils.errors import UserError
from utils.optional import require


@cache
def shared_core() -> Any:
    """The process's only `openvino.Core`.

    Each one gives the thread a stack for its signal handlers and puts the previous one's back when it goes.
    When two of them go in the order of their birth, that stack is no longer there: the next Ctrl-C crashes.
    """
    return require("openvino", "openvino").Core()


def told_precision(compiled: Any) -> str:
    """In what a compiled network computes: f32, bf16 …"""
    return str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name())


class OpenVINOBackend(Backend):
    """A network in OpenVINO on the CPU (optional package).

    Computes in single precision unless `half` asks for bf16, also where OpenVINO itself would take that. In
    bf16 it leaves what follows the last convolutions, the coordinates, in single precision. Integer layers
    stay integer.
    """

    library = "OpenVINO"

    def __init__(
        self, folder: Path, device: torch.device, half: bool, threads: int | None, calls: int = 1
    ) -> None:
        super().__init__(device, half)
        openvino = require("openvino", "openvino")
        xml, weights = the_pair(folder, ".xml")
        config: dict[str, str | int] = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.dtype == torch.bfloat16 else "f32"
        }
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        if calls > 1:
            config |= {"NUM_STREAMS": calls, "INFERENCE_NUM_THREADS": threads or torch.get_num_threads()}
            self.calls = calls
        self.own = threading.local()
        try:
            core = shared_core()
            self.compiled = core.compile_model(core.read_model(str(xml), str(weights)), "CPU", config)
        except (RuntimeError, ValueError) as error:  # the latter where a message is no text
            raise UserError(f"'{folder}' cannot be run by OpenVINO: {first_line(error)}") from error
        if self.dtype == torch.bfloat16 and told_precision(self.compiled) != "bf16":  # it decides itself
            self.dtype, self.place = torch.float32, "cpu"
        entry = self.compiled.inputs[0]
        element = entry.get_element_type()
        if len(self.compiled.inputs) != 1 or element not in (openvino.Type.f16, openvino.Type.f32):
            raise UserError(
                f"'{folder}' has {len(self.compiled.inputs)} inputs, the first of {element.get_type_name()}; "
                "it takes one of images, f32 or f16"
            )
        self.input_type = np.float16 if element == openvino.Type.f16 else np.float32
        shape = entry.get_partial_shape()
        sides = [] if shape.rank.is_dynamic else shape
        lengths = [None if side.is_dynamic else side.get_length() for side in sides]
        self.configure(folder, read_yaml(folder), lengths)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        array = np.ascontiguousarray(images.cpu().numpy().astype(self.input_type, copy=False))
        if not hasattr(self.own, "request"):  # each thread has its own
            self.own.request = self.compiled.create_infer_request()
        results = self.own.request.infer([array])
        return [torch.from_numpy(np.array(results[port], np.float32)) for port in self.compiled.outputs]
