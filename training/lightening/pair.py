"""Teacher and student side by side: what they share, and the ends of stages at which they are compared."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.alignment import align
from models.parse import IMAGE, Layer, run_layers
from models.registry import lookup, stacked
from models.transfer import TransferReport
from models.yolo import DetectionModel
from training.lightening.losses import feature_error

Maps = Mapping[int, Any]
Change = Callable[[int, Any], Any]
Shares = Callable[[int], Tensor]  # how much each of so many channels counts in each picture, (B, C, 1, 1)
LITTLE = 0.05  # of the parameters of a layer


def ends_of_stages(teacher: DetectionModel, pairs: Mapping[int, int]) -> dict[int, int]:
    """Those of `pairs`, layers of a student and the teacher's in their places, at which a stage ends: CSP
    stacks and the end of the backbone."""
    last = len(teacher.yaml["backbone"]) - 1
    return {
        own: its
        for own, its in pairs.items()
        if its == last or lookup(teacher.layers[its].name).rule is stacked
    }


def _kinds(module: nn.Module) -> list[tuple[type, str]]:
    """What is in a layer, with its settings: activations, too, which have no weights to be compared."""
    return [(type(part), part.extra_repr()) for part in module.modules()]


class Watched(nn.Module):
    """A detector that also gives the maps of some of its layers, by their index."""

    def __init__(self, model: DetectionModel, layers: Collection[int]) -> None:
        super().__init__()
        self.model, self.watched = model, frozenset(layers)

    def forward(self, images: Tensor, change: Change | None = None) -> tuple[Any, dict[int, Tensor]]:
        """What the detector gives, and the maps; `change` of a layer's index and map gives what goes on."""
        maps: dict[int, Tensor] = {}

        def call(layer: Layer, module: nn.Module, x: Any) -> Any:
            y = module(x)
            if change is not None:
                y = change(layer.index, y)
            if layer.index in self.watched:
                maps[layer.index] = y
            return y

        return run_layers(self.model.model, self.model.layers, images, call), maps

    def logits(self, images: Tensor, change: Change | None = None) -> tuple[list[Tensor], dict[int, Tensor]]:
        """The logits of each level alone, and the maps: boxes that nobody asks for are not made."""
        head = self.model.head
        before, head.training = head.training, True  # its flag alone: what is in it stays at rest
        try:
            logits, maps = self(images, change)
        finally:
            head.training = before
        return logits, maps


class Pair:
    """A trained detector, and another one that is to take its place.

    Attributes:
        cuts: for each layer of the student at which the two are compared, the teacher's: ends of stages,
            which are the CSP stacks and the end of the backbone.
        adapters: by the student's layer, as text, a 1x1 convolution to as many channels as the teacher has
            there, where it has others. They learn along, and are no part of the result.
        shared: how many layers from the first are the same in both, weights included. They stay as they are,
            so the teacher's maps serve the student too.
        new: the layers that are not the teacher's own.
        blank: those that have next to nothing of the teacher's, and do not pass on what they get either.
        pairs: by the student's layer, the teacher's in whose place it stands.
    """

    def __init__(
        self, student: DetectionModel, teacher: DetectionModel, report: TransferReport | None = None
    ) -> None:
        """`report` is that of `inherit`, which made the student."""
        self.student, self.teacher = student, teacher.eval().requires_grad_(False)
        self.pairs = pairs = report.pairs if report else align(student, teacher)
        device = teacher.stride.device
        self._chosen = {j: kept.to(device) for j, kept in report.chosen.items()} if report else {}
        self.new = [layer.index for layer in student.layers if not self._same_block(layer, pairs)]
        self.blank = self._blank(report) if report else set()
        self.shared = self._shared(pairs)
        ends = ends_of_stages(teacher, pairs)
        self.cuts = {own: its for own, its in ends.items() if own >= self.shared}
        self.adapters = nn.ModuleDict(
            {
                str(own): nn.Conv2d(student.layers[own].channels, len(self.kept(its)), kernel_size=1)
                for own, its in self.cuts.items()
                if student.layers[own].channels != len(self.kept(its))
            }
        ).to(device)
        crossing = self._crossing()
        self._watched = Watched(teacher, {*self.cuts.values(), *crossing})
        self._mixing = crossing & set(ends.values())

    def _same_block(self, layer: Layer, pairs: Mapping[int, int]) -> bool:
        if layer.index not in pairs:
            return False
        its = self.teacher.layers[pairs[layer.index]]
        return (layer.name, layer.number, layer.args) == (its.name, its.number, its.args)

    @staticmethod
    def _blank(report: TransferReport) -> set[int]:
        return {
            index
            for (index, _), counts in report.layers.items()
            if counts.all_parameters
            and counts.share < LITTLE
            and (index in report.pairs or index not in report.origins)
        }

    def kept(self, layer: int) -> list[int]:
        """Channels of a layer of the teacher that the student has too."""
        chosen = self._chosen.get(layer)
        return list(range(self.teacher.layers[layer].channels)) if chosen is None else chosen.tolist()

    def _shared(self, pairs: Mapping[int, int]) -> int:
        teacher = self.teacher.state_dict()
        for layer, module in zip(self.student.layers, self.student.model):
            its = self.teacher.layers[pairs.get(layer.index, 0)]
            same = layer.index == pairs.get(layer.index) and layer.sources == its.sources
            same = same and _kinds(module) == _kinds(self.teacher.model[its.index])
            names = [f"model.{layer.index}.{name}" for name in module.state_dict()]
            own = dict(zip(names, module.state_dict().values()))
            if not same or not self._same_block(layer, pairs) or layer is self.student.layers[-1]:
                return layer.index
            if any(name not in teacher or not torch.equal(own[name], teacher[name]) for name in names):
                return layer.index
        return 0

    def _crossing(self) -> set[int]:
        """Shared layers whose maps the student's own layers take."""
        own = self.student.layers[self.shared :]
        return {j for layer in own for j in layer.sources if j < self.shared}

    @torch.no_grad()
    def lesson(self, images: Tensor, shares: Shares | None = None) -> tuple[Maps, list[Tensor]]:
        """The teacher's maps at the ends of stages and where the student begins, and its logits by level.

        Args:
            shares: for the channels of shared ends of stages that the student goes on with. So both hear of
                more than the pictures show: other things are made of the same channels in other shares.
        """

        def change(layer: int, y: Tensor) -> Tensor:
            return y if shares is None or layer not in self._mixing else y * shares(y.shape[1]).to(y)

        logits, maps = self._watched.logits(images, change)
        for index in maps.keys() & self._chosen.keys():
            maps[index] = maps[index][:, self._chosen[index]]
        return {IMAGE: images, **maps}, logits

    def given(self, maps: Maps) -> dict[int, Any]:
        """What the student's own layers begin with: the image, and maps of shared layers."""
        return {j: maps[j] for j in {IMAGE, *self._crossing()}}

    def errors(self, maps: Maps, *, stages: bool) -> tuple[dict[int, Tensor], list[Tensor] | None]:
        """Run the student's own layers.

        Args:
            maps: the teacher's, as `lesson` gives them.
            stages: each stage gets the teacher's maps, whatever those before it have made, where it can take
                them; the head is left out.

        Returns:
            The error at each cut, as a fraction of the variance of the teacher's map, and the logits.
        """
        outputs = self.given(maps)
        errors: dict[int, Tensor] = {}
        for layer, module in zip(self.student.layers[self.shared :], self.student.model[self.shared :]):
            if stages and layer is self.student.layers[-1]:
                return errors, None
            inputs = [outputs[j] for j in layer.sources]
            y = outputs[layer.index] = module(inputs if layer.joins else inputs[0])
            if layer.index in self.cuts:
                wanted = maps[self.cuts[layer.index]]
                adapter = self._adapter(layer)
                errors[layer.index] = feature_error(y if adapter is None else adapter(y), wanted)
                if stages and adapter is None:
                    outputs[layer.index] = wanted
        logits = outputs[self.student.layers[-1].index]
        return errors, logits if isinstance(logits, list) else logits[1]

    def _adapter(self, layer: Layer) -> nn.Module | None:
        name = str(layer.index)
        return self.adapters[name] if name in self.adapters else None  # noqa: SIM401  # it has no get

    def train(self, batch_statistics: bool) -> None:
        """Set modes: new layers use statistics of the batch, if told to; the teacher's own keep theirs."""
        self.student.eval()
        for layer, module in zip(self.student.layers, self.student.model):
            if layer.index in self.new and batch_statistics:
                module.train()
        self.student.model[-1].train()  # logits alone
