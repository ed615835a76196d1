"""LiteRT (TensorFlow Lite): one `.tflite` file, with `metadata.yaml` in it as LiteRT packs associated files.

The file is a flatbuffer followed by a zip archive; an interpreter reads the first, `unzip` the second. Input
and output keep PyTorch's shapes: images (B, 3, H, W) RGB 0–1, predictions (B, N, 5 + nc).
"""

from __future__ import annotations

import contextlib
import io
import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from models.exporting.job import Job
from models.exporting.metadata import metadata_text
from utils.errors import UserError
from utils.optional import require

PIP = "-r requirements-litert.txt"
TOLERANCE = 1e-4  # largest difference, as a share of the largest value


def export(job: Job) -> None:
    """Convert the network for images of exactly the job's shape, and compare the file with it.

    No backend runs the file; the interpreter that the converter brings along is used for the comparison.

    Raises:
        UserError: litert-torch is not installed, or the file computes something else.
    """
    converter = require("litert_torch", PIP)
    image = job.image.contiguous()
    with warnings.catch_warnings(), torch.no_grad(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        converter.convert(job.network.eval(), (image,)).export(str(job.target))
        expected = job.network(image)
    with zipfile.ZipFile(job.target, "a") as archive:
        archive.writestr("metadata.yaml", metadata_text(job.metadata))
    found = run(job.target, image)
    if found.shape != expected.shape:
        raise UserError(f"the file gives {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}")
    for part in (slice(4), slice(4, None)):  # boxes in pixels and scores apart
        wanted = expected[..., part]
        difference = float((found[..., part] - wanted).abs().max() / wanted.abs().max())
        if not difference <= TOLERANCE:  # NaN is not
            raise UserError(f"the file differs from PyTorch by {difference:.2g} of the range")


def run(path: Path, images: Tensor) -> Tensor:
    """The output of a LiteRT file for (B, 3, H, W) float32 images of its shape."""
    interpreter = require("ai_edge_litert.interpreter", PIP).Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images.numpy())
    interpreter.invoke()
    return torch.from_numpy(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
