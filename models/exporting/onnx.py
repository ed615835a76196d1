"""ONNX: one file that ONNX Runtime, OpenVINO, TensorRT and OpenCV's DNN read."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from models.exporting.job import INPUT_NAME, OUTPUT_NAME, Job
from models.exporting.network import halved
from models.exporting.quiet import quiet
from utils.errors import UserError
from utils.optional import require

FOR_OPENCV = 12  # the opset that its DNN module reads


def export(job: Job) -> None:
    """Write the network with its metadata.

    Raises:
        UserError: onnx, or a simplifier that was asked for, is not installed.
    """
    onnx = require("onnx", "onnx")
    network, image = halved(job.network, job.image) if job.config.half else (job.network, job.image)
    names = [f"{OUTPUT_NAME[:-1]}{level}" for level in range(job.levels)]
    # torch would rather see a newer exporter used, which needs a further package and writes opset 18 and
    # later only
    with quiet(), torch.no_grad():
        torch.onnx.export(
            network,
            (image,),
            str(job.target),
            dynamo=False,
            opset_version=job.config.opset,
            input_names=[INPUT_NAME],
            output_names=names,
            dynamic_axes=_dynamic_axes(job, names),
        )
    model = onnx.load(str(job.target))
    if job.config.simplify:
        model = simplified(model)
    drop_identities(model.graph)
    if job.config.opset == FOR_OPENCV:
        repeat_summands(model)
    onnx.helper.set_model_props(model, job.metadata)
    onnx.checker.check_model(model)
    onnx.save(model, str(job.target))


def _dynamic_axes(job: Job, outputs: list[str]) -> dict[str, dict[int, str]]:
    """Names of the axes whose size is free, per input and output."""
    axes: dict[str, dict[int, str]] = {}
    if job.config.dynamic:
        axes = {n: {0: "batch", 2: f"height{i}", 3: f"width{i}"} for i, n in enumerate(outputs)}
        if not job.config.raw:
            axes = {OUTPUT_NAME: {0: "batch", 1: "predictions"}}
        axes[INPUT_NAME] = {0: "batch", 2: "height", 3: "width"}
    if job.config.nms:
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


def repeat_summands(model: Any) -> None:
    """Write a constant that is added to every channel once a channel, in place, as OpenCV before 4.7 needs.

    These are the cells of the head, (1, 1, 4, H * W), 0.3 MB more at 640 x 640.
    """
    onnx = require("onnx", "onnx")
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    constants = {entry.name: entry for entry in model.graph.initializer}
    for node in model.graph.node:
        result = shapes.get(node.output[0], [])
        for name in node.input if node.op_type == "Add" and len(result) == 4 else ():
            if name in constants and list(constants[name].dims) == [1, 1, *result[2:]] and result[1] > 1:
                array = onnx.numpy_helper.to_array(constants[name])
                repeated = array.repeat(result[1], axis=1)
                constants[name].CopyFrom(onnx.numpy_helper.from_array(repeated, name))


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
