"""Which layer of one network stands where which layer of another one stood.

Two descriptions of a detector are compared by what their layers do, not by index or name: an inserted layer
shifts nothing, and a replaced one is recognised by its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.parse import Layer, run_layers
from models.yolo import PROBE, DetectionModel


@dataclass(frozen=True)
class Place:
    """What a layer does to the maps.

    Attributes:
        entry: image pixels per cell of what goes in, of the coarsest where several maps do.
        stride: the same of what comes out; of a head, which gives no map, that of its entry.
        passes: whether its block can pass on what it gets, as one that is put between others does.
    """

    layer: Layer
    entry: float
    stride: float
    passes: bool = False


def places(model: DetectionModel) -> list[Place]:
    """The place of every layer, found by sending an empty image through the network."""
    found: list[Place] = []

    def note(layer: Layer, module: nn.Module, x: Any) -> Any:
        entry = max(PROBE / part.shape[3] for part in (x if layer.joins else [x]))
        y = module(x)
        stride = PROBE / y.shape[3] if isinstance(y, Tensor) else entry
        found.append(Place(layer, entry, stride, callable(getattr(module, "pass_through", None))))
        return y

    mode = model.training
    image = model.head.anchors.new_zeros(1, model.yaml["ch"], PROBE, PROBE)
    with torch.no_grad():
        run_layers(model.eval().model, model.layers, image, note)
    model.train(mode)
    return found


def align(model: DetectionModel, teacher: DetectionModel) -> dict[int, int]:
    """For each layer of `model` that has a counterpart in `teacher`, that one's index; both in ascending
    order.

    Of all ways to pair layers in order, the one with the highest sum of `likeness` (Needleman and Wunsch, A
    general method applicable to the search for similarities, 1970). Where several are equal, layers pair
    late: of the blocks that stand for one, the last has its output.
    """
    own, its = places(model), places(teacher)
    best = [[0.0] * (len(its) + 1) for _ in range(len(own) + 1)]
    for i, a in enumerate(own, 1):
        for j, b in enumerate(its, 1):
            likely = likeness(a, b)
            paired = best[i - 1][j - 1] + likely if likely else 0.0
            best[i][j] = max(paired, best[i - 1][j], best[i][j - 1])
    pairs: dict[int, int] = {}
    i, j = len(own), len(its)
    while i and j:
        likely = likeness(own[i - 1], its[j - 1])
        if likely and best[i][j] == best[i - 1][j - 1] + likely:
            i, j = i - 1, j - 1
            pairs[i] = j
        elif best[i][j] == best[i][j - 1]:
            j -= 1
        else:
            i -= 1
    return dict(sorted(pairs.items()))


def likeness(a: Place, b: Place) -> float:
    """How well one layer can stand for another; 0 when they make different things of the size of maps.

    Of two that are alike in everything, one that was put in besides is the less likely.
    """
    if a.stride != b.stride or a.layer.joins != b.layer.joins:
        return 0.0
    if (a.entry > a.stride) - (a.entry < a.stride) != (b.entry > b.stride) - (b.entry < b.stride):
        return 0.0
    same_block = a.layer.name == b.layer.name
    besides = a.passes and not same_block
    same_size = 1.0 * (a.layer.channels == b.layer.channels) + 0.5 * (a.entry == b.entry)
    return 1.0 + 2.0 * same_block + same_size - 0.25 * besides
