"""Trained networks in every form that can be run here, behind one call.

A backend takes (B, C, H, W) float images in 0–1, red first, and gives (B, N, 5 + nc): cx, cy, w, h in pixels,
then objectness and class scores between 0 and 1.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from models.runtimes.base import MOST_THREADS, Backend
from models.runtimes.executorch import ExecuTorchBackend
from models.runtimes.ncnn import NcnnBackend
from models.runtimes.onnx import OnnxBackend, OpenCVBackend
from models.runtimes.openvino import OpenVINOBackend
from models.runtimes.pytorch import TorchScriptBackend, open_pytorch
from utils.data.spec import load_data_spec
from utils.errors import UserError


def written_on(file: str | Path) -> str:
    """When a file was written, for people."""
    return f"written {datetime.fromtimestamp(Path(file).stat().st_mtime):%Y-%m-%d %H:%M}"


class Ensemble(Backend):
    """Several networks with the same classes; their predictions are put side by side before suppression."""

    def __init__(self, members: Sequence[Backend]) -> None:
        first = members[0]
        super().__init__(first.device, first.dtype != torch.float32)
        for member in members[1:]:
            if member.names != first.names:
                lists = (f"{len(m.names)} {reprlib.repr([*m.names.values()])}" for m in (first, member))
                raise UserError(f"weights of an ensemble need the same classes; found {' and '.join(lists)}")
        self.members = nn.ModuleList(members)
        self.names, self.stride = first.names, max(m.stride for m in members)
        if len(channels := {m.channels for m in members}) > 1:
            raise UserError(f"weights of an ensemble need the same channels; found {sorted(channels)}")
        self.channels = first.channels
        shapes = {m.shape for m in members if m.shape}
        if len(shapes) > 1:
            raise UserError(f"weights of an ensemble need one image size; found {sorted(shapes)}")
        self.shape = next(iter(shapes), None)
        self.any_shape = all(m.any_shape for m in members)
        self.pt = all(m.pt for m in members)
        self.calls = min(m.calls for m in members)
        self.title = " + ".join(m.title for m in members)
        self.origin = "; ".join(m.origin for m in members)

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        return torch.cat([member(images, augment).float() for member in self.members], dim=1)


Opener = Callable[..., Backend]  # path, device, half, threads; those of `SIDE_BY_SIDE` also calls
# by the ends of the names of files, and of folders, which have no dot
OPENERS: dict[str, Opener] = {
    ".pt": open_pytorch,
    ".safetensors": open_pytorch,
    ".torchscript": TorchScriptBackend,
    ".onnx": OnnxBackend,
    "_openvino_model": OpenVINOBackend,
    "_ncnn_model": NcnnBackend,
    ".pte": ExecuTorchBackend,
}
SIDE_BY_SIDE = (OnnxBackend, OpenVINOBackend)


def load_backend(
    weights: str | Path | Sequence[str | Path],
    device: torch.device | str = "cpu",
    *,
    dnn: bool = False,
    half: bool = False,
    data: str | Path | None = None,
    threads: int | None = None,
    calls: int = 1,
) -> Backend:
    """Open weights in whatever form they are; several of them become an ensemble.

    Args:
        weights: files and folders; the ends of their names say what they are (`OPENERS`).
        dnn: run ONNX files with OpenCV DNN.
        half: half precision where a runtime is faster in it, see `Backend`.
        data: dataset yaml that names the classes when the file does not.
        threads: CPU threads of inference, None for the runtime's own choice. PyTorch, OpenCV and ExecuTorch
            have one number for the whole process, the others one per network.
        calls: how many threads will call it at once; they share `threads`, or the cores. A backend that takes
            one call at a time says so, see `Backend.calls`.

    Raises:
        UserError: no such file, an unknown form, a damaged file, a missing package, classes that disagree, a
            number of threads that cannot be.
    """
    files = [weights] if isinstance(weights, (str, Path)) else list(weights)
    if not files:
        raise UserError("no weights given")
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"--threads must lie between 1 and {MOST_THREADS}, found {threads}")
    openers = [_opener(file, dnn) for file in map(Path, files)]
    if not all(opener in (*SIDE_BY_SIDE, open_pytorch) for opener in openers):
        calls = 1
    members = []
    for path, opener in zip(map(Path, files), openers):
        shared = {"calls": calls} if opener in SIDE_BY_SIDE and calls > 1 else {}
        members.append(opener(path, torch.device(device), half, threads, **shared))
    for file, member in zip(files, members):
        member.title = f"{file} ({member.library}, {member.place})"
        member.origin = f"{file}: {member.origin or written_on(file)}"
        if not member.names and data:
            member.names = dict(load_data_spec(data, needed=()).names)
    return members[0] if len(members) == 1 else Ensemble(members)


def _opener(path: Path, dnn: bool) -> Opener:
    """What opens a file or folder that is there."""
    form = next((end for end in OPENERS if path.name.lower().endswith(end)), None)
    if form is None:
        found = path.suffix or "no suffix"
        raise UserError(f"weights '{path}': cannot run {found}; known are {', '.join(OPENERS)}")
    if not path.exists():
        raise UserError(f"weights '{path}' not found")
    if form.startswith(".") != path.is_file():
        raise UserError(f"weights '{path}' must be a {'file' if form.startswith('.') else 'folder'}")
    if dnn and form != ".onnx":
        raise UserError(f"--dnn runs .onnx files, found '{path}'")
    return OpenCVBackend if dnn else OPENERS[form]
