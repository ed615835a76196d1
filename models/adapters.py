"""Our networks behind the names, arguments and results that scripts written around YOLOv5 expect.

`models/common.py` and `models/experimental.py` pass them on; nothing else in the project uses them. See
`docs/compatibility.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.detector import Detector
from models.runtimes.choosing import Runtime, Wanted, open_in
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from utils.errors import UserError

Weights = str | Path | Sequence[str | Path]
LIBRARIES = {"jit": "TorchScript", "onnx": "ONNX Runtime", "xml": "OpenVINO", "dnn": "OpenCV DNN"}
# formats, servers and layouts of YOLOv5 that do not run here
ABSENT = (
    "engine", "coreml", "saved_model", "pb", "tflite", "edgetpu", "tfjs", "paddle", "triton", "nhwc",
)  # fmt: skip


class DetectMultiBackend(nn.Module):
    """Weights of any form that `detect.py` runs: (B, C, H, W) float 0–1 to predictions (B, N, 5 + nc).

    Args:
        runtime: as of `hubconf.custom`, which YOLOv5 does not have; "auto" by default.

    Attributes:
        names: class index to class name; stride: of which image sides are multiples.
        pt, jit, onnx, xml, dnn: what runs it; the others of YOLOv5 (`ABSENT`) are False.
        fp16: whether in half precision, on CUDA only.

    Raises:
        UserError: as `models.runtimes.choosing.open_in`.
    """

    def __init__(
        self,
        weights: Weights = "best.pt",
        device: torch.device | str = "cpu",
        dnn: bool = False,
        data: str | Path | None = None,
        fp16: bool = False,
        fuse: bool = True,
        runtime: Runtime = "auto",
    ) -> None:
        super().__init__()
        files = [weights] if isinstance(weights, (str, Path)) else weights
        device = torch.device(device)
        # a CPU takes no notice of fp16, as in YOLOv5, also where bf16 is faster; frames may be augmented from
        # one call to the next
        wanted = Wanted(runtime, dnn=dnn, half=fp16 and device.type == "cuda", data=data, augment=None)
        self.backend = open_in([Path(file) for file in files], device, wanted)
        self.names, self.stride, self.pt = self.backend.names, self.backend.stride, self.backend.pt
        self.device, self.fp16 = self.backend.device, self.backend.dtype == torch.float16
        for flag, library in LIBRARIES.items():
            setattr(self, flag, self.backend.library == library)
        for flag in ABSENT:
            setattr(self, flag, False)

    @property
    def model(self) -> nn.Module:
        """The network of PyTorch weights.

        Raises:
            AttributeError: there is none, or there are several.
        """
        network = getattr(self.backend, "model", None)
        if network is None:
            raise AttributeError("model")
        return network

    def forward(self, im: Tensor, augment: bool = False, visualize: bool = False) -> Tensor:
        return self.backend(im, augment)

    def warmup(self, imgsz: Sequence[int] = (1, 3, 640, 640)) -> None:
        """Run an empty batch, so that the first real one is not slower than the others."""
        shape = imgsz[0], self.backend.channels, *(self.backend.shape or imgsz[2:])
        self(torch.zeros(*shape, dtype=self.backend.dtype, device=self.device))


class AutoShape(Detector):
    """The `Detector` around a network; `verbose` is YOLOv5's and has no effect."""

    def __init__(self, model: Any, verbose: bool = True) -> None:
        super().__init__(model.backend if isinstance(model, DetectMultiBackend) else model)


class Ensemble(nn.ModuleList):
    """Networks of the same classes whose predictions stand side by side; has `names` and `stride`."""

    def __init__(self, members: Sequence[DetectionModel]) -> None:
        super().__init__(members)
        self.names, self.stride = members[0].names, max((m.stride for m in members), key=torch.max)
        if any(member.names != self.names for member in members):
            raise UserError("weights of an ensemble need the same classes")

    def forward(self, x: Tensor, augment: bool = False) -> tuple[Tensor, None]:
        """(B, N, 5 + nc) of all members together, and None where one network gives its maps."""
        return torch.cat([member(x, augment)[0] for member in self], dim=1), None


def attempt_load(
    weights: Weights,
    device: str | torch.device | None = None,
    inplace: bool = True,
    fuse: bool = True,
    map_location: str | torch.device | None = None,
) -> DetectionModel | Ensemble:
    """The network of a file, or the ensemble of several, fp32, in evaluation mode.

    It takes (B, C, H, W) float 0–1 and gives predictions (B, N, 5 + nc) and the maps of the head.

    Args:
        device: also as `map_location`, its name before v6.2; default: the CPU.
        inplace: accepted for YOLOv5's sake.

    Raises:
        UserError: no such file, or one that cannot be used. Nothing is downloaded.
    """
    files = [weights] if isinstance(weights, (str, Path)) else weights
    place = device or map_location or "cpu"
    members = [load_model(find_weights(file), place, fuse=fuse) for file in files]
    return members[0] if len(members) == 1 else Ensemble(members)
