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


def layer_table(modules: nn.Sequential, layers: Sequence[Layer], ch: int = 3, imgsz: int = 640) -> str:
    """Index, from, repeats, parameters, GFLOPs, module and arguments, one line per layer."""
    lines = [f"{'layer':>5} {'from':>16} {'n':>3} {'parameters':>11} {'GFLOPs':>8}  {'module':<18} arguments"]
    for cost in layer_costs(modules, layers, ch, imgsz):
        layer = cost.layer
        arguments = ", ".join(map(str, layer.args))
        lines.append(
            f"{layer.index:>5} {layer.written!s:>16} {layer.number:>3} {cost.parameters:>11,} "
            f"{cost.gflops:>8.3f}  {layer.name:<18} {arguments}"
        )
    return "\n".join(lines)


def summary_line(
    modules: nn.Sequential, layers: Sequence[Layer], ch: int = 3, imgsz: int | None = None, thop: bool = False
) -> str:
    """Layers, parameters, gradients; with `imgsz` GFLOPs, and with `thop` also that package's figure."""
    leaves = sum(not list(module.children()) for module in modules.modules())
    line = (
        f"{leaves} layers, {count_parameters(modules):,} parameters, "
        f"{count_parameters(modules, trainable=True):,} gradients"
    )
    if imgsz is None:
        return line
    line += f", {sum(cost.gflops for cost in layer_costs(modules, layers, ch, imgsz)):.3f} GFLOPs at {imgsz}"
    if not thop:
        return line
    other = thop_flops(_Network(modules, layers), torch.empty(1, ch, imgsz, imgsz, device="meta"))
    figure = "not installed" if other is None else f"{other / 1e9:.3f} GFLOPs"
    return f"{line} (convolutions only, fused; thop with BatchNorm: {figure})"


class _Network(nn.Module):
    """The whole network as one module, for a counter that wants to call it."""

    def __init__(self, modules: nn.Sequential, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.model, self.layers = modules, layers

    def forward(self, x: torch.Tensor) -> Any:
        return run_layers(self.model, self.layers, x)
