"""A trained detector beside the one that trains: what it says of a batch counts as the labels do.

`lightening/` does the same without labels, and has the errors that are used here.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.alignment import align
from models.transfer import with_batch_norms
from models.weights import load_model
from models.yolo import DetectionModel
from training.lightening.losses import feature_error, output_error
from training.lightening.pair import Watched, ends_of_stages
from utils.checkpoints.files import inference_state, read_checkpoint, write_checkpoint
from utils.console import LOGGER
from utils.data.loader import Loader
from utils.device import memory_format
from utils.errors import UserError
from utils.evaluation.evaluate import EvaluationOptions, evaluate

FEATURES, OUTPUTS = 0.1, 0.1  # how much the two errors count beside the losses of the labels
NOWHERE = -30.0  # the logit of what is certain not to be


class Trained(NamedTuple):
    """A detector, and the file that it was read from."""

    model: DetectionModel
    path: Path


class Lesson(NamedTuple):
    """What a teacher makes of a batch: its logits of each level, and its maps by the index of the layer."""

    logits: list[Tensor]
    maps: dict[int, Tensor]


class Translation:
    """How the teacher's logits read in the terms of the student: with its anchors and its classes.

    What the teacher takes for a thing of a class that the student does not have is no thing. Of classes that
    the teacher does not have, it wants what the student says.

    Args:
        any_class: whether things are things, whatever their class; the student has one.

    Attributes:
        known: indices of the classes that both have, the student's and the teacher's.
        complete: whether every class of the student is one of the teacher's.
    """

    def __init__(self, student: DetectionModel, teacher: DetectionModel, *, any_class: bool) -> None:
        self.known = shared_classes(student.names, teacher.names)
        own, its = self.known
        self.complete = any_class or len(own) == student.nc
        self._columns = [5 + index for index in own], [5 + index for index in its]
        # of the sigmoids of widths and heights, (nl, na, 2)
        self._factors = (teacher.head.anchors / student.head.anchors).sqrt()
        foreign = [] if any_class else sorted({*teacher.names} - {*its})
        self._foreign = torch.tensor(foreign, device=self._factors.device)
        same_anchors = torch.allclose(self._factors, torch.ones(()).to(self._factors), rtol=1e-3)  # as halves
        same_classes = any_class or own == its == [*range(teacher.nc)]
        self._needless = same_anchors and same_classes and student.nc == teacher.nc

    def __call__(self, said: Sequence[Tensor], logits: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's logits (B, na, H, W, 5 + its classes) of each level, as (B, na, H, W, 5 + nc)."""
        if self._needless:
            return list(said)
        return [self._level(*level) for level in zip(said, logits, self._factors, strict=True)]

    def _level(self, said: Tensor, logits: Tensor, factors: Tensor) -> Tensor:
        said, wanted = said.float(), logits.detach().float().clone()
        wanted[..., :5] = said[..., :5]
        wanted[..., 2:4] = (said[..., 2:4].sigmoid() * factors[:, None, None]).logit(eps=1e-6)
        own, its = self._columns
        wanted[..., own] = said[..., its]
        if len(self._foreign):
            wanted[..., 4].masked_fill_(torch.isin(said[..., 5:].argmax(dim=-1), self._foreign), NOWHERE)
        return wanted


class Teacher:
    """What a trained detector has to say to one that trains.

    Maps are compared at the ends of stages, where both have as many channels. Logits are compared where both
    have the same levels, anchors that answer for the same sizes, and at least one class by name. Of a teacher
    that lacks one of the student's classes, it says nothing that it sees nothing.

    Args:
        trained: on the device of the student.
        student: with its final anchors.
        weight: how much the teacher counts, as a multiple of what is usual.
        any_class: whether things are things, whatever their class.
        anchor_t: from which ratio of their sides on anchors answer for other sizes.

    Attributes:
        cuts: for each layer of the student at which maps are compared, the teacher's.
        silent: why logits are not compared; empty when they are.

    Raises:
        UserError: there is nothing at all to compare.
    """

    def __init__(
        self,
        trained: Trained,
        student: DetectionModel,
        *,
        weight: float = 1.0,
        any_class: bool = False,
        anchor_t: float = 4.0,
    ) -> None:
        self.student, (self.model, self.path) = student, trained
        self.weight, self.any_class = weight, any_class
        self.cuts = {
            own: its
            for own, its in ends_of_stages(self.model, align(student, self.model)).items()
            if student.layers[own].channels == self.model.layers[its].channels
        }
        self.silent = hindrance(student, self.model, anchor_t, any_class=any_class)
        self._translation = None if self.silent else Translation(student, self.model, any_class=any_class)
        self._network = Watched(self.model.eval().requires_grad_(False), self.cuts.values())
        if self.silent and not self.cuts:
            raise UserError(
                f"--teacher {self.path} has nothing to teach: {self.silent}, and none of its maps has as "
                "many channels as that of the network that trains"
            )

    def __str__(self) -> str:
        things = [f"maps at {len(self.cuts)} ends of stages"] if self.cuts else []
        if self._translation is None:
            return f"{things[0]} alone: {self.silent}"
        if not self.any_class:
            own = self._translation.known[0]
            lacking = [name for index, name in self.student.names.items() if index not in own]
            lacks = f" (not {reprlib.repr(lacking)})" if lacking else ""
            things.insert(0, f"{len(own)} of {self.student.nc} classes{lacks}")
        return ", ".join(("objectness", "boxes", *things))

    def watch(self) -> Watched:
        """The student as it has to be called: with the maps that are compared."""
        return Watched(self.student, self.cuts)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Lesson:
        """What the teacher makes of the images that the student sees."""
        return Lesson(*self._network.logits(images))

    def error(self, logits: Sequence[Tensor], maps: Mapping[int, Tensor], lesson: Lesson) -> Tensor:
        """How far the student is from the teacher, for one image; weighted, in float32.

        The error of logits is that of a thing that the teacher sees: it does not grow with the size of the
        image or with the crowd in it.

        Args:
            logits, maps: the student's of the same images, as `watch` gives them.
        """
        total = logits[0].new_zeros((), dtype=torch.float32)
        for own, its in self.cuts.items():
            total = total + FEATURES / len(self.cuts) * feature_error(maps[own], lesson.maps[its])
        if self._translation is not None:
            wanted = self._translation(lesson.logits, logits)
            sure = torch.stack([level[..., 4].float().sigmoid().sum() for level in wanted])
            error = output_error(logits, wanted, everywhere=self._translation.complete)
            total = total + OUTPUTS * error / (sure.sum() / len(logits[0])).clamp(min=1)
        return self.weight * total

    def mean_ap(self, loader: Loader) -> float | None:
        """mAP50-95 of the teacher on labelled pictures; None when it lacks one of the student's classes."""
        known = shared_classes(self.student.names, self.model.names)[1]
        if not self.any_class and len(known) < self.student.nc:
            return None
        columns = [*range(5), *(5 + index for index in (self.model.names if self.any_class else known))]

        def infer(images: Tensor) -> Tensor:
            predictions: Tensor = self.model(images)[0]
            return predictions[..., columns]

        device, options = self.model.stride.device, EvaluationOptions(single_cls=self.any_class)
        return evaluate(infer, loader, device, self.student.names, options).summary()[3]

    def compare(self, loader: Loader, own: float) -> None:
        """Say how good it is on the validation pictures, beside the student's `own` mAP50-95."""
        its = self.mean_ap(loader)
        if its is None:
            LOGGER.info("the teacher does not know all classes, so that its mAP is not measured")
        else:
            share = f": {own / its:.1%}" if its > 0.001 else ""
            LOGGER.info(f"mAP50-95 on val: teacher {its:.3f}, student {own:.3f}{share}")

    def keep(self, path: Path) -> None:
        """Write it into the folder of the run, unless it comes from there."""
        if path.resolve() != self.path.resolve():
            save_teacher(self.path, path)


def hindrance(student: DetectionModel, teacher: DetectionModel, anchor_t: float, *, any_class: bool) -> str:
    """Why the logits of the two cannot be compared; empty when they can."""
    own, its = student.head, teacher.head
    if own.anchors.shape != its.anchors.shape or own.stride.tolist() != its.stride.tolist():
        return "its head has other levels or anchors"
    ratio = own.anchors / its.anchors
    if torch.maximum(ratio, 1 / ratio).max() >= anchor_t:
        return "its anchors are of other sizes"
    if not any_class and not shared_classes(student.names, teacher.names)[0]:
        return f"it knows none of the classes, only {reprlib.repr([*teacher.names.values()])}"
    return ""


def shared_classes(own: dict[int, str], its: dict[int, str]) -> tuple[list[int], list[int]]:
    """Indices of the classes of equal names in both, in the order of the first; none twice."""
    if own == its:
        return [*own], [*own]
    places = {name: index for index, name in reversed(its.items())}
    pairs = [(index, places.pop(name)) for index, name in own.items() if name in places]
    return [index for index, _ in pairs], [index for _, index in pairs]


def load_teacher(path: Path, student: DetectionModel) -> Trained:
    """The trained detector in a file, on the device of the student.

    Raises:
        UserError: an unusable file, or a network that cannot see what the student sees.
    """
    device = student.stride.device
    model = with_batch_norms(load_model(path, device)).to(memory_format=memory_format(device))
    if model.channels != student.channels:
        raise UserError(
            f"--teacher {path} takes pictures of {model.channels} channels, the network that trains of "
            f"{student.channels}; name a teacher of as many"
        )
    if student.multiple % model.multiple:
        raise UserError(
            f"--teacher {path} takes pictures whose sides are multiples of {model.multiple}, the "
            f"network that trains of {student.multiple}; name a teacher of as many levels"
        )
    return Trained(model, path)


def save_teacher(teacher: Path, path: Path) -> None:
    """Keep the teacher with the run, so that it can be resumed whatever becomes of the file."""
    content = read_checkpoint(teacher)
    write_checkpoint(path, {**content, "model": inference_state(content), "ema": None, "optimizer": None})
