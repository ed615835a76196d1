"""From a network to a flat graph of elementary layers and functions, in evaluation mode."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx, nn

from models.blocks.detect import Detect
from models.blocks.reshape import shuffle_channels
from models.parse import Layer, run_layers
from models.yolo import DetectionModel


class _Tracer(fx.Tracer):
    """Goes into every block but torch's own layers, the head, and those that cannot be traced.

    `shuffle_channels` stays a single node: that it only permutes channels is what folding wants to know.
    """

    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__(autowrap_functions=(shuffle_channels,))
        self.opaque = opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = m.__module__.startswith("torch.nn") and not isinstance(m, (nn.Sequential, nn.ModuleList))
        return own or isinstance(m, Detect) or m in self.opaque


class Flow(nn.Module):
    """The layers of a model and their wiring alone, without what a detection model is besides.

    Args:
        raw: end at the head's convolutions: (B, na * (5 + nc), h, w) of logits per level, channels anchor by
            anchor, x, y, w, h, objectness, classes.
    """

    def __init__(self, model: DetectionModel, raw: bool = False) -> None:
        super().__init__()
        self.before, head = model.head.apart()
        self.model, self.layers, self.raw = model.model, model.layers, raw
        if self.before is not None:
            self.model = nn.Sequential(*list(model.model)[:-1], head)

    def forward(self, image: Tensor) -> Any:
        return run_layers(self.model, self.layers, image, self._call)

    def _call(self, layer: Layer, module: nn.Module, x: Any) -> Any:
        if self.before is not None and isinstance(module, Detect):
            x = self.before(x)
        if self.raw and isinstance(module, Detect):
            return tuple(conv(features) for conv, features in zip(module.m, x))
        return module(x)


def top_layers(network: nn.Module) -> list[nn.Module]:
    """What can stay whole one by one: the layers of a yaml but the head, or another network's children."""
    layers = network.model if isinstance(network, Flow) else network.children()
    return [layer for layer in layers if not isinstance(layer, Detect)]


def trace(
    network: nn.Module, shape: tuple[int, ...], whole: Collection[nn.Module] = frozenset()
) -> fx.GraphModule:
    """The graph of a network on maps (B, C, H, W), in evaluation mode. It shares the network's parameters.

    A block of `whole`, or one that cannot be traced because what it does depends on values, stays a node of
    its own. Every node has `meta["value"]`, its output as a tensor (or tensors) without data, for an input of
    `shape`.
    """
    network.eval()
    opaque = {layer for layer in top_layers(network) if layer in whole or not _traceable(layer)}
    graph = fx.GraphModule(network, _Tracer(opaque).trace(network))
    _Shapes(graph).run(torch.zeros(shape, dtype=next(network.parameters()).dtype))
    return graph


def _traceable(layer: nn.Module) -> bool:
    try:
        _Tracer(set()).trace(nn.Sequential(layer))
    except Exception:  # noqa: BLE001 - a user's block may fail on torch.fx's stand-ins with anything
        return False
    return True


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps what every node gives, as tensors without data."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        n.meta["value"] = value.to("meta") if isinstance(value, Tensor) else value
        return value
