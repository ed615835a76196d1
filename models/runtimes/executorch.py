"""A `.pte` file that `export.py --include executorch` wrote."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.runtimes.base import Backend, first_line
from models.runtimes.metadata import METHOD, read_json
from utils.errors import UserError
from utils.optional import require


class ExecuTorchBackend(Backend):
    """A network in ExecuTorch on the CPU (optional package), for one batch and one image size.

    Its `threads` are those of all ExecuTorch networks in this process.
    """

    library = "ExecuTorch"

    def __init__(self, path: Path, device: torch.device, half: bool, threads: int | None) -> None:
        super().__init__(device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it calls itself experimental
            runtime = require("executorch.runtime", "executorch")
            library = require("executorch.extension.pybindings.portable_lib", "executorch")
        if threads is not None:
            library._unsafe_reset_threadpool(threads)  # unsafe while a network runs; none does yet
        try:
            # the program keeps the weights, and must live as long as its methods
            self.program = runtime.Runtime.get().load_program(path)
            self.method = self.program.load_method("forward")
            described = METHOD in self.program.method_names
            text = self.program.load_method(METHOD).execute([])[0] if described else ""
            sides = self.method.metadata.input_tensor_meta(0).sizes()
        except (RuntimeError, KeyError) as error:
            raise UserError(
                f"'{path}' is not an ExecuTorch file that can be run: {first_line(error)}"
            ) from error
        self.configure(path, read_json(text, path), sides)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        # XNNPACK takes no images that are channels last
        return self.method.execute([images.cpu().float().contiguous()])
