"""A `.pte` file that `export.py --include executorch` wrote."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from models.exporting.executorch import METADATA
from models.runtimes.base import Backend, first_line
from models.runtimes.metadata import described, read_json
from utils.errors import UserError
from utils.optional import require

METHOD = "forward"


class ExecuTorchBackend(Backend):
    """A network in ExecuTorch on the CPU (optional package), for one batch and one image size.

    Args:
        threads: of all ExecuTorch networks in this process, None for as many as there are cores.
    """

    def __init__(self, path: Path, device: torch.device, threads: int | None = None) -> None:
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
            self.method = self.program.load_method(METHOD)
            text = self.program.load_method(METADATA).execute([])[0] if self._has(METADATA) else ""
            sizes = self.method.metadata.input_tensor_meta(0).sizes()
        except (RuntimeError, KeyError) as error:
            raise UserError(
                f"'{path}' is not an ExecuTorch file that can be run: {first_line(error)}"
            ) from error
        if len(sizes) != 4:
            raise UserError(f"'{path}' takes {tuple(sizes)}, not images (B, 3, H, W)")
        self.batch, self.shape = sizes[0], (sizes[2], sizes[3])
        description = described(read_json(text, path), path)
        self.names, self.stride = description.names, description.stride

    def _has(self, name: str) -> bool:
        return name in self.program.method_names

    def run(self, images: Tensor) -> Tensor:
        # XNNPACK takes no images that are channels last
        output = self.method.execute([images.cpu().float().contiguous()])[0]
        return output.to(self.device)
