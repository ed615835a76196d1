"""Converge single boxes to labels by gradient descent on their coordinates, and rank box losses by it.

    python benchmark.py losses                                         # every base, and what is done to CIoU
    python benchmark.py losses --iou CIoU "Inner-CIoU(ratio=0.8)"      # these
    python benchmark.py losses --json docs/losses.json --figures docs  # what docs/losses.md shows

After the simulation of the paper of DIoU (Zheng et al., 2020, arXiv:1911.08287): there is no network and
no picture, each box has its own coordinates. Boxes start from a grid of distances, directions, sizes and
aspects and take 200 steps of rate (2 - IoU) gradient. A loss of twice the height would walk twice as fast, so
that each may choose its best of several rates. docs/losses.md says what the ranking does not say.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.loss_figures import draw_families, draw_paths
from benchmarks.pages import command_line, console_table
from utils.console import LOGGER, setup_console
from utils.errors import UserError
from utils.files import write_text
from utils.flags import CommandConfig, flag
from utils.losses.composition import PRICES, SHAPES, BoxLoss, RunningMean
from utils.losses.overlaps import BASES, PairGeometry
from utils.reading import read_bytes

DISTANCES = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)  # of the centres, in sides of a square label
DIRECTIONS = (0, 30, 60, 90)  # degrees; the others are mirrored
SIZES = (0.5, 0.75, 1.0, 1.33, 2.0)  # area of the box over that of the label
ASPECTS = (1 / 4, 1 / 2, 1.0, 2.0, 4.0)  # width over height, of boxes and of labels, which have an area of 1
IMAGE, PIXELS = (20.0, 20.0), 16.0  # for MPDIoU: sides of the image; for NWD: pixels a unit
STEPS = 200
# of the first steps; a tenth in the last fifth, a hundredth in the last tenth
RATES = (0.02, 0.05, 0.1, 0.2)
ARRIVED = 0.9  # IoU
SMALLEST = 1e-3  # side: descent may not turn a box inside out
MOST_BYTES = 16 << 20

LOSSES = (
    *BASES,
    *(name for name, part in PRICES.items() if part.alone),
    *(f"{name}-CIoU" for name in (*PRICES, *SHAPES)),
    "Inner-CIoU(ratio=1.25)", "Inner-IoU(ratio=1.5)", "Focal-EIoU", "Focaler-SIoU", "Alpha-DIoU", "NWD-PIoU",
    "WIoU-v3-Inner-EIoU",
)  # fmt: skip


@dataclass(frozen=True)
class Config(CommandConfig):
    """Converge boxes to labels by gradient descent, and rank box losses by it."""

    iou: tuple[str, ...] = flag(
        LOSSES, "box losses, as --iou of train.py takes them; docs/losses.md has the names"
    )
    json: str = flag("", "file for the numbers")
    figures: str = flag(
        "", "folder for figures of what losses cost, by family, and of the ways of their boxes"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.iou:
            try:
                BoxLoss(name)
            except ValueError as error:
                raise ValueError(f"--iou: {error}") from error


@dataclass(frozen=True)
class Descent:
    """What came of a loss at its best rate.

    Attributes:
        area: mean IoU over all starts and steps: by this losses are ranked.
        iou: mean IoU at the end.
        arrived: share of starts that end with an IoU of 0.9 or more.
        apart: that share of those that did not touch their label at first.
        steps: after which half of all starts have arrived; None where fewer do.
        path: mean IoU before each step, and at the end.
    """

    loss: str
    rate: float
    area: float
    iou: float
    arrived: float
    apart: float
    steps: int | None
    path: list[float]


def run(config: Config) -> None:
    """Print the ranking, and write what the flags name.

    Raises:
        OSError: nothing can be written there.
    """
    setup_console()
    names = list(dict.fromkeys(str(BoxLoss(name)) for name in config.iou))
    boxes, labels = starts()
    found = [best_descent(name, boxes, labels) for name in names]
    found.sort(key=lambda descent: -descent.area)
    print(console_table(rows(found), "rlrrrrrr"))
    if config.json:
        record = {
            "written by": "benchmark.py losses --json",
            "command": list(command_line("losses", config)),
            "starts": len(boxes),
            "steps": STEPS,
            "rates": RATES,
            "losses": [rounded(descent) for descent in found],
        }
        write_text(Path(config.json), json.dumps(record, indent=1) + "\n")
    if config.figures:
        folder = Path(config.figures)
        folder.mkdir(parents=True, exist_ok=True)
        files = [*draw_families(folder), draw_paths(folder, {d.loss: d.path for d in found})]
        LOGGER.info(f"{len(files)} figures in {folder}: {', '.join(file.name for file in files)}")


def starts() -> tuple[Tensor, Tensor]:
    """(N, 4) boxes and (N, 4) labels around the middle of the image, xywh, float32."""
    middle = IMAGE[0] / 2
    boxes, labels = [], []
    for distance, degrees, size, aspect, wanted in itertools.product(
        DISTANCES, DIRECTIONS, SIZES, ASPECTS, ASPECTS
    ):
        x, y = (distance * f(math.radians(degrees)) for f in (math.cos, math.sin))
        boxes.append((middle + x, middle + y, math.sqrt(size * aspect), math.sqrt(size / aspect)))
        labels.append((middle, middle, math.sqrt(wanted), math.sqrt(1 / wanted)))
    return torch.tensor(boxes), torch.tensor(labels)


def best_descent(name: str, boxes: Tensor, labels: Tensor, steps: int = STEPS) -> Descent:
    """The descent of a loss at the rate that leads to the largest area."""
    return max(descents(name, boxes, labels, steps), key=lambda descent: descent.area)


def descents(name: str, boxes: Tensor, labels: Tensor, steps: int = STEPS) -> list[Descent]:
    """Walk all boxes down a loss, for each of `RATES`, all at once; each box goes its own way."""
    loss, means, count = BoxLoss(name), [RunningMean() for _ in RATES], len(boxes)
    first = PairGeometry.of(boxes, labels).iou
    at, labels = boxes.repeat(len(RATES), 1).requires_grad_(), labels.repeat(len(RATES), 1)
    rates = torch.tensor(RATES).repeat_interleave(count)
    ious = []
    for step in range(steps):
        mean = torch.tensor([mean.value for mean in means]).repeat_interleave(count)
        cost = loss(PairGeometry.of(at, labels, IMAGE, PIXELS), mean)
        ious.append(cost.iou)
        (gradient,) = torch.autograd.grad(cost.loss.sum(), at)
        pace = rates * (1 if step < 0.8 * steps else 0.1 if step < 0.9 * steps else 0.01) * (2 - cost.iou)
        with torch.no_grad():
            at -= pace[:, None] * gradient
            at[:, 2:].clamp_(min=SMALLEST)
        if loss.batches is not None:
            for mean_, own in zip(means, cost.iou.split(count)):
                mean_.update(1 - own, lambda tensor: tensor, loss.batches)
    ious.append(PairGeometry.of(at.detach(), labels).iou)
    ways = torch.stack(ious).unflatten(1, (len(RATES), count)).unbind(1)  # (steps + 1, N) for each rate
    return [described(name, rate, way, first == 0) for rate, way in zip(RATES, ways)]


def described(name: str, rate: float, way: Tensor, apart: Tensor) -> Descent:
    """What IoUs (steps + 1, N) say of a descent; `apart` (N,) says which boxes did not touch their label."""
    there = (way >= ARRIVED).double()
    half = (there.mean(dim=1) >= 0.5).nonzero()
    return Descent(
        name,
        rate,
        area=way.mean().item(),
        iou=way[-1].mean().item(),
        arrived=there[-1].mean().item(),
        apart=there[-1][apart].mean().item(),
        steps=int(half[0]) if len(half) else None,
        path=way.mean(dim=1).tolist(),
    )


def rounded(descent: Descent) -> dict[str, Any]:
    """A descent for the file, of no more digits than tell losses apart, and every tenth point of its path."""
    values = {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(descent).items()}
    return values | {"path": [round(value, 4) for value in descent.path[::10]]}


def rows(found: Sequence[Descent]) -> list[tuple[str, ...]]:
    """A table of the ranking, with its titles."""
    table: list[tuple[str, ...]] = [
        ("", "loss", "rate", "mean IoU", "at the end", "arrived", "from apart", "steps")
    ]
    for rank, d in enumerate(found, start=1):
        shares = (f"{d.area:.3f}", f"{d.iou:.3f}", f"{d.arrived:.0%}", f"{d.apart:.0%}")
        table.append((str(rank), d.loss, f"{d.rate:g}", *shares, "–" if d.steps is None else str(d.steps)))
    return table


def load(path: Path) -> list[Descent]:
    """What `--json` wrote.

    Raises:
        UserError: it did not write this.
    """
    try:
        return [Descent(**values) for values in json.loads(read_bytes(path, MOST_BYTES))["losses"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not what `benchmark.py losses --json` writes ({error})") from error
