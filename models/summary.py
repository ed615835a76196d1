"""The layer table and the summary line of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models.parse import Layer, run_layers
from utils.counting.measure import call_on_meta, count_parameters, thop_flops
from utils.counting.meter import Cost, Meter


@dataclass(frozen=True)
class LayerCost:
    """One line of the table: the layer, its parameters and its share of the pass through the network.

    `cost.depth` is that of the layer's output; `cost.peak_bytes` is what is alive while the layer runs, also
    outputs that wait for later layers.
    """

    layer: Layer
    parameters: int
    cost: Cost

    @property
    def gflops(self) -> float:
        """GFLOPs, 2 x multiply-adds of convolutions and matrix products."""
        return self.cost.flops("conv") / 1e9


def layer_costs(modules: nn.Sequential, layers: Sequence[Layer], ch: int, imgsz: int) -> list[LayerCost]:
    """Cost of every layer for one image of `imgsz` x `imgsz` pixels and `ch` channels; runs no arithmetic.

    In the modules' own train or eval mode; decoding of the predictions belongs to eval mode.
    """
    costs: list[LayerCost] = []
    meter = Meter()

    def measure(layer: Layer, module: nn.Module, x: Any) -> Any:
        y = call_on_meta(module, x, around=meter)
        costs.append(LayerCost(layer, count_parameters(module), meter.take(y)))
        return y

    image = torch.empty(1, ch, imgsz, imgsz, device="meta")
    meter.follow(image)
    run_layers(modules, layers, image, measure)
    return costs


def layer_table(costs: Sequence[LayerCost]) -> str:
    """Index, from, repeats, parameters, GFLOPs, module and arguments, one line per layer."""
    lines = [f"{'layer':>5} {'from':>16} {'n':>3} {'parameters':>11} {'GFLOPs':>8}  {'module':<18} arguments"]
    for cost in costs:
        layer = cost.layer
        arguments = ", ".join(map(str, layer.args))
        lines.append(
            f"{layer.index:>5} {layer.written!s:>16} {layer.number:>3} {cost.parameters:>11,} "
            f"{cost.gflops:>8.3f}  {layer.name:<18} {arguments}"
        )
    return "\n".join(lines)


def summary_line(model: nn.Module, costs: Sequence[LayerCost], ch: int, imgsz: int) -> str:
    """Layers, parameters and gradients; GFLOPs by our own count and by that of the thop package."""
    leaves = sum(not list(module.children()) for module in model.modules())
    thop = thop_flops(model, torch.empty(1, ch, imgsz, imgsz, device="meta"))
    return (
        f"{leaves} layers, {count_parameters(model):,} parameters, "
        f"{count_parameters(model, trainable=True):,} gradients, "
        f"{sum(cost.gflops for cost in costs):.3f} GFLOPs at {imgsz} (convolutions only, fused; "
        f"thop with BatchNorm: {'not installed' if thop is None else f'{thop / 1e9:.3f} GFLOPs'})"
    )
