"""What every exporter is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

from models.exporting.config import ExportConfig

INPUT_NAME = "images"
OUTPUT_NAME = "output0"


@dataclass(frozen=True)
class Job:
    """A network to write, and where.

    Attributes:
        network: in evaluation mode, fp32: (B, 3, H, W) float RGB 0–1 to one tensor (B, N, 5 + nc) as `Detect`
            describes it; with `--raw` to one tensor (B, na * (5 + nc), h, w) of logits per level; with
            `--nms` to (n, 7) rows as `nms.WithSuppression` describes them.
        image: (B, 3, H, W) float32 RGB 0–1 with the content of a real picture, of the shape that is exported.
        target: file or folder to write, in a temporary place; whoever called renames it once it is verified,
            and removes it after any error. An exporter writes nothing else.
        metadata: all as text: names (a JSON object), stride, imgsz (JSON [height, width]), batch, dynamic,
            variant, source (SHA-256 of the weights).
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
