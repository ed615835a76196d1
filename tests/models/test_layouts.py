"""Every layout of the project: costs and keys as recorded, and it trains, fuses, batches and traces."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.cfg import FOLDERS, load_cfg
from models.summary import layer_costs
from models.yolo import DetectionModel
from utils.complexity import count_parameters

LAYOUTS = sorted(file.stem for folder in FOLDERS for file in folder.glob("*.yaml"))
OFFICIAL = [
    *(f"yolov5{size}" for size in "nsmlx"),
    *(f"yolov5{size}6" for size in "nsmlx"),
    *(f"yolov5-{neck}" for neck in ("bifpn", "fpn", "p2", "p34", "p6", "p7", "panet")),
    *("yolov3", "yolov3-spp", "yolov3-tiny"),
    *(f"yolov5s-{change}" for change in ("LeakyReLU", "ghost", "transformer")),
]
PUBLISHED = {  # parameters with 80 classes, GFLOPs at 640 (2 x multiply-adds, convolutions only)
    "yolov5n": (1_872_157, 4.468),
    "yolov5s": (7_235_389, 16.434),
    "yolov5n-gsconv": (1_764_317, 4.332),
    "yolov5s-gsconv": (6_794_429, 15.872),
    "yolov5n-slimneck": (1_669_693, 4.145),
    "yolov5s-slimneck": (6_400_381, 15.079),
}


def on_meta(cfg: str) -> DetectionModel:
    """The model at full size without its memory: tensors have shapes and no data."""
    with torch.device("meta"):
        return DetectionModel(cfg)


def small(name: str) -> DetectionModel:
    """The layout at the n size with three classes, and BatchNorm statistics worth fusing."""
    torch.manual_seed(0)
    model = DetectionModel(load_cfg(name) | {"depth_multiple": 0.33, "width_multiple": 0.125, "nc": 3})
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return model


def images(model: DetectionModel, batch: int, seed: int = 0) -> Tensor:
    side = max(64, int(model.stride.max()))
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_all_official_layouts_are_here() -> None:
    assert len(OFFICIAL) == 23
    assert set(OFFICIAL) <= set(LAYOUTS)


@pytest.mark.parametrize("name", OFFICIAL)
def test_rows_are_the_recorded_ones(golden: Path, name: str) -> None:
    recorded = json.loads((golden / "upstream_architectures.json").read_text())[name]
    assert load_cfg(name) == recorded


@pytest.mark.parametrize("name", OFFICIAL)
def test_recorded_parameters_and_strides(golden: Path, name: str) -> None:
    recorded = json.loads((golden / "upstream_models.json").read_text())[name]
    model = on_meta(name)
    assert count_parameters(model) == recorded["params"]
    assert model.measure_strides() == recorded["strides"]
    assert (model.head.nl, model.head.na) == (recorded["nl"], recorded["na"])
    assert len(model.model) == recorded["n_layers"]
    assert count_parameters(model.fuse()) == recorded["params_fused"]


def test_recorded_keys_and_shapes(golden: Path) -> None:
    with gzip.open(golden / "upstream_state_dict_shapes.json.gz", "rt") as file:
        recorded: dict[str, dict[str, Any]] = json.load(file)
    for name, shapes in recorded.items():
        state = on_meta(name).state_dict()
        assert {key: list(tensor.shape) for key, tensor in state.items()} == shapes


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_cost(name: str) -> None:
    model = on_meta(name)
    parameters, gflops = PUBLISHED[name]
    assert count_parameters(model) == parameters
    assert sum(cost.gflops for cost in layer_costs(model.model, model.layers, 3, 640)) == pytest.approx(
        gflops, abs=5e-4
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_parameter_learns(name: str) -> None:
    model = small(name)
    outputs = model(images(model, 2))
    assert isinstance(outputs, list)
    assert all(level.shape[:2] == (2, model.head.na) and level.shape[4] == 8 for level in outputs)
    torch.stack([level.square().mean() for level in outputs]).sum().backward()
    assert not [key for key, value in model.named_parameters() if value.grad is None]


@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_batching_fusing_and_tracing_keep_the_result(name: str) -> None:
    model = small(name).eval()
    x = images(model, 3)
    expected, logits = model(x)
    alone, _ = model(x[1:2])
    torch.testing.assert_close(alone, expected[1:2], rtol=1e-4, atol=1e-3)

    _, fused = model.fuse()(x)
    for one, other in zip(fused, logits):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())


TRACED = ["yolov5n", "yolov5n-slimneck", "yolov5s-ghost", "yolov5s-transformer", "yolov3-tiny"]


@pytest.mark.filterwarnings("ignore")  # tracing is deprecated, and torch's attention draws warnings
@pytest.mark.parametrize("name", TRACED)
@torch.no_grad()
def test_a_trace_serves_any_batch_and_size(name: str) -> None:
    model = small(name).eval().fuse()
    traced = torch.jit.trace(model, images(model, 1), strict=False, check_trace=False)
    for shape in ((1, 3, 64, 64), (3, 3, 64, 64), (2, 3, 96, 128)):
        x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(traced(x)[0], model(x)[0], rtol=1e-4, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
@torch.no_grad()
def test_full_size_runs(name: str) -> None:
    model = DetectionModel(name).eval()
    decoded, _ = model(images(model, 1))
    assert decoded.isfinite().all()
