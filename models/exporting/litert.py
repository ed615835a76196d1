"""LiteRT (TensorFlow Lite): one `.tflite` file, with `metadata.yaml` in it as LiteRT packs associated files.

The file is a flatbuffer followed by a zip archive; an interpreter reads the first, `unzip` the second. Input
and output keep PyTorch's shapes: images (B, C, H, W) 0–1, predictions (B, N, 5 + nc).
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor

from models.exporting.job import Job
from models.exporting.quiet import quiet
from models.runtimes.metadata import YAML_FILE, yaml_text
from utils.optional import require

PIP = "-r requirements-litert.txt"


@quiet()
@torch.no_grad()
def export(job: Job) -> None:
    """Convert the network for images of exactly the job's shape.

    Raises:
        UserError: litert-torch is not installed.
    """
    converter = require("litert_torch", PIP)
    converter.convert(job.network.eval(), (job.image.contiguous(),)).export(str(job.target))
    with zipfile.ZipFile(job.target, "a") as archive:
        archive.writestr(YAML_FILE, yaml_text(job.metadata))


def run(path: Path, images: Tensor) -> Tensor:
    """The output of a LiteRT file for (B, C, H, W) float32 images of its shape, for comparisons.

    `detect.py` and `val.py` do not run such files; the interpreter is one that the converter brings along.
    """
    interpreter = require("ai_edge_litert.interpreter", PIP).Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images.contiguous().numpy())
    interpreter.invoke()
    return torch.from_numpy(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
