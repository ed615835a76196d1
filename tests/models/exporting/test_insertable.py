"""Blocks that may be put anywhere, and those of newer detectors, in the formats that most people use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models.blocks.deform import DCNv2
from models.exporting import onnx, openvino, torchscript
from models.exporting.verify import difference
from models.insertion import insert, insertable
from models.yolo import DetectionModel
from tests.layouts import randomise_norms
from tests.models.exporting.jobs import job_of
from tests.models.exporting.weights import lively

for package in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(package)

SETTINGS: dict[str, Any] = {"nc": 3, "depth_multiple": 1.0, "width_multiple": 1.0, "anchors": 2}
PLAIN: dict[str, Any] = {
    **SETTINGS,
    "backbone": [[-1, 1, "Conv", [32, 3, 8]]],
    "head": [[-1, 1, "Conv", [32]], [-1, 1, "Detect", ["nc", "anchors"]]],
}
NEWER: dict[str, Any] = {
    **SETTINGS,
    "backbone": [[-1, 1, "Conv", [32, 3, 4]], [-1, 1, "ADown", [32]], [-1, 1, "C2f", [32, True]]],
    "head": [
        [-1, 1, "RepConv", [32]],
        [-1, 1, "RepNCSPELAN4", [32, 32, 16, 1]],
        [-1, 1, "C3GhostV2", [32]],
        [-1, 1, "CARAFE", [2, 3]],
        [[-1, 0], 1, "BiFPN", [1]],
        [-1, 1, "SPDConv", [32]],
        [-1, 1, "Detect", ["nc", "anchors"]],
    ],
}
KERNELS: dict[str, Any] = {
    **SETTINGS,
    "backbone": [[-1, 1, "MobileOneConv", [32, 3, 4]], [-1, 1, "DCNv2", [32, 3, 2, "None", 1, 1, True, 2]]],
    "head": [
        [-1, 1, "ODConv", [32]],
        [-1, 1, "DiverseBranch", [32]],
        [-1, 1, "MobileOneBlock", [32]],
        [[-1], 1, "SharedDetect", ["nc", "anchors", 16]],
    ],
}
FILES = {"best.onnx": onnx, "best_openvino_model": openvino, "best.torchscript": torchscript}


@pytest.fixture(scope="module", params=["insertable", "newer", "kernels"])
def model(request: pytest.FixtureRequest) -> DetectionModel:
    texts = [f"{name} after 0" for name in (*insertable(), "SimAM(0.0001, true)")]
    torch.manual_seed(0)
    described = {"insertable": insert(PLAIN, texts, "x")[0], "newer": NEWER, "kernels": KERNELS}
    model = DetectionModel(described[request.param]).eval()
    randomise_norms(model)
    for module in model.modules():
        if hasattr(module, "gain"):
            module.gain.fill_(1.7)  # as after learning from the identity
        if isinstance(module, DCNv2):
            torch.nn.init.normal_(module.offset.weight, std=0.1)
    return lively(model)


@pytest.mark.parametrize(
    "name",  # OpenVINO takes seconds to compile each, and reads the ONNX file
    ["best.onnx", "best.torchscript", pytest.param("best_openvino_model", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("dynamic", [False, True])
def test_files_equal_pytorch(name: str, dynamic: bool, model: DetectionModel, tmp_path: Path) -> None:
    job = job_of(model, tmp_path / name, dynamic=dynamic)
    FILES[name].export(job)
    shapes = [(1, 3, 64, 96), (2, 3, 48, 40)] if dynamic else [(1, 3, 64, 96)]
    for shape in shapes:
        assert difference(job.target, torch.rand(shape), model, job.config) < 1e-4
