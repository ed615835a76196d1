"""What speed depends on: the runtime and its version, the CPU and its instructions, and the threads."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}


@dataclass(frozen=True)
class Machine:
    """Where forms were timed.

    Attributes:
        instructions: the widest that concern convolutions: avx512, avx2, or the machine's architecture.
    """

    runtime: str
    version: str
    processor: str
    instructions: str
    threads: int

    @classmethod
    def here(cls, runtime: str, threads: int) -> Machine:
        """This one."""
        return cls(runtime, version_of(PACKAGES[runtime]), processor_name(), instruction_set(), threads)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.runtime} {self.version}, {self.processor} ({self.instructions}), {threads}"


def version_of(module: str) -> str:
    """The version of an installed package, which may be distributed under another name (onnxruntime-gpu)."""
    try:
        return importlib.metadata.version(module)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(importlib.import_module(module), "__version__", "unknown"))


def processor_name() -> str:
    """The CPU as its maker calls it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if "model name" in line:
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()


def instruction_set() -> str:
    """The widest instructions of this CPU that change how runtimes lay out maps."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every release
    widest = next((name for key, name in (("avx512_f", "avx512"), ("avx2", "avx2")) if known.get(key)), "")
    told = torch.backends.cpu.get_cpu_capability().lower()
    return widest or (told if told in ("avx2", "avx512") else platform.machine().lower())
