"""Whether HetConv's 3x3 convolution in groups would be faster with fewer and wider groups, or dense.

    python -m benchmarks.grouped

Six HetConv in a row, folded: each a 1x1 convolution plus a 3x3 in groups of the width that `deploy` gives it,
beside the same with half as many groups, and beside one dense 3x3. Latency is relative to the first, in the
same round.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.pages import console_table
from models.exporting import onnx
from models.exporting.job import Job
from models.folding.convolution import LEAST_CHANNELS
from models.tuning.calls import OPENERS, measure
from utils.errors import run_command
from utils.files import temporary_folder

MAPS = {16: 160, 32: 80, 64: 40, 128: 20}  # channels of yolov5n-csphet's HetConv, and the side of their maps
SETS = 4
LAYERS, ROUNDS, WARMUP, THREADS = 6, 100, 10, 2


class Folded(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): a 1x1 convolution plus a 3x3 in groups."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.pointwise = nn.Conv2d(channels, channels, kernel_size=1)
        self.spatial = nn.Conv2d(channels, channels, kernel_size=3, padding=1, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(x) + self.spatial(x)


def forms_of(channels: int) -> dict[str, nn.Module]:
    """The forms by name; the first is that of the folded network."""
    groups = min(SETS, channels // LEAST_CHANNELS)
    forms = {
        f"{count} groups": nn.Sequential(*(Folded(channels, count) for _ in range(LAYERS)))
        for count in (groups, groups // 2)
        if count > 1
    }
    dense = (nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(LAYERS))
    return {**forms, "dense": nn.Sequential(*dense)}


def main() -> None:
    torch.manual_seed(0)
    rows = [("channels", "side", "runtime", "form", "ms", "relative (quartiles)")]
    with temporary_folder() as folder:
        for channels, side in MAPS.items():
            image = torch.rand(1, channels, side, side)
            files = {}
            for number, (name, network) in enumerate(forms_of(channels).items()):
                files[name] = folder / f"{channels}-{number}.onnx"
                onnx.export(Job(network.eval(), image, files[name], {}))
            for runtime in ("onnx", "openvino"):
                calls = {n: OPENERS[runtime](f, image.numpy(), THREADS) for n, f in files.items()}
                times = {name: np.array(found) for name, found in measure(calls, ROUNDS, WARMUP).items()}
                first = next(iter(times.values()))
                for name, found in times.items():
                    low, middle, high = np.percentile(found / first, (25, 50, 75))
                    cells = (f"{np.median(found):.2f}", f"{middle:.2f} ({low:.2f}–{high:.2f})")
                    rows.append((str(channels), str(side), runtime, name, *cells))
    print(console_table(rows, "rrllrl"))


if __name__ == "__main__":
    run_command(main)
