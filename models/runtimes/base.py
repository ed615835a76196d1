"""What every runtime offers, whatever is behind it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from models.runtimes.metadata import DEFAULT_STRIDE, Description, Names
from utils.data.channels import COLOUR, checked_channels
from utils.device import half_dtype, images_at_once
from utils.errors import UserError

MOST_THREADS = 1024
LEAST_COLUMNS = 6  # box, objectness, one class


class Backend(nn.Module):
    """A network ready to run.

    The backend of a file is made of its path, the device, `half` (fp16 in PyTorch on CUDA, bf16 in PyTorch
    and OpenVINO on CPUs that are faster in it) and `threads` of inference on the CPU (None leaves their
    number to the runtime).

    Attributes:
        names: class index to class name; empty when the file does not tell.
        stride: image sides must be multiples of this.
        channels: of the images.
        shape: (height, width) of images when only one is possible, else None.
        batch: images per call when only one number is possible, else None; other numbers are split or padded.
        any_shape: whether images of all shapes are possible, so that they need no padding to one shape.
        pt: whether this is a PyTorch model in this process.
        calls: how many threads may call it at once, each with its share of the cores; of a PyTorch model any
            number, whose shares are theirs to set.
        library: what runs it.
        place: what it runs on.
        title: file, library and place, for reports.
        origin: when its weights were saved, and how good they were as far as they say so.
    """

    shape: tuple[int, int] | None = None
    batch: int | None = None
    any_shape = False
    pt = False
    calls = 1
    library = "PyTorch"
    title = origin = ""

    def __init__(self, device: torch.device, half: bool = False) -> None:
        super().__init__()
        self.device = device
        self.dtype = (half_dtype(device) if half else None) or torch.float32
        self.place = str(device) if self.library in ("PyTorch", "TorchScript") else "cpu"
        if self.dtype == torch.bfloat16:
            self.place += " in bf16"
        self.names: Names = {}
        self.stride = DEFAULT_STRIDE
        self.channels = COLOUR

    def configure(self, path: Path, description: Description, sides: Sequence[int | None]) -> None:
        """Take over what a file says of itself, and the sides of its input, None where any size goes.

        Raises:
            UserError: the input is not (B, C, H, W) with channels that pictures have.
        """
        if len(sides) != 4:
            raise UserError(f"'{path}' takes {list(sides)}, not images (B, C, H, W)")
        self.names, self.stride = description.names, description.stride
        self.batch, channels, height, width = sides
        channels = channels or description.channels
        self.channels = checked_channels(channels, f"'{path}': its number of channels")
        self.shape = (height, width) if height and width else None
        self.any_shape = self.shape is None

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        """(B, C, H, W) float 0–1 to (B, N, 5 + nc) on the same device; `augment` is for PyTorch models.

        Raises:
            UserError: augmentation, images that the file does not take or that its runtime cannot run, a file
                without predictions.
        """
        if augment:
            raise UserError("--augment needs PyTorch weights (.pt, .safetensors)")
        if self.shape and tuple(images.shape[2:]) != self.shape:
            raise UserError(f"the weights take images of {self.shape}, got {tuple(images.shape[2:])}")
        if images.shape[1] != self.channels:
            raise UserError(f"the weights take {self.channels} channels, got images of {images.shape[1]}")
        size = self.batch or images_at_once(self.device, *images.shape[2:]) or len(images)
        parts = [self._run_part(part) for part in images.split(size)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def close(self) -> None:
        """End what runs beside it, if anything does."""

    def train(self, mode: bool = True) -> Backend:
        """Backends only predict: whatever the mode asked for, they stay in evaluation mode."""
        return super().train(False)

    def _run_part(self, images: Tensor) -> Tensor:
        count, size = len(images), self.batch or len(images)
        if count < size:  # the network has a fixed batch: fill it up, drop the surplus
            images = torch.cat((images, images.new_zeros(size - count, *images.shape[1:])))
        try:
            output = self.run(images)[0]
        except (UserError, MemoryError):
            raise
        except Exception as error:  # runtimes raise classes of their own, which derive from it alone
            given = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
            raise UserError(f"the weights cannot run on images {given}: {first_line(error)}") from error
        if output.ndim != 3 or len(output) != size or output.shape[2] < LEAST_COLUMNS:
            raise UserError(
                f"the weights give {tuple(output.shape)} instead of predictions ({size}, N, 5 + classes); "
                "export them without --raw and --nms"
            )
        step = max(self.stride, DEFAULT_STRIDE)
        cells = images.shape[2] // step * (images.shape[3] // step)  # of the coarsest level
        if output.shape[1] < cells:
            raise UserError(
                f"the weights give {tuple(output.shape)} for images of {tuple(images.shape[2:])}; predictions"
                f" are (B, N, 5 + classes), N at least {cells}: another network, or one for another size"
            )
        return output[:count].to(self.device)

    def run(self, images: Tensor) -> Sequence[Tensor]:
        """Every output of the network for a batch that it takes."""
        raise NotImplementedError


def first_line(error: Exception) -> str:
    """The first line of a message that says something, at most 200 characters.

    OpenVINO's begin with lines that name places in its source.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (telling or lines or [type(error).__name__])[0][:200]


def the_pair(folder: Path, suffix: str) -> tuple[Path, Path]:
    """The one file of a suffix in a folder, and the file with its weights, which ends in .bin.

    Raises:
        UserError: no such file, several of them, or no weights beside it.
    """
    found = sorted(file for file in folder.iterdir() if file.name.endswith(suffix) and file.is_file())
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:3])
        there = f"{len(found)} {suffix} files ({names})" if found else f"no {suffix} file"
        raise UserError(f"'{folder}' must hold one {suffix} file with its .bin; it has {there}")
    weights = found[0].with_suffix(".bin")
    if not weights.is_file():
        raise UserError(f"'{folder}' has {found[0].name} without its {weights.name}; export it again")
    return found[0], weights


def checksum(files: Sequence[Path]) -> str:
    """The SHA-256 of the files' contents one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
