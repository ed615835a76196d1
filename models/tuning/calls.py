"""Networks as calls in the runtime that they are for, and their times in turns."""

from __future__ import annotations

import random
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.runtimes.opening import load_backend
from models.runtimes.openvino import shared_core
from utils.console import progress
from utils.optional import require

Call = Callable[[], Any]


def open_torch(path: Path, image: np.ndarray, threads: int) -> Call:
    """A traced network in PyTorch, in the memory format that `models.runtimes.opening` uses."""
    warnings.simplefilter("ignore", FutureWarning)  # torch's plans for TorchScript
    torch.set_num_threads(threads)
    module = torch.jit.load(str(path)).eval().to(memory_format=torch.channels_last)
    images = torch.from_numpy(image).to(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: module(images))


def session_options(threads: int) -> Any:
    """Of ONNX Runtime. Idle threads do not spin: they would disturb the session that is next."""
    options = require("onnxruntime", "onnxruntime").SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def open_onnx(path: Path, image: np.ndarray, threads: int) -> Call:
    """An ONNX file in ONNX Runtime."""
    onnxruntime, options = require("onnxruntime", "onnxruntime"), session_options(threads)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})


def openvino_request(path: Path, threads: int, **properties: Any) -> Any:
    """An ONNX file or a folder of its own in OpenVINO, tuned for latency, in single precision."""
    core = shared_core()
    tuned = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    settings = {"INFERENCE_NUM_THREADS": threads, **tuned, **properties}
    if path.is_dir():
        (path,) = path.glob("*.xml")
    return core.compile_model(core.read_model(str(path)), "CPU", settings).create_infer_request()


def open_openvino(path: Path, image: np.ndarray, threads: int) -> Call:
    request = openvino_request(path, threads)
    return lambda: request.infer({0: image}, share_inputs=True)


def open_ncnn(path: Path, image: np.ndarray, threads: int) -> Call:
    """A folder with an ncnn network; it takes one image at a time."""
    backend = load_backend(path, threads=threads)
    images = torch.from_numpy(image)
    return torch.inference_mode()(lambda: backend(images))


RUNTIMES = {"torch": "torchscript", "onnx": "onnx", "openvino": "onnx", "ncnn": "ncnn"}  # and what each reads
OPENERS = {"torch": open_torch, "onnx": open_onnx, "openvino": open_openvino, "ncnn": open_ncnn}


def measure(calls: Mapping[str, Call], rounds: int, warmup: int, title: str = "") -> dict[str, list[float]]:
    """Milliseconds of each call in each round, after `warmup` rounds that are thrown away.

    Every round calls each network once, in an order drawn for that round, so that a disturbance of the
    machine, and what a neighbour leaves in the caches, meets all of them alike.

    Args:
        title: of a bar of progress; without one there is none.
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    numbers = range(warmup + rounds)
    for _ in progress(numbers, title, unit=" rounds") if title else numbers:
        for name in order.sample(names, len(names)):
            begin = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: found[warmup:] for name, found in times.items()}
