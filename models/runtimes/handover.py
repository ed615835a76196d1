"""A network that begins in PyTorch and goes on in a quicker runtime, as soon as that has it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.runtimes.base import Backend, checksum
from models.runtimes.kept import place_of, written
from models.runtimes.opening import load_backend
from models.runtimes.pytorch import PyTorchBackend
from models.yolo import DetectionModel
from utils.console import warn
from utils.errors import UserError
from utils.files import ROOT

AFTER = 256  # images, after which the network is written for the other runtime: short work ends before
# most difference of a box at 640 pixels, where the rounding of single precision makes 0.002, and of a score
PIXELS, SCORE = 0.01, 1e-4


class Handover(Backend):
    """`first` at once; the same network in another runtime from when it is written, and gives the same.

    It is written by a process of its own, with one thread, unless it is kept from another time, and compared
    on the images that are there then. Whatever goes wrong with it, `first` goes on; so it does with
    augmentation, and when it was brought to another device or precision.

    Args:
        weights: of `first`.
        runtime: "onnx" or "openvino".
        threads, calls: for the other runtime, see `load_backend`.
    """

    any_shape = pt = True

    def __init__(
        self, first: PyTorchBackend, weights: Path, runtime: str, threads: int | None, calls: int
    ) -> None:
        super().__init__(first.device)
        self.names, self.stride, self.channels = first.names, first.stride, first.channels
        self.first, self.calls = first, calls
        self.weights, self.runtime, self.threads = weights.absolute(), runtime, threads
        self.title, self.origin = first.title, first.origin
        self.second: Backend | None = None
        self.over = False  # whether it is settled who goes on
        self._seen = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        if augment or self._is_elsewhere():
            return self.first(images, augment)
        if not self.over:
            with self._lock:
                self._look_after(images)
        return self.first(images) if self.second is None else self.second(images)

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, also one for another process, begins anew."""
        return Handover, (self.first, self.weights, self.runtime, self.threads, self.calls)

    @property
    def model(self) -> DetectionModel:
        """The network in PyTorch, for scripts that look into it."""
        return self.first.model

    def close(self) -> None:
        """End the process that writes, if it still does."""
        self.over = True
        if self._child is not None:
            assert self._child.stdin is not None
            self._child.stdin.close()  # upon which it ends and cleans up
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=3)
            self._child.kill()
            self._child.wait()

    def _is_elsewhere(self) -> bool:
        """Whether somebody called `.to()`, `.half()` and the like."""
        weight = next(self.first.parameters())
        return weight.device.type != "cpu" or weight.dtype != torch.float32

    def _look_after(self, images: Tensor) -> None:
        if self.over:
            return
        if not self._seen and (file := written(self.weights)):
            self.over = True
            self._try(images, file)
            return
        if self._child is None:
            self._seen += len(images)
            if self._seen >= AFTER:
                command = [sys.executable, "-m", "models.exporting.kept", str(self.weights), self.runtime]
                self._child = subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
        elif self._child.poll() is not None:
            self.over = True
            if self._child.returncode == 0:
                self._try(images, place_of(checksum([self.weights]), self.runtime))

    def _try(self, images: Tensor, file: Path) -> None:
        """Take what was written as the second, if it gives what the first does."""
        try:
            second = load_backend(file, threads=self.threads, calls=self.calls)
            found, expected = second(images), self.first(images)
        except (UserError, OSError) as error:
            warn(f"{self.runtime} cannot take over: {error}")
            return
        if differ(found, expected, max(images.shape[2:])):
            warn(f"{self.runtime} gives other boxes than PyTorch, which goes on")
            return
        self.title = self.title.replace("PyTorch", f"PyTorch, then {second.library}")
        self.second = second


def differ(found: Tensor, expected: Tensor, side: int) -> bool:
    """Whether predictions (B, N, 5 + nc) for images of a longer side in pixels differ beyond rounding."""
    if found.shape != expected.shape:
        return True
    difference = (found.float() - expected.float()).abs()
    return not bool(
        torch.isfinite(found).all()
        and difference[..., :4].max() <= PIXELS * side / 640
        and difference[..., 4:].max() <= SCORE
    )
