"""What every exporter is given: a network, pictures to try it on, and what the file is to say of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from torch import Tensor, nn

from models.cfg import FOLDERS, load_cfg
from models.detector import prepare
from models.exporting.config import ExportConfig
from models.yolo import DetectionModel
from utils.data.channels import COLOUR, with_channels
from utils.data.images import read_image
from utils.errors import UserError
from utils.files import ROOT

PICTURES = ROOT / "data" / "images"
INPUT_NAME = "images"
OUTPUT_NAME = "output0"


@dataclass(frozen=True)
class Job:
    """A network to write, and where.

    Attributes:
        network: in evaluation mode, fp32: (B, C, H, W) float 0–1, red first, to one tensor (B, N, 5 + nc) as
            `Detect` describes it; with `--raw` to one tensor (B, na * (5 + nc), h, w) of logits per level;
            with `--nms` to (n, 7) rows as `nms.WithSuppression` describes them. The `DetectionModel` itself
            for a format that does not have it rewritten.
        image: (B, C, H, W) float32 0–1, red first, with the content of a real picture, of the shape that is
            exported.
        target: file or folder to write, in a temporary place; whoever called renames it once it is verified,
            and removes it after any error. An exporter writes nothing else.
        metadata: all as text: names (a JSON object), stride, imgsz (JSON [height, width]), batch, channels,
            dynamic, variant, source (SHA-256 of the weights).
        config: the flags; an exporter heeds those that its `Format` names.
        levels: how many tensors the network gives, more than one with `--raw` only.
    """

    network: nn.Module
    image: Tensor
    target: Path
    metadata: dict[str, str]
    config: ExportConfig = ExportConfig()  # noqa: RUF009 - frozen
    levels: int = 1


Exporter: TypeAlias = Callable[[Job], None]


def example(size: tuple[int, int], batch: int, channels: int = COLOUR) -> Tensor:
    """(batch, channels, height, width) float32 0–1: pictures of the repository, letterboxed.

    They have no fourth channel; a network that wants one sees their brightness in it, which varies.
    """
    files = sorted(PICTURES.glob("*.jpg"))
    if not files:
        raise UserError(f"no pictures in {PICTURES}, which exports are verified with; restore that folder")
    pictures = [read_image(str(files[index % len(files)])) for index in range(batch)]
    if channels == 4:
        pictures = [np.dstack([picture, with_channels(picture, 1)]) for picture in pictures]
    return prepare(pictures, size, stride=1, exact=True, channels=channels).images.float() / 255


def metadata(
    source: str, model: DetectionModel, size: tuple[int, int], config: ExportConfig
) -> dict[str, str]:
    """What an exported file says of itself; see `Job.metadata`. `source` is the SHA-256 of the weights."""
    return {
        "names": json.dumps(model.names, ensure_ascii=False),
        "stride": str(model.multiple),
        "imgsz": json.dumps(list(size)),
        "batch": str(config.batch_size),
        "channels": str(model.channels),
        "dynamic": json.dumps(config.dynamic),
        "variant": variant_name(model),
        "source": source,
    }


def variant_name(model: DetectionModel) -> str:
    """The layout of `models/` that a model is built from, or `custom`."""
    rows = ("backbone", "head", "activation", "depth_multiple", "width_multiple")
    own = [model.yaml.get(key) for key in rows]
    for file in sorted(file for folder in FOLDERS for file in folder.glob("*.yaml")):
        content = load_cfg(file)
        if [content.get(key) for key in rows] == own:
            return file.stem
    return "custom"
