"""Clocks, devices and messages with YOLOv5's names."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from utils import device as own
from utils.detections.window import display_missing

STYLES = {
    "black": 30, "red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "white": 37,
    "bold": 1, "underline": 4,
}  # fmt: skip


class _ToStandardOutput(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stdout, flush=True)


# of scripts alone: they expect to see what they tell it, without having set anything up
LOGGER = logging.getLogger("lean5.scripts")
LOGGER.addHandler(_ToStandardOutput())
LOGGER.setLevel(logging.INFO)
LOGGER.propagate = False


class Profile(contextlib.ContextDecorator):
    """Measures a block or a function: `t` are all seconds so far, `dt` those of the last time."""

    def __init__(self, t: float = 0.0, device: torch.device | None = None) -> None:
        self.t, self.dt = t, 0.0

    def __enter__(self) -> Profile:
        self.start = time_sync()
        return self

    def __exit__(self, *exception: object) -> None:
        self.dt = time_sync() - self.start
        self.t += self.dt


def time_sync() -> float:
    """The time in seconds, after CUDA has done what it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.time()


def smart_inference_mode(torch_1_9: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator: the function runs without recording gradients."""
    return torch.inference_mode()


def select_device(device: str | torch.device = "", batch_size: int = 0, newline: bool = True) -> torch.device:
    """As `utils.device.select_device`; the other arguments are YOLOv5's and have no effect.

    Raises:
        UserError: no such device on this machine.
    """
    return own.select_device(str(device))


def set_logging(name: str | None = None, verbose: bool = True) -> None:
    """What `LOGGER` lets through: everything, or warnings only when not `verbose`."""
    LOGGER.setLevel(logging.INFO if verbose else logging.WARNING)


def colorstr(*words: str) -> str:
    """The last word in the colours and styles that the others name; alone, blue and bold."""
    *styles, text = words if len(words) > 1 else ("blue", "bold", words[0])
    return "".join(f"\033[{STYLES[style]}m" for style in styles) + f"{text}\033[0m"


def print_args(args: dict[str, Any] | None = None, show_file: bool = True, show_func: bool = False) -> None:
    """One line with names and values."""
    LOGGER.info(", ".join(f"{key}={value}" for key, value in (args or {}).items()))


def check_imshow(warn: bool = False) -> bool:
    """Whether a window can be shown; with `warn` the log says why not."""
    reason = display_missing()
    if reason and warn:
        LOGGER.warning(f"no window can be shown: {reason}")
    return not reason


def check_requirements(*args: object, **settings: object) -> None:
    """Does nothing: no package is ever installed here, and what is missing is told where it is needed."""
