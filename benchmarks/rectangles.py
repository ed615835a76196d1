"""What a runtime pays for shapes that change from picture to picture, and what coarser shapes would cost.

    python -m benchmarks.rectangles --weights yolov5n.pt --images coco256/images/val2017

Pictures go one by one through a network for any size, on one thread. Counted is the processor's time, which
other work on the machine changes less than the clock's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TypeAlias

import torch
from torch import Tensor

from benchmarks.pages import markdown_table
from models.detector import prepare
from models.exporting.kept import kept_network
from models.runtimes.base import Backend
from models.runtimes.kept import installed
from models.runtimes.opening import load_backend
from models.weights import find_weights
from utils.data.images import image_shape, read_image
from utils.data.letterbox import fit, round_up
from utils.data.sources import expand
from utils.errors import run_command
from utils.flags import IMGSZ, SIDE, CommandConfig, flag, not_empty, parse_flags

Shape: TypeAlias = tuple[int, int]
STEPS = (32, 64, 128, 160)
AGAIN = 3


@dataclass(frozen=True)
class Config(CommandConfig):
    """Flags of benchmarks/rectangles.py."""

    weights: str = flag("", "PyTorch weights", rule=not_empty)
    images: str = flag("", "folder of photographs", rule=not_empty)
    imgsz: int = flag(640, "image size in pixels", *IMGSZ, rule=SIDE)


def main(argv: Sequence[str] | None = None) -> None:
    run(parse_flags(Config, argv, "benchmarks/rectangles.py"))


def run(config: Config) -> None:
    """Measure and print both tables.

    Raises:
        UserError: no photographs, or weights that cannot be used.
    """
    torch.set_num_threads(1)
    files = expand(config.images)
    titles = ("step", "shapes", "pixels of squares")
    steps = [(str(step), *map(str, coarser(files, config.imgsz, step))) for step in STEPS]
    print(markdown_table([titles, *steps], "rrr"))
    images = [prepare([read_image(file)], config.imgsz).images.float() / 255 for file in files]
    rows: list[tuple[str, ...]] = [
        ("runtime", "first / again", "first passes, s", "after others / again", "all, s", "once more, s")
    ]
    for name in installed():
        backend = load_backend(kept_network(find_weights(config.weights), name), threads=1)
        rows.append((name, *figures(backend, images)))
    print(markdown_table(rows, "lrrrrr"))


def coarser(files: Sequence[str], size: int, step: int) -> tuple[int, float]:
    """How many shapes there are in multiples of `step`, and the share of a square's pixels that they have."""
    inner = [fit(image_shape(file), (size, size), stride=32).inner for file in files]
    shapes = [(round_up(height, step), round_up(width, step)) for height, width in inner]
    return len(set(shapes)), round(sum(h * w for h, w in shapes) / len(shapes) / size**2, 3)


def figures(backend: Backend, images: Sequence[Tensor]) -> tuple[str, ...]:
    """Ratios as median (most), and seconds; see `run`."""
    backend(torch.zeros(1, 3, 96, 96))  # the very first call lays out memory
    by_shape: dict[Shape, Tensor] = {(image.shape[2], image.shape[3]): image for image in images}
    calls = {shape: partial(backend, image) for shape, image in by_shape.items()}
    first = {shape: seconds(call) for shape, call in calls.items()}
    again = {shape: min(seconds(call) for _ in range(AGAIN)) for shape, call in calls.items()}
    later = [seconds(calls[shape]) / again[shape] for _ in range(2) for shape in calls]
    whole = [sum(seconds(partial(backend, image)) for image in images) for _ in range(2)]
    return (
        spread([first[shape] / again[shape] for shape in calls]),
        f"{sum(first.values()) - sum(again.values()):.2f}",
        spread(later),
        *(f"{value:.1f}" for value in whole),
    )


def spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({max(ratios):.2f})"


def seconds(call: Callable[[], object]) -> float:
    """Of all processors of this process."""
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    run_command(main)
