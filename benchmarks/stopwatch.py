"""Times files in one runtime, in a process of its own: `python -m benchmarks.stopwatch JOB.json`.

The job is a JSON object: runtime, threads, rounds, warmup, files and images (name -> path, .npy) and result,
a file that is written: name -> milliseconds of every round. Every round calls each network once, in an order
drawn for that round, so that a disturbance of the machine, and what a neighbour leaves in the caches, meets
all of them alike.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable
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


OPENERS = {"torch": open_torch, "onnx": open_onnx, "openvino": open_openvino, "ncnn": open_ncnn}


def measure(calls: dict[str, Call], rounds: int, warmup: int, title: str = "") -> dict[str, list[float]]:
    """Milliseconds of each call in each round, after `warmup` rounds that are thrown away."""
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    order = random.Random(0)
    for _ in progress(range(warmup + rounds), title, unit=" rounds"):
        for name in order.sample(names, len(names)):
            begin = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - begin) * 1e3)
    return {name: found[warmup:] for name, found in times.items()}


def main(path: str) -> None:
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    opener = OPENERS[job["runtime"]]
    images = {name: np.load(file) for name, file in job["images"].items()}
    calls = {name: opener(Path(file), images[name], job["threads"]) for name, file in job["files"].items()}
    times = measure(calls, job["rounds"], job["warmup"], job["runtime"])
    Path(job["result"]).write_text(json.dumps(times), encoding="utf-8")


def end_with_parent() -> None:
    """Standard input closes when the command that waits for this is gone; nobody wants the times then."""
    os.read(0, 1)  # not by way of sys.stdin, whose lock a thread may not hold when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:  # the command that waits for this tells of it
        sys.exit(130)
