"""What every exporter is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from torch import Tensor, nn

INPUT_NAME = "images"
OUTPUT_NAME = "output0"


@dataclass(frozen=True)
class Job:
    """A network to write, and where.

    Attributes:
        network: in evaluation mode, fp32: (B, 3, H, W) float RGB 0–1 to one tensor (B, N, 5 + nc) as `Detect`
            describes it, or with `--raw` to one tensor (B, na * (5 + nc), h, w) of logits per level.
        image: (B, 3, H, W) float32 RGB 0–1 with the content of a real picture, of the shape that is exported.
        target: file or folder to write, in a temporary place; whoever called renames it once it is verified,
            and removes it after any error. An exporter writes nothing else.
        metadata: all as text: names (a JSON object), stride, imgsz (JSON [height, width]), batch, dynamic,
            variant, source (SHA-256 of the weights).
        dynamic: batch, height and width are free.
        half: weights and input in fp16.
        opset: of ONNX.
        simplify: let a third-party simplifier rewrite the ONNX graph.
        nms: `network` suppresses overlaps: it gives (n, 7) rows as `nms.WithSuppression` describes them.
        outputs: names of the network's outputs: "output0", and with `--raw` one per level.
    """

    network: nn.Module
    image: Tensor
    target: Path
    metadata: dict[str, str]
    dynamic: bool = False
    half: bool = False
    opset: int = 17
    simplify: bool = False
    nms: bool = False
    outputs: tuple[str, ...] = (OUTPUT_NAME,)


Exporter: TypeAlias = Callable[[Job], None]
