"""Folding that is compared with the network itself before anybody relies on it."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import models.folding.rules  # noqa: F401  # registers every rule
from models.folding.fold import Folding
from models.folding.forms import Chooser, Site, by_rule
from models.folding.slices import slices_wanted
from models.folding.sources import changed
from models.folding.trace import top_layers, trace
from utils.console import LOGGER

TOLERANCE = 1e-6  # of the largest value of an output, in double precision
KEPT = "blocks left whole"


class Folded(NamedTuple):
    """An equivalent network.

    Attributes:
        rules: how often which rule applied.
        sites: where there was a choice of equal forms, and their names; see `models.folding.forms`.
    """

    network: nn.Module
    rules: dict[str, int]
    sites: dict[Site, tuple[str, ...]]


@torch.no_grad()
def fold(
    network: nn.Module,
    shape: tuple[int, ...],
    choose: Chooser = by_rule,
    scale: tuple[float, float] = (1, 1),
) -> Folded:
    """An equivalent of a network on maps (B, C, H, W) in evaluation mode.

    The result is compared with the network on noise, in another size and batch than it was traced with. A
    block may do what no trace shows: change its input in place, ask for types, turn the axes of a map. Where
    the result differs for that or cannot be made, the block stays whole; if need be all blocks do.

    Args:
        shape: of an input that the network takes.
        choose, scale: which of equal forms, and for how much larger maps; see `Folding`.
    """
    dtype = next(network.parameters()).dtype
    plain = copy.deepcopy(network).eval().double()
    probes = list(_probes(plain, shape))
    for whole in _choices(plain):
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # where fx shows the code of a graph that fails
                folded = _folded(plain, shape, whole, choose, scale)
                same = all(_same(_outputs(folded.network, image), expected) for image, expected in probes)
        except Exception:  # noqa: BLE001 - torch.fx and a user's block may fail with anything
            LOGGER.debug("cannot fold", exc_info=True)
            continue
        if same:
            folded.network.to(dtype)
            folded.rules.update({KEPT: len(whole)} if whole else {})
            return folded
    return Folded(plain.to(dtype), {KEPT: 1}, {})


def _folded(
    network: nn.Module,
    shape: tuple[int, ...],
    whole: set[nn.Module],
    choose: Chooser,
    scale: tuple[float, float],
) -> Folded:
    traced = trace(network, shape, whole)
    first = Folding(traced, None, choose, scale)
    first.fold()
    folding = Folding(traced, slices_wanted(first), choose, scale)
    result = folding.fold()
    return Folded(result, {name: count for name, count in folding.counts.items() if count}, folding.sites)


def _choices(network: nn.Module) -> Iterator[set[nn.Module]]:
    """Blocks to leave whole: none, each alone, all."""
    blocks = [
        layer
        for layer in top_layers(network)
        if list(layer.children()) or not layer.__module__.startswith(("torch.nn", "models."))
    ]
    yield set()
    yield from ({block} for block in blocks)
    yield set(blocks)


def _probes(network: nn.Module, shape: tuple[int, ...]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Images and what the network makes of them; of the size of `shape` only where it takes no other."""
    batch, channels, height, width = shape
    generator = torch.Generator().manual_seed(0)
    for probe in ((batch + 1, channels, height // 2, width), shape):
        image = torch.randn(probe, dtype=torch.float64, generator=generator)
        try:
            yield image, _outputs(network, image)
        except Exception:  # a user's block may need this very size, and fail with anything
            if probe == shape:
                raise
            continue
        return


def _outputs(network: nn.Module, image: Tensor) -> list[Tensor]:
    """Every tensor that a network gives; it may write into its input, but not into ours."""
    found: list[Tensor] = []
    changed(network(image.clone()), lambda source: source, found.append)
    return found


def _same(found: list[Tensor], expected: list[Tensor]) -> bool:
    def close(one: Tensor, other: Tensor) -> Any:
        if one.shape != other.shape or not other.numel():
            return one.shape == other.shape
        largest = float(other.abs().nan_to_num(0, 0, 0).max())
        return torch.allclose(one, other, rtol=0, atol=TOLERANCE * largest, equal_nan=True)

    return len(found) == len(expected) and all(map(close, found, expected))
