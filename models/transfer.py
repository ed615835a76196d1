"""What a network takes over from the weights of another one: by name, or by structure.

By name, as YOLOv5 does it: tensors of equal names and shapes. By structure: layers that stand in the same
place are found (`alignment.py`), and each takes what its form can hold (`blocks/taking.py`).
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from models.alignment import align
from models.blocks.conv import Conv, batch_norm
from models.blocks.orepa import OREPA, MergedConv2d
from models.blocks.taking import Joined, Take, tensors_of
from models.narrowing import CannotNarrow, narrowed
from models.parse import IMAGE, Layer
from models.stem import for_channels
from models.yolo import DetectionModel

State = Mapping[str, Tensor]


class Counts(NamedTuple):
    """Tensors taken over, buffers such as running means among them, and parameters (values), of how many."""

    tensors: int
    all_tensors: int
    parameters: int
    all_parameters: int

    @property
    def share(self) -> float:
        """Fraction (0..1) of the parameters. Running means, counters and anchors are none."""
        return self.parameters / max(self.all_parameters, 1)


IDENTITY = "returns its input"  # what an inserted layer does at first, where its form allows


@dataclass(frozen=True)
class TransferReport:
    """What `transfer` took over.

    Attributes:
        layers: by index and block, in the order of the model; those without tensors are left out.
        kept: by the name of each tensor that kept its initial value, the reason.
        remade: what was done to kernels over an image of other channels; empty when there were none.
        origins: by the index of a layer, what it was made from; this and what follows, of a transfer by
            structure only.
        pairs: by the index of a layer, that of the layer in whose place it stands.
        altered: by what comes out of them, layers that stand where none did and cannot return their input.
        chosen: of a model narrower than the teacher, by the index of a layer of the teacher the channels that
            were kept.
    """

    layers: dict[tuple[int, str], Counts]
    kept: dict[str, str]
    remade: str = ""
    origins: dict[int, str] = field(default_factory=dict)
    pairs: dict[int, int] = field(default_factory=dict)
    altered: dict[str, list[str]] = field(default_factory=dict)
    chosen: dict[int, Tensor] = field(default_factory=dict)

    def add(self, layer: Layer, own: str, tensor: Tensor, reason: str, share: float = 1.0) -> None:
        """Count a tensor of a layer, `own` its name there; `reason` says why it was kept, if it was, and
        `share` how much of it was taken over, if it was not."""
        size = tensor.numel() if isinstance(tensor, nn.Parameter) else 0
        before = self.layers.get((layer.index, layer.name), Counts(0, 0, 0, 0))
        counts = (not reason, 1, 0 if reason else round(share * size), size)
        self.layers[layer.index, layer.name] = Counts(*map(sum, zip(before, counts)))
        if reason:
            self.kept[f"model.{layer.index}.{own}"] = reason

    @property
    def total(self) -> Counts:
        """The sum over all layers."""
        return Counts(*map(sum, zip(*self.layers.values())))

    @property
    def share(self) -> float:
        """Fraction (0..1) of the model's parameters that were copied."""
        return self.total.share

    def __str__(self) -> str:
        total, new = self.total, list(self.origins.values()).count(IDENTITY)
        born = f"; {new} new layers begin as the identity" if new else ""
        return (
            f"{total.tensors} of {total.all_tensors} tensors taken over, {total.share:.1%} of the parameters "
            f"({total.parameters:,} of {total.all_parameters:,}){self.remade and '; '}{self.remade}{born}"
        )

    def table(self) -> str:
        """A line a layer: index, block, tensors and parameters taken over, of how many, share and origin."""
        heading = "  made from" if self.origins else ""
        lines = [
            f"{'layer':>5}  {'block':<16} {'tensors':>9} {'parameters taken over':>24} {'share':>7}{heading}"
        ]
        for (index, block), counts in [*self.layers.items(), (("", "all"), self.total)]:
            tensors = f"{counts.tensors} of {counts.all_tensors}"
            parameters = f"{counts.parameters:,} of {counts.all_parameters:,}"
            origin = f"  {self.origins[int(index)]}" if index in self.origins else ""
            lines.append(
                f"{index:>5}  {block:<16} {tensors:>9} {parameters:>24} {counts.share:>7.1%}{origin}"
            )
        return "\n".join(lines)

    def warnings(self) -> list[str]:
        """A line for each kind of layer that changes what it is given from the start."""
        return [f"layer {', '.join(layers)} {instead}" for instead, layers in self.altered.items()]

    def details(self) -> list[str]:
        """One line for each tensor that kept its initial value, with the reason."""
        return [f"{reason}: {name}" for name, reason in self.kept.items()]


@torch.no_grad()
def transfer(model: DetectionModel, source: State, exclude: Sequence[str] = ("anchor",)) -> TransferReport:
    """Copy into `model`, in place, every tensor of `source` whose name and shape match.

    Kernels over an image of other channels are made for those of the model: see `models/stem.py`.

    Args:
        source: a state dict in any floating dtype; values are converted to the model's.
        exclude: parts of names that are left alone; by default the anchors, which belong to a yaml.
    """
    source, remade = for_channels(model, source)
    report = TransferReport({}, {}, remade)
    for layer, module in zip(model.layers, model.model, strict=True):
        for own, tensor in tensors_of(module):
            name = f"model.{layer.index}.{own}"
            reason = _misfit(name, tensor, source.get(name), exclude)
            if not reason:
                tensor.copy_(source[name])
            report.add(layer, own, tensor, reason)
    return report


@torch.no_grad()
def inherit(
    model: DetectionModel, teacher: DetectionModel, exclude: Sequence[str] = ("anchor",)
) -> TransferReport:
    """Take over, in place, what each layer of `model` can hold of the layer of `teacher` in whose place it
    stands.

    A layer that stands where none did returns its input where its form allows. Of a wider teacher the most
    telling channels are taken (`narrowing.py`).

    Args:
        teacher: its layers may be others, its classes too.
        exclude: as in `transfer`.
    """
    teacher, chosen = at_width_of(model, with_batch_norms(teacher))
    source, remade = for_channels(model, teacher.state_dict())
    pairs = align(model, teacher)
    report = TransferReport({}, {}, remade, pairs=pairs, chosen=chosen)
    for layer, module in zip(model.layers, model.model, strict=True):
        tensors = tensors_of(module)
        keep = [t for own, t in tensors if any(p in f"model.{layer.index}.{own}" for p in exclude)]
        take = Take(keep, joined_maps(layer, model, teacher, pairs))
        origin = None
        if layer.index in pairs:
            origin = teacher.layers[pairs[layer.index]]
            take.module(module, plain(teacher.model[origin.index], module))
            report.origins[layer.index] = f"{origin.index} {origin.name}{_share(chosen.get(origin.index))}"
            if remade and IMAGE in layer.sources:
                take.named(tensors, {own: source.get(f"model.{layer.index}.{own}") for own, _ in tensors})
        elif callable(pass_through := getattr(module, "pass_through", None)):
            if instead := pass_through():
                report.altered.setdefault(instead, []).append(f"{layer.index} {layer.name}")
            report.origins[layer.index] = instead or IDENTITY
        for own, tensor in tensors:
            reason = take.reason(tensor) or ("nothing that fits" if origin else "there is no such layer")
            report.add(layer, own, tensor, "" if take.has(tensor) else reason, take.share(tensor))
    return report


def joined_maps(
    layer: Layer, model: DetectionModel, teacher: DetectionModel, pairs: Mapping[int, int]
) -> Joined | None:
    """What a layer behind a Concat has in common with its counterpart behind another one, where widths
    differ."""
    behind = layer.sources[0]
    if len(layer.sources) != 1 or pairs.get(behind) not in teacher.layers[pairs.get(layer.index, 0)].sources:
        return None
    own, its = model.layers[behind], teacher.layers[pairs[behind]]
    if own.channels == its.channels or {own.name, its.name} != {"Concat"}:
        return None
    widths = [
        [net.layers[j].channels for j in joins.sources] for net, joins in ((model, own), (teacher, its))
    ]
    ends = [list(itertools.accumulate(some)) for some in widths]
    parts = zip(*widths, *ends, strict=False)
    shared = [(slice(a - mine, a), slice(b - theirs, b)) for mine, theirs, a, b in parts if mine == theirs]
    return Joined(own.channels, its.channels, shared) if len(widths[0]) == len(widths[1]) else None


def at_width_of(model: DetectionModel, teacher: DetectionModel) -> tuple[DetectionModel, dict[int, Tensor]]:
    """The teacher with as many channels as `model` has, where that is narrower; else, and where its channels
    cannot be chosen, the teacher itself.

    Returns:
        The teacher, and the channels that were kept by the index of each layer that gives one map.
    """
    if model.yaml["width_multiple"] >= teacher.yaml["width_multiple"]:
        return teacher, {}
    try:
        with torch.random.fork_rng(devices=[]):  # initial weights that are not kept
            slim, chosen = narrowed(copy.deepcopy(teacher).cpu(), model.yaml["width_multiple"])
    except CannotNarrow:
        return teacher, {}
    return slim.to(teacher.stride.device), chosen


def _share(chosen: Tensor | None) -> str:
    return "" if chosen is None else f", {len(chosen)} of its channels"


def with_batch_norms(model: DetectionModel) -> DetectionModel:
    """The model itself; of a fused one a copy whose Convs have BatchNorms again, which only add the bias."""
    if not any(_is_fused(module) for module in model.modules()):
        return model
    model = copy.deepcopy(model)
    for module in model.modules():
        if _is_fused(module):
            norm, bias = batch_norm(module.conv.out_channels).to(module.conv.weight), module.conv.bias
            assert isinstance(module, Conv) and bias is not None
            norm.weight.data.fill_((1 + norm.eps) ** 0.5)
            norm.bias.data.copy_(bias.data)
            module.conv.bias, module.bn = None, norm.train(module.training)
    return model


def plain(module: nn.Module, taker: nn.Module) -> nn.Module:
    """A layer whose merged convolutions are single ones, in a copy, for one that has none of that kind."""
    if not any(isinstance(part, MergedConv2d) for part in module.modules()) or any(
        isinstance(part, MergedConv2d) for part in taker.modules()
    ):
        return module
    module = copy.deepcopy(module)
    for part in list(module.modules()):
        if isinstance(part, OREPA) and isinstance(part.conv, MergedConv2d):
            part.conv = part.conv.squeezed()
    return module


def _is_fused(module: nn.Module) -> TypeGuard[Conv]:
    return isinstance(module, Conv) and isinstance(module.bn, nn.Identity) and module.conv.bias is not None


def _misfit(name: str, tensor: Tensor, found: Tensor | None, exclude: Sequence[str]) -> str:
    """Why a tensor is not taken over; empty when it is."""
    if any(part in name for part in exclude):
        return "left as it is"
    if found is None:
        return "not in the weights"
    if found.shape != tensor.shape:
        return f"other shape {tuple(tensor.shape)}, in the weights {tuple(found.shape)}"
    return ""
