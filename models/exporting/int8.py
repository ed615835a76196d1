"""Eight-bit integers after training: NNCF calibrates on training images, validation says what they cost."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models.runtimes.opening import Backend, load_backend
from models.runtimes.openvino import shared_core
from utils.console import warn
from utils.data.channels import COLOUR
from utils.data.dataset import DetectionDataset
from utils.data.index import build_index
from utils.data.loader import Loader
from utils.data.spec import DataSpec, load_data_spec
from utils.errors import UserError
from utils.evaluation.evaluate import evaluate
from utils.optional import require

CALIBRATION_IMAGES = 300  # at most; what NNCF takes by itself
LARGEST_FALL = 0.02  # of mAP50-95, beyond which an export is refused


class Calibration:
    """Training images as the network takes them, letterboxed as in validation, spread over the whole split.

    Iterates over (B, C, S, S) float32 0–1, any number of times.

    Raises:
        UserError: the split has fewer images than a batch.
    """

    def __init__(self, spec: DataSpec, side: int, batch: int, channels: int = COLOUR) -> None:
        index = build_index(spec.train, spec.names)
        if missing := index.report.shortfall():
            warn(f"--int8: calibration goes without some: {missing}")
        self.dataset = DetectionDataset(index, side, batch_size=batch, channels=channels)
        whole = len(self.dataset) // batch
        if not whole:
            raise UserError(
                f"--int8: {spec.file} has {len(self.dataset)} training images, fewer than a batch"
            )
        keys = list(Loader(self.dataset, workers=0, shuffle=False).keys())
        wanted = min(max(CALIBRATION_IMAGES // batch, 1), whole)
        self.keys = [keys[number * whole // wanted] for number in range(wanted)]

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[np.ndarray]:
        for key in self.keys:
            batch = self.dataset.batch(key)
            if None not in batch.shapes:  # a picture that cannot be read calibrates nothing
                yield batch.images.astype(np.float32) / 255


def quantise(source: Path, target: Path, images: Calibration) -> None:
    """Write an ONNX file or an OpenVINO folder with weights and activations of eight bits.

    Args:
        source: the same network in fp32; its metadata go along.
        target: file or folder to write.
        images: they set the range of every activation.

    Raises:
        UserError: NNCF is not installed.

    Source:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
        Inference", arXiv 1712.05877; NNCF's preset "mixed": symmetric weights, asymmetric activations.
    """
    nncf = require("nncf", "nncf")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own function would change everybody's handlers
    settings: dict[str, Any] = {"preset": nncf.QuantizationPreset.MIXED, "subset_size": len(images)}
    if source.is_dir():
        openvino = require("openvino", "openvino")
        xml = next(source.glob("*.xml"))
        written = nncf.quantize(shared_core().read_model(xml), nncf.Dataset(images), **settings)
        target.mkdir()
        openvino.save_model(written, target / xml.name, compress_to_fp16=False)
        for extra in source.glob("*.yaml"):
            (target / extra.name).write_bytes(extra.read_bytes())
    else:
        onnx = require("onnx", "onnx")
        model = onnx.load(str(source))
        name = model.graph.input[0].name
        written = nncf.quantize(model, nncf.Dataset(images, lambda batch: {name: batch}), **settings)
        onnx.save(written, str(target))


def mean_average_precision(backend: Backend, spec: DataSpec, side: int) -> float:
    """mAP50-95 of a network on the validation images, letterboxed to squares."""
    index, size = build_index(spec.val, spec.names), backend.batch or 1
    dataset = DetectionDataset(index, side, batch_size=size, channels=backend.channels)
    loader = Loader(dataset, workers=2, shuffle=False)
    return evaluate(backend, loader, backend.device, spec.names, at_once=backend.batch).summary()[3]


def quantised(written: Path, target: Path, data: str, side: int, *, force: bool) -> str:
    """Write the INT8 form of a file that was just exported, and measure what it costs.

    Args:
        written: in fp32, loadable by `load_backend`.
        data: dataset yaml; the training images calibrate, the validation images judge.
        side: of the square images.

    Returns:
        A line about both accuracies.

    Raises:
        UserError: unusable data, classes that differ, or an accuracy that fell too far.
    """
    spec = load_data_spec(data)
    plain = load_backend(written)
    if len(plain.names) != spec.nc:
        raise UserError(f"--data: {data} has {spec.nc} classes and the weights know {len(plain.names)}")
    quantise(written, target, Calibration(spec, side, plain.batch or 1, plain.channels))
    before = mean_average_precision(plain, spec, side)
    return check_fall(before, mean_average_precision(load_backend(target), spec, side), force=force)


def check_fall(before: float, after: float, *, force: bool) -> str:
    """A line about both accuracies.

    Raises:
        UserError: mAP50-95 fell by more than `LARGEST_FALL` and `force` is off.
    """
    line = f"mAP50-95 {before:.4f} in fp32, {after:.4f} in INT8 ({after - before:+.4f})"
    if before - after > LARGEST_FALL and not force:
        raise UserError(
            f"--int8: {line}, more than {LARGEST_FALL} lost; is --data that of the training? --force keeps it"
        )
    return line
