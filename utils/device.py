"""Choosing where to compute, and in what precision."""

from __future__ import annotations

import os
import re
from typing import Literal

import torch

from utils.errors import UserError

Amp = Literal["auto", "off", "fp16", "bf16"]
AREA = 640 * 640  # pixels that a core takes through a network at once, see `images_at_once`
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # what oneDNN, which convolves, is told to do without
WITH_BF16 = re.compile("|DEFAULT|ALL|.*(BF16|FP16|AMX).*", re.IGNORECASE)  # limits that leave it


def select_device(name: str = "", local_rank: int = 0, processes: int = 1) -> torch.device:
    """The device that `--device` names: "" (CUDA when there is any, else cpu), "cpu", "mps", "0" or "0,1".

    Args:
        local_rank: of several CUDA devices a process takes the one with this place in the list.
        processes: how many train together; one process drives one device.

    Raises:
        UserError: no such device on this machine, or several devices for one process.
    """
    wanted = name.lower().replace(" ", "").replace("cuda:", "").replace("none", "")
    if wanted == "":
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if wanted == "cpu":
        return torch.device("cpu")
    if wanted == "mps":
        if not torch.backends.mps.is_available():
            raise UserError("--device mps: this machine has no Metal device; use --device cpu")
        return torch.device("mps")
    if not re.fullmatch(r"cuda|\d+(,\d+)*", wanted, re.ASCII):
        raise UserError(f"--device {name}: expected cpu, mps or CUDA numbers such as 0 or 0,1")
    numbers = [int(number) for number in wanted.replace("cuda", "0").split(",")]
    count = torch.cuda.device_count()
    if max(numbers) >= count:
        there = f"0 to {count - 1}" if count > 1 else "0" if count else "none"
        raise UserError(f"--device {name}: CUDA devices of this machine: {there}; --device cpu does without")
    if len(numbers) > 1 and processes == 1:
        command = f"torchrun --nproc_per_node {len(numbers)} train.py"
        raise UserError(f"--device {name}: one process drives one device; start several with {command} …")
    return torch.device("cuda", numbers[local_rank % len(numbers)])


def amp_dtype(amp: Amp, device: torch.device) -> torch.dtype | None:
    """The dtype of mixed precision, or None for full precision.

    Raises:
        UserError: fp16 asked for on a device without gradient scaling.
    """
    if amp == "off" or (amp == "auto" and device.type != "cuda"):
        return None
    if amp == "bf16":
        return torch.bfloat16
    if device.type != "cuda":
        raise UserError(f"--amp fp16 needs a CUDA device, found {device.type}; use --amp bf16 or --amp off")
    return torch.float16


def resolved(amp: Amp, device: torch.device) -> Amp:
    """Mixed precision for learning from a teacher: on a CPU "auto" is bf16 where that is fast, else off."""
    if amp != "auto" or device.type != "cpu":
        return amp
    return "bf16" if cpu_is_fast_in_bf16() else "off"


def half_dtype(device: torch.device) -> torch.dtype | None:
    """The half precision in which a device predicts faster than in single precision; None without one."""
    if device.type == "cuda":
        return torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_is_fast_in_bf16() else None


def cpu_is_fast_in_bf16() -> bool:
    """Whether the CPU has instructions that multiply bf16, and oneDNN is not told to do without them.

    Then it imitates them, many times slower.
    """
    if not all(WITH_BF16.fullmatch(os.environ.get(limit, "")) for limit in ISA_LIMITS):
        return False
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every release
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Mixed precision for the forward pass, or nothing when `dtype` is None."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def memory_format(device: torch.device) -> torch.memory_format:
    """The layout of images and weights that convolutions of a device like best.

    On CPU oneDNN is quicker with channels last; `benchmarks/overhead.py train` shows it, as its bare side has
    the default layout.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def images_at_once(device: torch.device, height: int, width: int) -> int | None:
    """How many images should go through a network together, or None for all that there are.

    Of more of them a CPU forgets what a layer gave before the next one reads it, and asks the system for the
    memory anew: 32 images of 640 pixels take half as long again as two at a time.
    """
    if device.type != "cpu":
        return None
    return max(torch.get_num_threads() * AREA // max(height * width, 1), 1)


def synchronise(device: torch.device) -> None:
    """Wait for queued work, so that a clock read afterwards means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
