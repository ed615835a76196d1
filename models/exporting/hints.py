"""What a user can do with exported files."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from models.exporting.run import Artefact, Options

GIGABYTE = 1024  # MiB, the unit of trtexec


def hints(artefacts: Sequence[Artefact], options: Options, *, cache: str = "", workspace: int = 4) -> str:
    """Lines with the commands that run the files.

    Args:
        cache: timing cache of TensorRT, none when empty.
        workspace: memory for TensorRT in GB.
    """
    lines = []
    for artefact in artefacts:
        place = shlex.quote(str(artefact.path))
        if artefact.form.name == "tensorrt":
            lines.append(f"engine:   {trtexec(artefact, options, cache, workspace)}")
            lines.append("          (TensorRT needs an NVIDIA GPU; this command is untested)")
        elif artefact.form.runs_here and not options.raw and not options.suppression:
            _, _, height, width = artefact.shape
            lines.append(f"detect:   python detect.py --weights {place} --imgsz {height} {width}")
            if height == width:
                lines.append(f"validate: python val.py --weights {place} --imgsz {height}")
    return "\n".join(lines)


def trtexec(artefact: Artefact, options: Options, cache: str, workspace: int) -> str:
    """The command that builds a TensorRT engine from the ONNX file on the machine that will run it."""
    engine = artefact.path.with_suffix(".engine")
    parts = ["trtexec", f"--onnx={artefact.path}", f"--saveEngine={engine}"]
    parts.append(f"--memPoolSize=workspace:{workspace * GIGABYTE}")
    if options.half:
        parts.append("--fp16")
    if options.dynamic:
        batch, _, height, width = artefact.shape
        shapes = {"min": (1, height, width), "opt": (batch, height, width),
                  "max": (2 * batch, 2 * height, 2 * width)}  # fmt: skip
        parts += [f"--{name}Shapes=images:{b}x3x{h}x{w}" for name, (b, h, w) in shapes.items()]
    if options.verbose:
        parts.append("--verbose")
    if cache:
        parts.append(f"--timingCacheFile={cache}")
    return shlex.join(parts)
