"""The detection model, and a command that prints its layers: `python models/yolo.py --cfg yolov5n.yaml`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # as a script, models/ stands where the repository should
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.blocks.conv import fold_batch_norm
from models.blocks.detect import Detect
from models.cfg import load_cfg, validate_cfg
from models.insertion import INSERT_HELP, inserted, written
from models.parse import Layer, parse_model, run_layers
from models.summary import layer_costs, layer_table, summary_line
from utils.console import setup_console
from utils.data.letterbox import round_up
from utils.errors import UserError, run_command
from utils.files import write_text
from utils.flags import Added

__all__ = ["Detect", "DetectionModel", "Model", "parse_model"]

PROBE = 256  # side of the image that a model is measured and traced with; a multiple of every usual stride
GRAY = 0.447  # padding of resized images, the mean of ImageNet


class DetectionModel(nn.Module):
    """A network described by a yaml whose last layer is a `Detect`.

    Input: (B, ch, H, W) float in 0..1, red first, H and W multiples of `multiple`. Output: see `Detect`.

    Args:
        cfg: name or path of a model yaml, or its content.
        ch: channels of the image (`utils/data/channels.py`), unless the yaml has its own `ch`.
        nc: number of classes, instead of the yaml's.
        anchors: anchors per level, or rows of pixels, instead of the yaml's.

    Attributes:
        model: the layers, `nn.Sequential`; layers: their wiring.
        yaml: the description in plain types, with every override.
        names: class names by index.
        origin: what its checkpoint says of itself, for people: date and fitness.
        multiple: what both sides of an image are multiples of: pixels per cell of the coarsest map, which may
            be coarser than those that the head reads.

    Raises:
        UserError: the description is faulty; the message names file, layer, value and rule.
    """

    multiple: int
    origin = ""

    def __init__(
        self,
        cfg: str | Path | dict[str, Any] = "yolov5n.yaml",
        ch: int = 3,
        nc: int | None = None,
        anchors: int | list[list[float]] | None = None,
    ) -> None:
        super().__init__()
        source = "model description" if isinstance(cfg, dict) else Path(cfg).name
        content = copy.deepcopy(cfg) if isinstance(cfg, dict) else load_cfg(cfg)
        overrides: dict[str, Any] = {"nc": nc, "anchors": anchors}
        self.yaml: dict[str, Any] = {"ch": ch} | content
        self.yaml |= {key: value for key, value in overrides.items() if value is not None}
        validate_cfg(self.yaml, source)
        self.model, self.layers = parse_model(self.yaml, self.channels, source)
        if not isinstance(self.model[-1], Detect):
            raise UserError(f"{source}: the last layer is {self.layers[-1].name}; it must be Detect")
        self.names = {index: f"class{index}" for index in range(self.nc)}
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = 1e-3, 0.03
        self.head.set_geometry(self.measure_strides(source))

    @property
    def head(self) -> Detect:
        """The detection head, the last layer."""
        head = self.model[-1]
        assert isinstance(head, Detect)
        return head

    @property
    def channels(self) -> int:
        """Channels of the image."""
        ch: int = self.yaml["ch"]
        return ch

    @property
    def nc(self) -> int:
        """Number of classes."""
        return self.head.nc

    @property
    def stride(self) -> Tensor:
        """(nl,) float: input pixels per cell, per level."""
        return self.head.stride

    def forward(self, x: Tensor, augment: bool = False) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Logits in training; predictions and logits in eval mode. See `Detect`.

        With `augment` (eval mode only) predictions of three scales are merged, and the list of logits is
        empty.
        """
        if augment:
            return self._forward_augmented(x), []
        return run_layers(self.model, self.layers, x)

    def _forward_augmented(self, x: Tensor) -> Tensor:
        """Predictions at scales 1, 0.83 (mirrored) and 0.67, in pixels of `x`, one after the other.

        The largest objects are left to the smaller images, so the full scale drops its coarsest level; and
        the smallest scale drops its finest.
        """
        height, width = x.shape[2:]
        parts = []
        for scale, mirrored in ((1.0, False), (0.83, True), (0.67, False)):
            size = int(height * scale), int(width * scale)
            image = _resized(x.flip(3) if mirrored else x, size, self.multiple)
            predictions, logits = run_layers(self.model, self.layers, image)
            rows = [level.shape[1] * level.shape[2] * level.shape[3] for level in logits]
            if scale == 1.0:
                predictions = predictions[:, : -rows[-1]]
            elif scale == 0.67:
                predictions = predictions[:, rows[0] :]
            zoom = predictions.new_tensor([width / size[1], height / size[0]]).repeat(2)
            boxes = predictions[..., :4] * zoom
            if mirrored:
                boxes = torch.cat((width - boxes[..., :1], boxes[..., 1:]), dim=2)
            parts.append(torch.cat((boxes, predictions[..., 4:]), dim=2))
        return torch.cat(parts, dim=1)

    def fuse(self) -> DetectionModel:
        """Fold every BatchNorm that follows a convolution into it, in place, for inference; returns self.

        A block that knows how has a method `fuse`; neighbours in an `nn.Sequential` are found here.
        """
        for module in list(self.model.modules()):
            own = getattr(module, "fuse", None)
            if callable(own):
                own()
            elif isinstance(module, nn.Sequential):
                _fuse_sequence(module)
        return self

    @torch.no_grad()
    def measure_strides(self, source: str = "model") -> list[float]:
        """Run an empty image through the network; strides are its side over those of the head's maps.

        `multiple` is set to the largest of any map that still has an extent. On the way every layer must
        deliver the channels that its rule declared.

        Raises:
            UserError: a layer fails or delivers something else; the message names `source` and layer.
        """
        strides: list[float] = []
        cells = [1.0]

        def check(layer: Layer, module: nn.Module, x: Any) -> Any:
            place = f"{source}: layer {layer.index} ({layer.name})"
            if layer is self.layers[-1]:
                strides.extend(PROBE / features.shape[2] for features in x)
                return x
            try:
                y = module(x)
            except Exception as error:  # torch, and a user's block, fail on shapes with any builtin error
                raise UserError(f"{place}: {' '.join(str(error).split())[:300]}") from error
            if not isinstance(y, Tensor) or y.ndim != 4 or y.shape[1] != layer.channels:
                got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
                raise UserError(f"{place}: gives {got} where its wiring declares {layer.channels} channels")
            if y.shape[2] > 1:  # the mean of a whole map fits any image
                cells.append(PROBE / y.shape[2])
            return y

        image = self.head.anchors.new_zeros(1, self.channels, PROBE, PROBE)
        mode = self.training
        self.eval()  # batch statistics of an empty image must not enter BatchNorm
        run_layers(self.model, self.layers, image, check)
        self.train(mode)
        self.multiple = math.ceil(max(*cells, *strides))
        return strides


Model = DetectionModel  # its name in YOLOv5 before v6.2


def _resized(image: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """`image` at `size` (height, width), padded with gray on the right and below to multiples of `stride`."""
    height, width = size
    if size != tuple(image.shape[2:]):
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    right, below = round_up(width, stride) - width, round_up(height, stride) - height
    return F.pad(image, (0, right, 0, below), value=GRAY)


def _fuse_sequence(sequence: nn.Sequential) -> None:
    for index, (first, second) in enumerate(zip(list(sequence), list(sequence)[1:])):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            fold_batch_norm(first, second)
            sequence[index + 1] = nn.Identity()


def save_cfg(cfg: dict[str, Any], path: Path) -> None:
    """Write a description as a model yaml.

    Raises:
        UserError: the file is there already, or is called otherwise.
    """
    if path.suffix != ".yaml":
        raise UserError(f"--save {path}: the name of a model yaml ends with .yaml")
    if path.exists():
        raise UserError(f"--save {path}: this file is there already; name another one")
    write_text(path, written(cfg))


def main(argv: list[str] | None = None) -> None:
    """Print the layer table of a model yaml and what the model costs."""
    parser = argparse.ArgumentParser(description="print the layers of a model yaml")
    parser.add_argument("--cfg", default="yolov5n.yaml", help="model yaml, by name or path")
    parser.add_argument("--insert", nargs="+", action=Added, default=[], help=INSERT_HELP)
    parser.add_argument("--save", help="file to write the model yaml to, NAME.yaml")
    parser.add_argument("--imgsz", "--img-size", type=int, default=640, help="image side for GFLOPs, pixels")
    parser.add_argument("--nc", type=int, help="number of classes instead of the yaml's")
    flags = parser.parse_args(argv)
    setup_console()
    model = DetectionModel(inserted(flags.cfg, flags.insert) if flags.insert else flags.cfg, nc=flags.nc)
    ch = model.channels
    costs = layer_costs(model.model, model.layers, ch, flags.imgsz)
    print(layer_table(costs))
    if flags.save:
        save_cfg(model.yaml, Path(flags.save))
    print(f"{Path(flags.cfg).stem}: {summary_line(model, costs, ch, flags.imgsz)}")


if __name__ == "__main__":
    run_command(main)
