"""The formats that a network can be exported to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models.exporting import coreml, executorch, litert, ncnn, onnx, openvino, torchscript
from models.exporting.config import ExportConfig
from models.exporting.job import Exporter
from models.runtimes.opening import OPENERS
from utils.errors import UserError
from utils.optional import check_installed


@dataclass(frozen=True)
class Format:
    """A format and how it is written.

    Attributes:
        suffix: of the file, or of the folder's name when it has no dot: best + .onnx, best + _openvino_model.
        needs: modules, each with what `pip install` has to be told.
        flags: which of --raw, --nms, --dynamic, --half and --int8 it knows.
        compared: whether anything here runs it, so that it can be verified.
    """

    name: str
    suffix: str
    exporter: Exporter
    needs: tuple[tuple[str, str], ...] = ()
    flags: tuple[str, ...] = ()
    compared: bool = True

    def path(self, weights: Path, int8: bool) -> Path:
        """Where the artefact of a weights file goes: best.pt -> best.onnx, best_int8.onnx."""
        return weights.with_name(f"{weights.stem}{'_int8' if int8 else ''}{self.suffix}")

    @property
    def is_folder(self) -> bool:
        """Whether the artefact is a folder."""
        return not self.suffix.startswith(".") or self.suffix == ".mlpackage"

    @property
    def runs_here(self) -> bool:
        """Whether `detect.py` and `val.py` take it."""
        return self.suffix in OPENERS


ONNX = (("onnx", "onnx"), ("onnxruntime", "onnxruntime"))
OPENVINO = (("openvino", "openvino"), ("onnx", "onnx"))
NCNN = (("ncnn", "ncnn"), ("pnnx", "pnnx"))
EXECUTORCH, COREML = (("executorch", "executorch"),), (("coremltools", "coremltools"),)
LITERT = (("litert_torch", litert.PIP),)
TRACED, GRAPH = ("raw", "dynamic", "half"), ("raw", "nms", "dynamic", "half")
FLAGS = (*GRAPH, "int8")

FORMATS = {
    form.name: form
    for form in (
        Format("torchscript", ".torchscript", torchscript.export, (), TRACED),
        Format("onnx", ".onnx", onnx.export, ONNX, FLAGS),
        Format("openvino", "_openvino_model", openvino.export, OPENVINO, FLAGS),
        Format("ncnn", "_ncnn_model", ncnn.export, NCNN, ("half",)),
        Format("executorch", ".pte", executorch.export, EXECUTORCH),
        Format("litert", ".tflite", litert.export, LITERT),
        Format("coreml", ".mlpackage", coreml.export, COREML, ("half",), compared=False),
        # TensorRT builds its engine on the GPU that will run it, from this ONNX
        Format("tensorrt", ".onnx", onnx.export, ONNX, GRAPH),
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
    "tfjs": "TensorFlow.js is not written; use onnx, which ONNX Runtime Web runs in a browser",
    "edgetpu": "its compiler takes an INT8 .tflite; export litert and quantise it with LiteRT's own tools",
    "paddle": "Paddle is not written; use onnx, which paddle2onnx and FastDeploy read",
    "mlmodel": "use coreml, which writes an .mlpackage",
}


def formats_of(config: ExportConfig) -> list[Format]:
    """The formats that `--include` names, each once; all know the other flags, and their packages are there.

    Raises:
        UserError: an unknown name, or that of a format of YOLOv5 that is not written here; a flag that a
            format does not know; a missing package.
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
    for form in found.values():
        for package in form.needs:
            check_installed(*package)
    return list(found.values())
