"""What goes with a network: metadata, and pictures to try it on."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from models.cfg import FOLDERS, load_cfg
from models.detector import prepare
from models.exporting.config import ExportConfig
from models.runtimes.base import checksum
from models.yolo import DetectionModel
from utils.data.images import read_image
from utils.errors import UserError
from utils.files import ROOT

PICTURES = ROOT / "data" / "images"


def example(size: tuple[int, int], batch: int) -> Tensor:
    """(batch, 3, height, width) float32 RGB 0–1: pictures of the repository, letterboxed."""
    files = sorted(PICTURES.glob("*.jpg"))
    if not files:
        raise UserError(f"no pictures in {PICTURES}, which exports are verified with; restore that folder")
    pictures = [read_image(str(files[index % len(files)])) for index in range(batch)]
    return prepare(pictures, size, stride=1, exact=True).images.float() / 255


def metadata(
    weights: Path, model: DetectionModel, size: tuple[int, int], config: ExportConfig
) -> dict[str, str]:
    """What an exported file says of itself; see `Job.metadata`."""
    return {
        "names": json.dumps(model.names, ensure_ascii=False),
        "stride": str(model.multiple),
        "imgsz": json.dumps(list(size)),
        "batch": str(config.batch_size),
        "dynamic": json.dumps(config.dynamic),
        "variant": variant_name(model),
        "source": checksum([weights]),
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
