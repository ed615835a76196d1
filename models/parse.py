"""From a model description to modules and the wiring between them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

import models.blocks  # noqa: F401  # registers every block
from models.blocks.activation import default_activation, parse_activation
from models.blocks.detect import anchors_per_level
from models.registry import Row, Wiring, lookup, make_divisible
from utils.errors import UserError

COUNTED = ("c1", "n")  # arguments of blocks that a row does not write: channels that come in, repeats
IMAGE = -1  # the index under which the network's input is known


@dataclass(frozen=True)
class Layer:
    """The place of one module in the network.

    Attributes:
        index: position in the yaml, and in the `nn.Sequential` of modules.
        written: `from` as the yaml has it.
        sources: indices of the layers whose outputs it takes; -1 is the image.
        joins: whether it takes the list of them rather than the only one.
        name, args, number: block, constructor arguments, and repeats after `depth_multiple`.
        channels: declared output channels.
    """

    index: int
    written: int | list[int]
    sources: tuple[int, ...]
    joins: bool
    name: str
    args: tuple[Any, ...]
    number: int
    channels: int


def parse_model(cfg: dict[str, Any], ch: int = 3, source: str = "model") -> tuple[nn.Sequential, list[Layer]]:
    """Build every layer of a checked description (`models.cfg.validate_cfg`); `ch` is the image's channels.

    Raises:
        UserError: unknown block, or arguments that its rule or constructor refuses; names `source` and layer.
    """
    rows = cfg["backbone"] + cfg["head"]
    channels = {IMAGE: ch}
    modules, layers = [], []
    with default_activation(_activation(cfg, source)):
        for index, (written, number, name, args) in enumerate(rows):
            depth, width = multiples(cfg, index)
            sources = _sources(written, index)
            row = Row(
                channels=tuple(channels[j] for j in sources),
                args=tuple(resolve_argument(arg, cfg) for arg in args),
                number=max(round(number * depth), 1) if number > 1 else number,
                scale=_channel_scale(cfg, width),
            )
            module, wiring = _build(name, row, f"{source}: layer {index}")
            modules.append(module)
            channels[index] = wiring.c2
            layers.append(
                Layer(
                    index=index,
                    written=written,
                    sources=sources,
                    joins=wiring.joins,
                    name=name,
                    args=wiring.args,
                    number=row.number,
                    channels=wiring.c2,
                )
            )
    return nn.Sequential(*modules), layers


def run_layers(
    modules: nn.Sequential,
    layers: Sequence[Layer],
    image: Any,
    call: Callable[[Layer, nn.Module, Any], Any] = lambda layer, module, x: module(x),
) -> Any:
    """Send `image` through the network and return the last layer's output.

    `call` runs one layer, and may measure or check it. Outputs are dropped after their last use.
    """
    last_use = {j: layer.index for layer in layers for j in (layer.index, *layer.sources)}
    outputs = {IMAGE: image}
    result = image
    for layer, module in zip(layers, modules):
        inputs = [outputs[j] for j in layer.sources]
        result = outputs[layer.index] = call(layer, module, inputs if layer.joins else inputs[0])
        del inputs
        for j in {layer.index, *layer.sources}:
            if last_use[j] == layer.index:
                del outputs[j]
    return result


def resolve_argument(value: Any, names: dict[str, Any]) -> Any:
    """A yaml argument as Python value; strings resolve by name or as literals and are never evaluated.

    `nc` and `anchors` are the model's; `None`, `True`, `1e-3` and the like are literals; `nn.ReLU()` is that
    activation; anything else (`nearest`) is the string itself.
    """
    if isinstance(value, list):
        return [resolve_argument(item, names) for item in value]
    if not isinstance(value, str):
        return value
    if value in ("nc", "anchors"):
        return names[value]
    if value.startswith("nn."):
        return parse_activation(value)
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return value


def _build(name: str, row: Row, place: str) -> tuple[nn.Module, Wiring]:
    """One row's module, or a sequence of as many as its rule says; later ones take the first one's output."""
    try:
        entry = lookup(name)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error
    try:
        wiring = entry.rule(row)
        modules = [entry.block(*wiring.args)]
        for _ in range(1, wiring.repeats):
            modules.append(entry.block(*entry.rule(replace(row, channels=(wiring.c2,))).args))
    except TypeError as error:
        shown = ", ".join(map(str, row.args))
        takes = [p for p in inspect.signature(entry.block).parameters if p not in COUNTED]
        told = (
            f"it takes {', '.join(takes) or 'no arguments'}" if "positional argument" in str(error) else error
        )
        raise UserError(f"{place}: {name}({shown}): {told}") from error
    except Exception as error:  # torch's layers fail on wrong arguments with any builtin error
        shown = ", ".join(map(str, row.args))
        raise UserError(f"{place}: {name}({shown}): {error}") from error
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules), wiring


def _sources(written: int | list[int], index: int) -> tuple[int, ...]:
    """Absolute indices: -1 is the layer before (for layer 0 the image), -2 the one before that."""
    several = written if isinstance(written, list) else [written]
    return tuple(j if j >= 0 else index + j for j in several)


def multiples(cfg: dict[str, Any], index: int) -> tuple[float, float]:
    """Depth and width multiple of a row; a backbone that is fixed has none."""
    if cfg.get("fixed_backbone", False) and index < len(cfg["backbone"]):
        return 1.0, 1.0
    return cfg["depth_multiple"], cfg["width_multiple"]


def _channel_scale(cfg: dict[str, Any], width: float) -> Callable[[int], int]:
    detection_output = anchors_per_level(cfg["anchors"]) * (cfg["nc"] + 5)

    def scale(channels: int) -> int:
        # a layer that makes the detection output itself (as old yamls do) must keep its exact channels
        if width == 1.0 or channels == detection_output:
            return channels
        return make_divisible(channels * width, 8)

    return scale


def _activation(cfg: dict[str, Any], source: str) -> nn.Module | None:
    if not cfg.get("activation"):
        return None
    try:
        return parse_activation(cfg["activation"])
    except ValueError as error:
        raise UserError(f"{source}: {error}") from error
