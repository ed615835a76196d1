"""Figures of docs/losses.md: what losses cost and how steep they are, a family a figure; ways of boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.losses.composition import BoxLoss
from utils.losses.grammar import read
from utils.losses.overlaps import PairGeometry
from utils.losses.scores import SCORE_LOSSES, Scores
from utils.plots.canvas import FAINT, INK, new_figure, save_figure, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1d4ed8", "#d55e00", "#009e73", "#cc4f8b", "#a67c00", "#6a4c93")  # apart for the colour-blind too
DASHES = ("-", (0, (6, 3)), (0, (3, 3)), (0, (1, 1.5)))
POINTS = 241
IMAGE, PIXELS, MEAN = (8.0, 8.0), 16.0, 0.5  # for MPDIoU, for NWD, and WIoU's running mean

# file name: title, and the losses by their label; the others are compared with the first
FAMILIES: dict[str, tuple[str, dict[str, str]]] = {
    "bases-1": ("Bases of 2016 to 2021", {name: name for name in ("IoU", "GIoU", "DIoU", "CIoU", "EIoU")}),
    "bases-2": (
        "Newer bases, beside IoU",
        {name: name for name in ("IoU", "SIoU", "MPDIoU", "Shape-IoU", "PIoU", "NWD")},
    ),
    "inner": (
        "Inner-IoU(ratio=…)",
        {"IoU": "IoU", **{f"{r}": f"Inner-IoU(ratio={r})" for r in (0.5, 0.75, 1.25, 1.5)}},
    ),
    "focaler": (
        "Focaler-CIoU(d, u)",
        {
            "CIoU": "CIoU",
            **{f"d={d}, u={u}": f"Focaler-CIoU(d={d}, u={u})" for d, u in ((0, 0.95), (0, 0.7), (0.3, 0.95))},
        },
    ),
    "alpha": (
        "Alpha-DIoU(alpha=…)",
        {"DIoU": "DIoU", **{f"{a}": f"Alpha-DIoU(alpha={a})" for a in (2, 3, 5)}},
    ),
    "weights": (
        f"Weights of CIoU (WIoU at a running mean of {MEAN})",
        {"CIoU": "CIoU", **{n: f"{n}-CIoU" for n in ("Focal", "PIoU2", "WIoU-v1", "WIoU-v2", "WIoU-v3")}},
    ),
    "nwd": (
        "NWD-CIoU(share=…), c=12.8 pixels, a label of 16",
        {"CIoU": "CIoU", **{f"{s}": f"NWD-CIoU(share={s})" for s in (0.25, 0.5, 0.75, 1)}},
    ),
}


def draw_families(folder: Path) -> list[Path]:
    """Write `losses-NAME.png` for each family of box losses, and for objectness and class losses."""
    files = []
    for name, (title, losses) in FAMILIES.items():
        files.append(folder / f"losses-{name}.png")
        save_figure(family(title, losses), files[-1])
    files.append(folder / "losses-scores.png")
    save_figure(scores(), files[-1])
    return files


def family(title: str, losses: Mapping[str, str]) -> Figure:
    """Loss and length of the gradient, against overlap and against distance."""
    figure, axes = _panels(title, 2, 2)
    boxes = (squeezed(POINTS), shifted(POINTS))
    for number, (label, name) in enumerate(losses.items()):
        for column, (x, box) in enumerate(boxes):
            loss, gradient = priced(name, box)
            axes[0][column].plot(x, loss, label=label, **_style(number))
            axes[1][column].plot(x, gradient, **_style(number))
    for column, text in enumerate(
        ("IoU: a box as wide as its label, and lower", "distance in widths of the label")
    ):
        style_axes(axes[0][column], y="loss" if column == 0 else "")
        style_axes(axes[1][column], x=text, y="length of its gradient" if column == 0 else "")
        axes[1][column].set_ylim(0, min(axes[1][column].get_ylim()[1], 4.2))
    _legend(figure, axes[0][0])
    return figure


def squeezed(count: int) -> tuple[Tensor, Tensor]:
    """(count,) IoUs up to 1 and (count, 4) boxes of those, as wide as a label of 1 x 1, around its centre."""
    height = torch.linspace(0.02, 0.999, count, dtype=torch.float64)
    zero, one = torch.zeros_like(height), torch.ones_like(height)
    return height, torch.stack((zero, zero, one, height), dim=1)


def shifted(count: int) -> tuple[Tensor, Tensor]:
    """(count,) distances and (count, 4) boxes of the label's size that far to the right of it."""
    distance = torch.linspace(0.001, 2, count, dtype=torch.float64)
    zero, one = torch.zeros_like(distance), torch.ones_like(distance)
    return distance, torch.stack((distance, zero, one, one), dim=1)


def priced(name: str, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of boxes beside a label of 1 x 1 around (0, 0), and the length of its gradient, (N,) each."""
    boxes = boxes.clone().requires_grad_()
    label = boxes.new_tensor((0.0, 0.0, 1.0, 1.0)).expand_as(boxes)
    loss = BoxLoss(name)(PairGeometry.of(boxes, label, IMAGE, PIXELS), MEAN).loss
    (gradient,) = torch.autograd.grad(loss.sum(), boxes)
    return loss.detach(), gradient.norm(dim=1)


def scores() -> Figure:
    """Objectness and class losses, and their slopes, against the score, for three things that are wanted."""
    figure, axes = _panels(
        "Objectness and class losses (Slide at an overlap of 0.7, which is the mean)", 2, 3
    )
    probability = torch.linspace(0.003, 0.997, POINTS, dtype=torch.float64)
    for column, wanted in enumerate((0.0, 0.7, 1.0)):
        for number, name in enumerate(SCORE_LOSSES):
            cost, slope = scored(name, probability, wanted)
            axes[0][column].plot(probability, cost, label=name, **_style(number))
            axes[1][column].plot(probability, slope, **_style(number))
        style_axes(axes[0][column], f"wanted {wanted:g}", y="loss" if column == 0 else "")
        style_axes(axes[1][column], x="score", y="slope by the logit" if column == 0 else "")
        axes[0][column].set_ylim(0, 4)
    _legend(figure, axes[0][0])
    return figure


def scored(name: str, probability: Tensor, wanted: float) -> tuple[Tensor, Tensor]:
    """Loss of each score, where something is wanted, and how steep it is by the logit, (N,) each."""
    logits = probability.logit().requires_grad_()
    target = torch.full_like(probability, wanted)
    given = Scores(logits, target, target > 0, torch.full_like(probability, 0.7 if wanted else 0.0))
    plain = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    cost = read(name, SCORE_LOSSES, {}).base.function(plain, given)
    (slope,) = torch.autograd.grad(cost.sum(), logits)
    return cost.detach(), slope.abs()


def draw_paths(folder: Path, paths: Mapping[str, Sequence[float]]) -> Path:
    """Write `losses-paths.png`: mean IoU step by step, of losses from the best to the worst."""
    names = list(paths)
    chosen = [names[round(i * (len(names) - 1) / 5)] for i in range(6)] if len(names) > 6 else names
    figure, ((axes,),) = _panels("Mean IoU of the boxes, step by step", 1, 1, height=4.8)
    for path in paths.values():
        axes.plot(path, color=FAINT, linewidth=0.8, alpha=0.6)
    for number, name in enumerate(chosen, start=1):
        axes.plot(paths[name], label=name, **_style(number))
    style_axes(axes, x="step", y="mean IoU")
    axes.set_ylim(0, 1)
    _legend(figure, axes, columns=2)
    file = folder / "losses-paths.png"
    save_figure(figure, file)
    return file


def _panels(title: str, rows: int, columns: int, height: float = 5.4) -> tuple[Figure, list[list[Axes]]]:
    figure = new_figure(9, height, dpi=80)
    figure.suptitle(title, x=0.02, ha="left", fontsize=11, color=INK, fontweight="bold")
    axes = figure.subplots(rows, columns, sharex="col", squeeze=False)
    return figure, axes.tolist()


def _legend(figure: Figure, axes: Axes, columns: int = 0) -> None:
    """One for all panels, below them; in one row, or in some columns."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns or len(labels), frameon=False, fontsize=9
    )


def _style(number: int) -> Mapping[str, Any]:
    """The first is thick and faint; the others differ by dashes too, so that lines that coincide are seen."""
    if number == 0:
        return {"color": FAINT, "linewidth": 3}
    place = (number - 1) % len(COLOURS)
    return {"color": COLOURS[place], "linestyle": DASHES[place % len(DASHES)], "linewidth": 1.6}
