"""The checks of `benchmark.py gpu`, in the order in which they run: what is worth most comes first.

A check is a generator of rows, dictionaries by title of a column; what it gave stays when it fails later. It
raises `LeftOut` when this machine cannot have it, and any other error when what it expects does not hold.
"""

from __future__ import annotations

import copy
import csv
import functools
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.measuring import (
    PRECISIONS,
    LeftOut,
    Setting,
    boxes_of,
    differences,
    gigabytes,
    timed,
    timed_forward,
    timed_steps,
)
from models.detector import Detector
from models.exporting.formats import FORMATS
from models.exporting.job import Job
from models.exporting.network import exported_network
from models.runtimes.machine import version_of
from models.runtimes.opening import load_backend
from models.yolo import DetectionModel
from training.autobatch import largest_batch
from utils.data.dataset import DetectionDataset
from utils.data.images import read_image
from utils.data.index import DatasetIndex, build_index
from utils.data.loader import Loader
from utils.errors import UserError
from utils.evaluation.evaluate import evaluate
from utils.files import ROOT

Row = dict[str, str]
Check = Callable[[Setting], Iterator[Row]]
SAME_MAP = 0.002  # mAP50-95 that half precision may cost
SAME_BOX = 1.0  # pixels of the picture between the boxes of a device in fp32 and those of the CPU
LEARNT = 0.02  # mAP50-95 that mixed precision may cost in training beside fp32, which varies itself
COMPILING = 60.0  # seconds that torch.compile is given at the least


def training_steps(at: Setting) -> Iterator[Row]:
    """Forward, loss, backward and optimizer on one fixed batch, 10 steps after 3; without loading."""
    for name, dtype in at.precisions.items():
        for batch in at.batches:
            seconds, peak = timed_steps(at, at.network().train(), batch, dtype)
            rate = "does not fit" if math.isinf(seconds) else f"{batch / seconds:,.0f}"
            yield {"precision": name, "batch": f"{batch}", "images a second": rate, "peak": gigabytes(peak)}


def largest(at: Setting) -> Iterator[Row]:
    """The batch that `--batch-size -1` takes, 0.8 of what is free, and what a step of it takes indeed."""
    if not at.cuda:
        raise LeftOut("--batch-size -1 is for CUDA")
    dtype = torch.float16
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(at.device)
    model = at.network().train()
    batch = largest_batch(model, at.imgsz, at.device, dtype)
    seconds, peak = timed_steps(at, model, batch, dtype)
    share = peak / free
    yield {
        "free": gigabytes(free),
        "batch": f"{batch}",
        "peak": gigabytes(peak),
        "of what is free": f"{share:.2f}",
    }
    if math.isinf(seconds) or not 0.6 <= share <= 0.95:
        raise UserError(f"the step takes {share:.2f} of the free memory; 0.8 was asked for")


def forward(at: Setting) -> Iterator[Row]:
    """The fused network alone, on a fixed batch."""
    for name in ("fp32", "fp16") if at.cuda else ("fp32",):
        dtype = PRECISIONS[name] or torch.float32
        model = at.network().eval().fuse().to(dtype)
        for batch in at.batches:
            seconds = timed_forward(at, model, batch, dtype)
            each = {
                "milliseconds a batch": f"{seconds * 1e3:.2f}",
                "images a second": f"{batch / seconds:,.0f}",
            }
            yield {"precision": name, "batch": f"{batch}"} | each


def whole_trainings(at: Setting) -> Iterator[Row]:
    """`train.py` as a user runs it; mAP50-95 of the last epoch, median seconds of the epochs."""
    for name in at.precisions:
        yield train(at, name, "train.py")
    worst = min(at.maps.values())
    if at.maps["fp32"] - worst > LEARNT:
        raise UserError(f"mixed precision learnt less: {at.maps}")


def one_process_of_several(at: Setting) -> Iterator[Row]:
    """The same under `torchrun` with one process: NCCL on CUDA, gloo elsewhere."""
    yield train(at, "fp16" if at.cuda else "fp32", "-m", "torch.distributed.run", "--standalone", "train.py")


def train(at: Setting, precision: str, *program: str) -> Row:
    """Train, and keep the weights of the first run."""
    run = at.folder / f"{precision}-{len(program)}"
    words = [
        *program, "--cfg", at.cfg, "--data", at.train_data, "--hyp", "hyp.digits.yaml",
        "--imgsz", str(at.train_imgsz),
        "--epochs", str(at.epochs), "--batch-size", "16", "--workers", str(at.workers), "--noplots",
        "--device", str(at.device.index or 0) if at.cuda else at.device.type,
        "--amp", "off" if precision == "fp32" else precision,
        "--project", str(at.folder), "--name", run.name,
    ]  # fmt: skip
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=max(at.left, 10)
        )
    except subprocess.TimeoutExpired:
        raise LeftOut("no time was left to train") from None
    if done.returncode:
        raise UserError(f"train.py ended with status {done.returncode}: {last_line(done.stderr)}")
    with (run / "results.csv").open(encoding="utf-8") as file:
        score = float([*csv.DictReader(file)][-1]["metrics/mAP_0.5:0.95"])
    if at.trained is None:
        at.trained = run / "weights" / "best.pt"
    at.maps[precision] = score
    return {
        "command": " ".join(program).replace("-m torch.distributed.run --standalone", "torchrun"),
        "precision": precision,
        "mAP50-95": f"{score:.4f}",
        "seconds in all": f"{time.perf_counter() - started:.1f}",
        "seconds an epoch": f"{median_epoch(done.stdout + done.stderr):.2f}",
    }


def validation(at: Setting) -> Iterator[Row]:
    """Validation of the trained weights, in fp32 and as with `--half`, on the validation images."""
    weights, index = trained(at), val_index(at)
    scores = {}
    for half in (False, True) if at.cuda else (False,):
        backend = load_backend(weights, at.device, half=half)
        dataset = DetectionDataset(
            index,
            at.train_imgsz,
            rect=True,
            batch_size=32,
            stride=backend.stride,
            pad=0.5,
            channels=backend.channels,
        )
        started = time.perf_counter()
        result = evaluate(backend, Loader(dataset, workers=0, shuffle=False), at.device, at.spec.names)
        seconds = time.perf_counter() - started
        scores[half] = result.summary()[3]
        yield {
            "precision": "fp16" if half else "fp32",
            "mAP50-95": f"{scores[half]:.4f}",
            "images a second": f"{len(index) / seconds:,.0f}",
        }
    if abs(scores[False] - scores.get(True, scores[False])) > SAME_MAP:
        raise UserError(f"mAP50-95 in half precision differs by more than {SAME_MAP}")


def detection(at: Setting) -> Iterator[Row]:
    """Pictures through the whole detector, and its boxes beside those of the CPU in fp32."""
    weights = trained(at)
    pictures = [read_image(path) for path in val_index(at).paths()[:64]]
    on_cpu = boxes_of(Detector(load_backend(weights, "cpu")), pictures, at.val_imgsz, 16)[0]
    for half in (False, True) if at.cuda else (False,):
        detector = Detector(load_backend(weights, at.device, half=half))
        for batch in (1, 16):
            rows, seconds = boxes_of(detector, pictures, at.val_imgsz, batch)
            count, apart = differences(on_cpu, rows)
            yield {
                "precision": "fp16" if half else "fp32",
                "batch": f"{batch}",
                "images a second": f"{len(pictures) / seconds:,.0f}",
                "boxes": f"{sum(map(len, rows))} ({count:+d})",
                "farthest from the CPU's": f"{apart:.3f} px",
            }
            if not half and batch == 16 and apart > SAME_BOX:
                raise UserError(f"a box in fp32 is {apart:.2f} px from the CPU's")


def onnx_runtime(at: Setting) -> Iterator[Row]:
    """The exported network in ONNX Runtime, by execution provider, beside PyTorch on the CPU."""
    try:
        import onnxruntime
    except ImportError:
        raise LeftOut("onnxruntime is not installed") from None
    ours = {"CUDAExecutionProvider", "TensorrtExecutionProvider"} if at.cuda else {"CPUExecutionProvider"}
    wanted = [name for name in onnxruntime.get_available_providers() if name in ours]
    if not wanted:
        raise LeftOut(
            f"onnxruntime {version_of('onnxruntime')} has no provider for CUDA: pip install onnxruntime-gpu"
        )
    size = (at.imgsz, at.imgsz)
    torch.manual_seed(0)
    network = exported_network(DetectionModel(at.cfg).eval(), size)
    image = torch.rand(1, 3, *size)
    target = at.folder / "network.onnx"
    metadata = {"names": "{}", "stride": "32", "imgsz": str(list(size)), "channels": "3", "dynamic": "false"}
    FORMATS["onnx"].exporter(Job(network, image, target, metadata))
    with torch.no_grad():
        expected = network(image)[0].numpy()
    for provider in wanted:
        session = onnxruntime.InferenceSession(
            str(target), providers=list(dict.fromkeys((provider, "CPUExecutionProvider")))
        )
        call = functools.partial(session.run, None, {session.get_inputs()[0].name: image.numpy()})
        seconds = timed(call, at.device)
        yield {
            "provider": session.get_providers()[0],
            "milliseconds an image": f"{seconds * 1e3:.2f}",
            "largest difference": f"{np.abs(call()[0] - expected).max():.4f}",
        }
        if session.get_providers()[0] != provider:
            raise UserError(f"{provider} is built in and does not start")


def compiled(at: Setting) -> Iterator[Row]:
    """`torch.compile` of the fused network, a batch of one, beside the same network as it is."""
    if at.left < COMPILING:
        raise LeftOut(f"less than {COMPILING:.0f} seconds were left")
    dtype = torch.float16 if at.cuda else torch.float32
    model = at.network().eval().fuse().to(dtype)
    plain = timed_forward(at, model, 1, dtype)
    started = time.perf_counter()
    optimised = torch.compile(copy.deepcopy(model))
    first = timed_forward(at, optimised, 1, dtype)
    yield {
        "precision": "fp16" if at.cuda else "fp32",
        "as it is": f"{plain * 1e3:.2f} ms",
        "compiled": f"{first * 1e3:.2f} ms",
        "ratio": f"{first / plain:.2f}",
        "to compile": f"{time.perf_counter() - started:.0f} s",
    }


CHECKS: dict[str, Check] = {
    "steps": training_steps,
    "largest": largest,
    "forward": forward,
    "train": whole_trainings,
    "torchrun": one_process_of_several,
    "val": validation,
    "detect": detection,
    "onnx": onnx_runtime,
    "compile": compiled,
}


def trained(at: Setting) -> Path:
    if at.trained is None:
        raise LeftOut("no network was trained")
    return at.trained


def val_index(at: Setting) -> DatasetIndex:
    return build_index(at.spec.val, at.spec.names)


def median_epoch(output: str) -> float:
    """Seconds of an epoch as `train.py` told them, without the first."""
    lines = [line for line in output.splitlines() if line.startswith("epoch ") and line.endswith(" s")]
    seconds = [float(line.split()[-2]) for line in lines]
    return float(np.median(seconds[1:] or seconds or [math.nan]))


def last_line(text: str) -> str:
    return (text.strip().splitlines() or ["without a word"])[-1]
