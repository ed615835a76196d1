"""Layers of a network one by one, each among neighbours, so that a form can be timed where it will stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.blocks.conv import Conv
from models.blocks.detect import Detect
from models.parse import IMAGE, Layer, run_layers
from models.yolo import DetectionModel

NARROW = 8  # channels of a neighbourhood's input and output: little beside those of the layer


class Neighbourhood(nn.Module):
    """(B, NARROW, H, W) to (B, NARROW, h, w): a layer, what joins maps before it, 1x1 convolutions around.

    A runtime keeps maps in a memory layout of its own between layers. The convolutions before and behind
    stand for those of the network: what is timed is what the layer costs among others.

    Args:
        layers: and their modules; the last is the one that counts.
        maps: (B, C, H, W) of each layer outside that these read.
    """

    def __init__(
        self,
        layers: list[Layer],
        modules: Mapping[int, nn.Module],
        maps: Mapping[int, torch.Size],
        channels: int,
    ) -> None:
        super().__init__()
        self.layers, self.keys = layers, list(maps)
        self.inner = nn.ModuleList(modules[layer.index] for layer in layers)
        largest = max(shape[2] for shape in maps.values())
        self.before = nn.ModuleList(
            Conv(NARROW, shape[1], k=1, s=largest // shape[2]) for shape in maps.values()
        )
        self.after = nn.Conv2d(channels, NARROW, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = {key: before(x) for key, before in zip(self.keys, self.before)}
        for layer, module in zip(self.layers, self.inner):
            inputs = [outputs[source] for source in layer.sources]
            outputs[layer.index] = module(inputs if layer.joins else inputs[0])
        y: Tensor = self.after(outputs[self.layers[-1].index])
        return y


@dataclass(frozen=True)
class Place:
    """A layer of a network in its neighbourhood, which takes images of `shape`."""

    name: str
    network: nn.Module
    shape: tuple[int, int, int, int]


def places_of(model: DetectionModel, size: tuple[int, int]) -> Iterator[Place]:
    """Every layer that has weights, but the head, at (height, width) of the images; equal ones once.

    Weights are the model's own, in evaluation mode and fused; the model itself is left alone.
    """
    shapes: dict[int, torch.Size] = {}

    def note(layer: Layer, module: nn.Module, x: Tensor | list[Tensor]) -> Tensor:
        y: Tensor = module(x)
        if isinstance(y, Tensor):
            shapes[layer.index] = y.shape
        return y

    weight = next(model.parameters())
    image = weight.new_zeros(1, model.channels, *size)
    with torch.inference_mode():
        run_layers(model.model, model.layers, image, note)
    shapes[IMAGE] = image.shape
    modules = dict(enumerate(model.model))
    seen: set[str] = set()
    for layer, module in zip(model.layers, model.model):
        if isinstance(module, Detect) or not list(module.parameters()) or layer.index not in shapes:
            continue
        inside = _joined(layer, model)
        outside = {j for inner in inside for j in inner.sources} - {inner.index for inner in inside}
        maps = {j: shapes[j] for j in sorted(outside)}
        if any(len(shape) != 4 for shape in maps.values()) or IMAGE in maps:
            continue
        known = f"{module} {[(inner.name, inner.args) for inner in inside]} {list(maps.values())}"
        if known in seen:
            continue
        seen.add(known)
        height, width = (max(shape[axis] for shape in maps.values()) for axis in (2, 3))
        network = Neighbourhood(inside, modules, maps, shapes[layer.index][1])
        yield Place(f"layer {layer.index}, {layer.name}", network.eval(), (1, NARROW, height, width))


def _joined(layer: Layer, model: DetectionModel) -> list[Layer]:
    """A layer, behind those without weights that only it, or they, read from."""
    found = {layer.index}
    for index in range(layer.index, -1, -1):
        if index in found:
            found |= {
                j for j in model.layers[index].sources if j >= 0 and not list(model.model[j].parameters())
            }
    return [model.layers[index] for index in sorted(found)]
