"""ONNX: one file that ONNX Runtime, OpenVINO, TensorRT and OpenCV's DNN read."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from models.exporting.job import INPUT_NAME, OUTPUT_NAME, Job
from models.exporting.network import halved
from utils.errors import UserError
from utils.optional import require

_STANDARD_OUTPUT = threading.Lock()
OPSETS = range(12, 21)  # OpenCV reads 12; the exporter that follows a trace writes up to 20


def export(job: Job) -> None:
    """Write the network with its metadata.

    Raises:
        UserError: onnx, or a simplifier that was asked for, is not installed.
    """
    onnx = require("onnx", "onnx")
    write_graph(job)
    model = onnx.load(str(job.target))
    if job.simplify:
        model = simplified(model)
    drop_identities(model.graph)
    onnx.helper.set_model_props(model, job.metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(job.target))


def write_graph(job: Job) -> None:
    """Trace the network and write it as it comes out of torch."""
    network, image = (halved(job.network), job.image.half()) if job.half else (job.network, job.image)
    noise = logging.getLogger("torch.onnx")
    level = noise.level
    noise.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad(), _silence():
            # a trace makes shapes constant, which is what is wanted here; and torch would rather see a newer
            # exporter used, which needs a further package and writes opset 18 and later only
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (image,),
                str(job.target),
                dynamo=False,
                opset_version=job.opset,
                input_names=[INPUT_NAME],
                output_names=list(job.outputs),
                dynamic_axes=_dynamic_axes(job),
            )
    finally:
        noise.setLevel(level)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on standard output: before an error, torch prints the whole graph there, not through Python."""
    if sys.stdout is None:  # it is closed, and its number may be that of another file
        yield
        return
    with _STANDARD_OUTPUT:
        sys.stdout.flush()
        before = os.dup(1)
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        try:
            yield
        finally:
            os.dup2(before, 1)
            os.close(before)


def _dynamic_axes(job: Job) -> dict[str, dict[int, str]]:
    """Names of the axes whose size is free, per input and output."""
    axes: dict[str, dict[int, str]] = {}
    if job.dynamic:
        axes[INPUT_NAME] = {0: "batch", 2: "height", 3: "width"}
        if len(job.outputs) > 1:
            axes |= {n: {0: "batch", 2: f"height{i}", 3: f"width{i}"} for i, n in enumerate(job.outputs)}
        else:
            axes[OUTPUT_NAME] = {0: "batch", 1: "predictions"}
    if job.nms:
        axes[OUTPUT_NAME] = {0: "detections"}
    return axes


def simplified(model: Any) -> Any:
    """The model after onnxslim, or onnxsim when only that is installed.

    Raises:
        UserError: neither is installed, or it fails.
    """
    try:
        return require("onnxslim", "onnxslim").slim(model)
    except UserError:
        if importlib.util.find_spec("onnxsim") is None:
            raise
    simpler, equal = require("onnxsim", "onnxsim").simplify(model)
    if not equal:
        raise UserError("onnxsim gave a network that differs; leave out --simplify")
    return simpler


def drop_identities(graph: Any) -> None:
    """Remove every Identity node, in place: torch writes one wherever two weights happen to be equal."""
    outputs = {value.name for value in graph.output}
    source: dict[str, str] = {}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = source.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            source[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
