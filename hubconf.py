"""Detectors for `torch.hub`.

    model = torch.hub.load("path/to/this/repository", "custom", path="best.pt", source="local")
    results = model(["street.jpg", image_array])
    results.print()

Nothing is downloaded: the official entries look for their file (`yolov5s.pt`, …) in the working directory and
in its folder `weights`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from models.detector import Detector
from models.runtimes.choosing import RUNTIMES, Runtime, Wanted, open_in
from models.runtimes.kept import FILES
from models.transfer import inherit
from models.weights import OFFICIAL_RELEASES, load_model
from models.yolo import DetectionModel
from utils.device import select_device
from utils.errors import UserError

dependencies = ["torch", "torchvision", "numpy", "cv2", "yaml", "tqdm", "safetensors"]


def custom(
    path: str | Path = "best.pt",
    autoshape: bool = True,
    _verbose: bool = True,
    device: str | torch.device | None = None,
    runtime: Runtime = "auto",
) -> nn.Module:
    """A detector from a weights file of any form that detect.py runs.

    Args:
        path: `.pt`, `.safetensors`, `.torchscript` or `.onnx`.
        autoshape: give the `Detector`, which takes pictures; otherwise the bare network, which takes batches.
        device: "cpu", "0", …; by default CUDA when there is any.
        runtime: what runs the detector of PyTorch weights on the CPU: "torch"; "onnx" or "openvino", for
            which the network is written once into the user's cache folder; "auto", which begins in PyTorch
            and after 256 pictures goes on in one of those that is installed. Whoever changes weights
            afterwards takes "torch".

    Raises:
        UserError: no such file, one that cannot be used, or a runtime that does not go with it.
    """
    check_runtime(runtime, autoshape)
    place = device if isinstance(device, torch.device) else select_device(device or "")
    if not Path(path).exists():
        raise UserError(f"weights '{path}' not found (working directory {Path.cwd()})")
    model: nn.Module = open_detector(path, place, runtime) if autoshape else load_model(path, place)
    if _verbose:
        print(f"Loaded {path} on {place}")
    return model


def official(
    name: str,
    pretrained: bool = True,
    channels: int = 3,
    classes: int = 80,
    autoshape: bool = True,
    _verbose: bool = True,
    device: str | torch.device | None = None,
    runtime: Runtime = "auto",
) -> nn.Module:
    """One of the official sizes.

    Args:
        name: for example `yolov5s`.
        pretrained: take the weights from `<name>.pt`; with other `channels` or `classes` only those that fit.
            Otherwise the network gets random weights.
        channels: of the pictures: 1 (grey), 3 (colour) or 4 (colour and alpha, or infrared).
        autoshape: give the `Detector`, which takes pictures; otherwise the bare network, which takes batches.
        device: "cpu", "0", …; by default CUDA when there is any.
        runtime: as of `custom`, where the weights are those of the file.

    Raises:
        UserError: the weights file is not there; the message says where to get it. Or a runtime that does not
            go with what is asked for.
    """
    place = device if isinstance(device, torch.device) else select_device(device or "")
    if pretrained and (channels, classes) == (3, 80):
        return custom(_official_file(name), autoshape, _verbose, place, runtime)
    check_runtime(runtime, from_file=False)
    model = DetectionModel(f"{name}.yaml", ch=channels, nc=classes)
    if pretrained:
        report = inherit(model, load_model(_official_file(name)))
        if _verbose:
            print(f"{name}: {report}")
    model = model.to(place)
    return Detector(model) if autoshape else model


def open_detector(path: str | Path, device: torch.device, runtime: Runtime) -> Detector:
    """The `Detector` of some weights in a runtime."""
    # pictures may be augmented from one call to the next
    return Detector(open_in([Path(path)], device, Wanted(runtime, augment=None)))


def check_runtime(runtime: str, from_file: bool) -> None:
    """Raise a UserError when a runtime is none, or is for a detector `from_file` and there is another."""
    if runtime not in RUNTIMES:
        raise UserError(f"runtime must be one of {', '.join(RUNTIMES)}, found {runtime!r}")
    if runtime in FILES and not from_file:
        raise UserError(f"runtime={runtime!r} is for the detector of a weights file; leave it out")


def _official_file(name: str) -> Path:
    for folder in (Path(), Path("weights")):
        if (folder / f"{name}.pt").is_file():
            return folder / f"{name}.pt"
    raise UserError(
        f"{name}.pt is neither in {Path.cwd()} nor in its folder 'weights'; nothing is downloaded: "
        f"get it from {OFFICIAL_RELEASES}, or pass pretrained=False for random weights"
    )


yolov5n = partial(official, "yolov5n")
yolov5s = partial(official, "yolov5s")
yolov5m = partial(official, "yolov5m")
yolov5l = partial(official, "yolov5l")
yolov5x = partial(official, "yolov5x")
yolov5n6 = partial(official, "yolov5n6")
yolov5s6 = partial(official, "yolov5s6")
yolov5m6 = partial(official, "yolov5m6")
yolov5l6 = partial(official, "yolov5l6")
yolov5x6 = partial(official, "yolov5x6")
