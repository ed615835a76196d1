"""What a user can do with exported files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from models.exporting.config import ExportConfig
from models.exporting.run import Artefact
from models.runtimes.opening import OPENERS
from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError
from utils.files import ROOT, find_file

GIGABYTE = 1024  # MiB, the unit of trtexec


def hints(artefacts: Sequence[Artefact], config: ExportConfig, weights: Path) -> str:
    """Lines with the commands that run the files; to validate one, the data of its training must be known."""
    lines, data = [], shlex.quote(config.data if "data" in config.typed else trained_on(weights))
    for artefact in artefacts:
        place = shlex.quote(str(artefact.path))
        if artefact.form.name == "tensorrt":
            lines.append(f"engine:   {trtexec(artefact, config)}")
            lines.append("          (TensorRT needs an NVIDIA GPU; this command is untested)")
        elif artefact.form.name == "yolov5":
            lines.append(f"YOLOv5:   python detect.py --weights {place}  (in a checkout of YOLOv5)")
        elif artefact.form.name == "web":
            server = shlex.quote(str(artefact.path / "serve.py"))
            lines.append(f"browser:  python {server}  (and open the address that it prints)")
        elif artefact.form.suffix in OPENERS and not config.raw and not config.nms:
            _, _, height, width = artefact.shape
            size = f"{height}" if height == width else f"{height} {width}"
            lines.append(f"detect:   python detect.py --weights {place} --imgsz {size}")
            if height == width and data != "''":
                lines.append(f"validate: python val.py --weights {place} --data {data} --imgsz {height}")
    return "\n".join(lines)


def trained_on(weights: Path) -> str:
    """The data yaml that a network was trained on, when it is still there; else nothing."""
    data = str((read_checkpoint(weights)["train_args"] or {}).get("data") or "")
    try:
        find_file(data, (ROOT / "data",), ("", ".yaml", ".yml"))  # as val.py does
    except UserError:
        return ""
    return data


def trtexec(artefact: Artefact, config: ExportConfig) -> str:
    """The command that builds a TensorRT engine from the ONNX file on the machine that will run it."""
    engine = artefact.path.with_suffix(".engine")
    parts = ["trtexec", f"--onnx={artefact.path}", f"--saveEngine={engine}"]
    parts.append(f"--memPoolSize=workspace:{config.workspace * GIGABYTE}")
    if config.half:
        parts.append("--fp16")
    if config.dynamic:
        batch, channels, height, width = artefact.shape
        shapes = {"min": (1, height, width), "opt": (batch, height, width),
                  "max": (2 * batch, 2 * height, 2 * width)}  # fmt: skip
        parts += [f"--{name}Shapes=images:{b}x{channels}x{h}x{w}" for name, (b, h, w) in shapes.items()]
    if config.verbose:
        parts.append("--verbose")
    if config.cache:
        parts.append(f"--timingCacheFile={config.cache}")
    return shlex.join(parts)
