"""The formats that a network can be exported to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.exporting import coreml, executorch, litert, ncnn, onnx, openvino, torchscript, web, yolov5
from models.exporting.config import ExportConfig
from models.exporting.job import Exporter
from utils.errors import UserError
from utils.optional import check_all_installed


@dataclass(frozen=True)
class Format:
    """A format and how it is written.

    Attributes:
        suffix: of the file, or of the folder's name when it has no dot: best + .onnx, best + _openvino_model.
        needs: packages, by the names of their modules.
        flags: which of --raw, --nms, --dynamic, --half and --int8 it knows.
        compared: whether anything here runs it, so that it can be verified.
        rewritten: whether it holds the network as `network.exported_network` makes it, not as it was trained.
        check: raises a UserError before the work when flags, or what else it needs, rule it out.
    """

    name: str
    suffix: str
    exporter: Exporter
    needs: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    compared: bool = True
    rewritten: bool = True
    check: Callable[[ExportConfig], None] | None = None

    @property
    def is_folder(self) -> bool:
        return "." not in self.suffix or self.suffix == ".mlpackage"


PIP = {"litert_torch": litert.PIP}  # what `pip install` has to be told when that is not the module's name
TRACED, GRAPH = ("raw", "dynamic", "half"), ("raw", "nms", "dynamic", "half")
FLAGS = (*GRAPH, "int8")

FORMATS = {
    form.name: form
    for form in (
        Format("torchscript", ".torchscript", torchscript.export, (), TRACED),
        Format("onnx", ".onnx", onnx.export, ("onnx", "onnxruntime"), FLAGS),
        Format("openvino", "_openvino_model", openvino.export, ("openvino", "onnx"), FLAGS),
        Format("ncnn", "_ncnn_model", ncnn.export, ("ncnn", "pnnx"), ("half",)),
        Format("executorch", ".pte", executorch.export, ("executorch",)),
        Format("litert", ".tflite", litert.export, ("litert_torch",)),
        Format("coreml", ".mlpackage", coreml.export, ("coremltools",), ("half",), compared=False),
        # TensorRT builds its engine on the GPU that will run it, from this ONNX
        Format("tensorrt", ".onnx", onnx.export, ("onnx", "onnxruntime"), GRAPH),
        Format("yolov5", yolov5.SUFFIX, yolov5.export, (), ("half",), rewritten=False),
        Format("web", web.SUFFIX, web.export, ("onnx", "onnxruntime"), check=web.check),
    )
}

INT8_FORMATS = tuple(name for name, form in FORMATS.items() if "int8" in form.flags)
SYNONYMS = {
    "tflite": "litert",
    "engine": "tensorrt",
    "trt": "tensorrt",
    "pte": "executorch",
    "xml": "openvino",
}
TENSORFLOW = "TensorFlow formats are not written; use litert (.tflite), or onnx"
REFUSED_FORMATS = {
    "keras": TENSORFLOW,
    "saved_model": TENSORFLOW,
    "pb": TENSORFLOW,
    "tfjs": "TensorFlow.js is not written; use web, a page that runs the network in a browser",
    "edgetpu": "its compiler takes an INT8 .tflite; export litert and quantise it with LiteRT's own tools",
    "paddle": "Paddle is not written; use onnx, which paddle2onnx and FastDeploy read",
    "mlmodel": "use coreml, which writes an .mlpackage",
}


def formats_of(config: ExportConfig) -> list[Format]:
    """The formats that `--include` names, each once; all know the other flags, and their packages are there.

    Raises:
        UserError: an unknown name, or that of a format of YOLOv5 that is not written here; a flag that a
            format does not know; a missing package, or what else a format needs.
    """
    found: dict[str, Format] = {}
    for given in config.include:
        name = SYNONYMS.get(given.lower(), given.lower())
        if name in REFUSED_FORMATS:
            raise UserError(f"--include {given}: {REFUSED_FORMATS[name]}")
        if name not in FORMATS:
            raise UserError(f"--include {given}: no such format; known are {', '.join(FORMATS)}")
        found[name] = FORMATS[name]
    for flag in FLAGS:
        for form in found.values():
            if getattr(config, flag) and flag not in form.flags:
                able = ", ".join(other.name for other in FORMATS.values() if flag in other.flags)
                raise UserError(f"--{flag} is not for {form.name}; it is for {able}")
    check_needs(*found.values(), more=("nncf",) if config.int8 else ())
    for form in found.values():
        if form.check:
            form.check(config)
    return list(found.values())


def check_needs(*forms: Format, more: Sequence[str] = ()) -> None:
    """Raise a UserError with the pip command when packages that formats need, or more, are not installed."""
    needed = (*(package for form in forms for package in form.needs), *more)
    check_all_installed({package: PIP.get(package, package) for package in needed})
