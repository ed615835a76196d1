"""The formats that a network can be exported to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.exporting import coreml, executorch, litert, ncnn, onnx, openvino, torchscript
from models.exporting.job import Exporter
from utils.errors import UserError


@dataclass(frozen=True)
class Format:
    """A format and how it is written.

    Attributes:
        suffix: of the file, or of the folder's name when it has no dot: best + .onnx, best + _openvino_model.
        needs: modules, each with what `pip install` has to be told.
        runs_here: whether a backend of `models.runtimes` runs it, so that `detect.py` and `val.py` take it.
        compared: whether anything here runs it, so that it can be verified.
        raw, nms, dynamic, half: which of these flags it knows.
    """

    name: str
    suffix: str
    exporter: Exporter
    needs: tuple[tuple[str, str], ...] = ()
    runs_here: bool = True
    compared: bool = True
    raw: bool = False
    nms: bool = False
    dynamic: bool = False
    half: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether the artefact is a folder."""
        return not self.suffix.startswith(".") or self.suffix == ".mlpackage"


ONNX = (("onnx", "onnx"), ("onnxruntime", "onnxruntime"))
OPENVINO = (("openvino", "openvino"), ("onnx", "onnx"))
NCNN = (("ncnn", "ncnn"), ("pnnx", "pnnx"))
EXECUTORCH, COREML = (("executorch", "executorch"),), (("coremltools", "coremltools"),)
LITERT = (("litert_torch", litert.PIP),)

FORMATS = {
    form.name: form
    for form in (
        Format("torchscript", ".torchscript", torchscript.export, raw=True, dynamic=True, half=True),
        Format("onnx", ".onnx", onnx.export, ONNX, raw=True, nms=True, dynamic=True, half=True),
        Format(
            "openvino", "_openvino_model", openvino.export, OPENVINO,
            raw=True, nms=True, dynamic=True, half=True,
        ),
        Format("ncnn", "_ncnn_model", ncnn.export, NCNN, half=True),
        Format("executorch", ".pte", executorch.export, EXECUTORCH),
        Format("litert", ".tflite", litert.export, LITERT, runs_here=False),
        Format("coreml", ".mlpackage", coreml.export, COREML, runs_here=False, compared=False, half=True),
        # TensorRT builds its engine on the GPU that will run it, from this ONNX
        Format("tensorrt", ".onnx", onnx.export, ONNX, raw=True, nms=True, dynamic=True, half=True),
    )
}  # fmt: skip

SYNONYMS = {
    "tflite": "litert",
    "engine": "tensorrt",
    "trt": "tensorrt",
    "pte": "executorch",
    "xml": "openvino",
}
TENSORFLOW = "TensorFlow formats are not written; use litert (.tflite), or onnx"
REFUSED = {
    "keras": TENSORFLOW,
    "saved_model": TENSORFLOW,
    "pb": TENSORFLOW,
    "tfjs": "TensorFlow.js is not written; use onnx, which ONNX Runtime Web runs in a browser",
    "edgetpu": "its compiler takes an INT8 .tflite; export litert and quantise it with LiteRT's own tools",
    "paddle": "Paddle is not written; use onnx, which paddle2onnx and FastDeploy read",
    "mlmodel": "use coreml, which writes an .mlpackage",
}


def formats_named(names: Sequence[str]) -> list[Format]:
    """The formats that `--include` names, each once.

    Raises:
        UserError: an unknown name, or that of a format of YOLOv5 that is not written here.
    """
    found: dict[str, Format] = {}
    for given in names:
        name = SYNONYMS.get(given.lower(), given.lower())
        if name in REFUSED:
            raise UserError(f"--include {given}: {REFUSED[name]}")
        if name not in FORMATS:
            raise UserError(f"--include {given}: no such format; known are {', '.join(FORMATS)}")
        found[name] = FORMATS[name]
    return list(found.values())
