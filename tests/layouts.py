"""The layouts of the project in a form that is quick to test."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.cfg import FOLDERS, load_cfg
from models.yolo import DetectionModel

LAYOUTS = sorted(file.stem for folder in FOLDERS for file in folder.glob("*.yaml"))
OFFICIAL = [
    *(f"yolov5{size}" for size in "nsmlx"),
    *(f"yolov5{size}6" for size in "nsmlx"),
    *(f"yolov5-{neck}" for neck in ("bifpn", "fpn", "p2", "p34", "p6", "p7", "panet")),
    *("yolov3", "yolov3-spp", "yolov3-tiny"),
    *(f"yolov5s-{change}" for change in ("LeakyReLU", "ghost", "transformer")),
]
MULTIPLES = ("depth_multiple", "width_multiple")


def _distinct() -> list[str]:
    """One layout of those that differ in size alone: at the size of these tests they are the same."""
    found: dict[str, object] = {}  # name: the description without the multiples that make its size
    for name in sorted(LAYOUTS, key=lambda name: not name.startswith("yolov5n")):
        rows = {key: value for key, value in load_cfg(name).items() if key not in MULTIPLES}
        if rows not in found.values():
            found[name] = rows
    return list(found)


DISTINCT = _distinct()


@torch.no_grad()
def randomise_norms(network: nn.Module) -> None:
    """Give every BatchNorm statistics and weights that folding has to respect."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.1)


def small(name: str) -> DetectionModel:
    """The layout at a size below n with three classes, and BatchNorm statistics worth fusing."""
    torch.manual_seed(0)
    model = DetectionModel(load_cfg(name) | {"depth_multiple": 0.33, "width_multiple": 0.125, "nc": 3})
    randomise_norms(model)
    for key, weight in model.named_parameters():
        if key.endswith("offset.weight"):  # DySample starts as plain interpolation
            nn.init.normal_(weight)
    return model


def images(model: DetectionModel, batch: int, seed: int = 0) -> Tensor:
    """(batch, 3, S, S) in 0–1, S the smallest side of at least 64 that the model takes."""
    side = max(64, model.multiple)
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))
