"""What every runtime offers, whatever is behind it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.errors import UserError

DEFAULT_STRIDE = 32
MOST_THREADS = 1024
LEAST_COLUMNS = 6  # box, objectness, one class
Names = dict[int, str]


class Backend(nn.Module):
    """A network ready to run.

    Attributes:
        names: class index to class name.
        stride: image sides must be multiples of this.
        shape: (height, width) of images when only one is possible, else None.
        batch: images per call when only one number is possible, else None; other numbers are split or padded.
        any_shape: whether images of all shapes are possible, so that they need no padding to one shape.
        pt: whether this is a PyTorch model with all that it offers (any shape, augmentation, tracing).
    """

    names: Names
    stride: int
    shape: tuple[int, int] | None = None
    batch: int | None = None
    any_shape = False
    pt = False

    def __init__(self, device: torch.device, half: bool = False) -> None:
        super().__init__()
        self.device = device
        self.dtype = torch.float16 if half else torch.float32

    def forward(self, images: Tensor, augment: bool = False) -> Tensor:
        """(B, 3, H, W) float 0–1 to (B, N, 5 + nc) on the same device; `augment` is for PyTorch models.

        Raises:
            UserError: augmentation, images of a size that the file does not take, a file without predictions.
        """
        if augment:
            raise UserError("--augment needs PyTorch weights (.pt, .safetensors)")
        if self.shape and tuple(images.shape[2:]) != self.shape:
            raise UserError(f"the weights take images of {self.shape}, got {tuple(images.shape[2:])}")
        size = self.batch or len(images)
        parts = [self._run_part(images[start : start + size], size) for start in range(0, len(images), size)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def train(self, mode: bool = True) -> Backend:
        """Backends only predict: whatever the mode asked for, they stay in evaluation mode."""
        return super().train(False)

    def _run_part(self, images: Tensor, size: int) -> Tensor:
        count = len(images)
        if count < size:  # the network has a fixed batch: fill it up, drop the surplus
            images = torch.cat((images, images.new_zeros(size - count, *images.shape[1:])))
        output = self.run(images)
        if output.ndim != 3 or len(output) != size or output.shape[2] < LEAST_COLUMNS:
            raise UserError(
                f"the weights give {tuple(output.shape)} instead of predictions ({size}, N, 5 + classes); "
                "export them without --raw and --nms"
            )
        return output[:count]

    def run(self, images: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} does not define how to run")


def check_threads(threads: int | None) -> None:
    """Raise a UserError unless a number of threads can be asked for; None leaves it to the runtime."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise UserError(f"--threads must lie between 1 and {MOST_THREADS}, found {threads}")


def first_line(error: Exception) -> str:
    """The first line of a message that says something, at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
