"""What `published.yaml` says of how to recount a number, and the recount."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.classifiers import CLASSIFIERS
from benchmarks.complexity import build
from models.registry import lookup
from models.summary import layer_costs
from utils.counting.conventions import CONVENTIONS
from utils.counting.measure import count_parameters, measure
from utils.counting.meter import Cost, in_sequence

Value: TypeAlias = int | float
KINDS = ("model", "classifier", "block")
# the tables of YOLOv5 count the fused model, and each bias as one more multiply-add (docs/counting.md)
TABLE = "table"
KNOWN_CONVENTIONS = CONVENTIONS


@dataclass(frozen=True)
class Subject:
    """What is counted: a model yaml, a published classifier, or one block.

    Attributes:
        kind: one of `KINDS`.
        name: of the yaml, of the classifier (`benchmarks.classifiers`), or of the registered block.
        settings: `nc` and `imgsz` of a model; arguments of a classifier; `args` of a block and the `map`
            (channels, height, width) that it gets.
    """

    kind: str
    name: str
    settings: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        shown = [f"{key} {'true' if value is True else value}" for key, value in self.settings]
        return ", ".join([self.name, *shown])


@dataclass(frozen=True)
class Recount:
    """A subject, and the one that its differences and ratios refer to."""

    subject: Subject
    against: Subject | None = None

    def __str__(self) -> str:
        return f"{self.subject}; against {self.against}" if self.against else str(self.subject)


@dataclass(frozen=True)
class Counted:
    """Parameters and the cost of one pass."""

    parameters: int
    cost: Cost


def parse_subject(content: Mapping[str, Any]) -> Subject:
    """A subject as the file has it, such as `{model: yolov5n.yaml, nc: 20}`.

    Raises:
        ValueError: not exactly one kind, or a name that is no text.
    """
    kinds = [kind for kind in KINDS if kind in content]
    if len(kinds) != 1:
        raise ValueError(
            f"recount needs exactly one of {', '.join(KINDS)}, got {', '.join(content) or 'none'}"
        )
    name = content[kinds[0]]
    if not isinstance(name, str):
        raise ValueError(f"recount: {kinds[0]} is {name!r}; it must be a name")
    settings = tuple(
        (key, _frozen(value)) for key, value in content.items() if key not in (*KINDS, "against")
    )
    return Subject(kinds[0], name, settings)


def parse_recount(content: Any) -> Recount:
    """The `recount` entry of a claim.

    Raises:
        ValueError: it has another form.
    """
    if not isinstance(content, dict):
        raise ValueError(f"recount is {content!r}; it must be a mapping such as {{model: yolov5n.yaml}}")
    against = content.get("against")
    return Recount(parse_subject(content), parse_subject(against) if against else None)


@cache
def counted(subject: Subject, fused: bool = False) -> Counted:
    """Count a subject, a model with or without its BatchNorms folded; what several claims name, once.

    Raises:
        ValueError: there is no such model, classifier or block, or its settings do not suit it.
    """
    settings = dict(subject.settings)
    try:
        if subject.kind == "model":
            return _count_model(subject.name, fused, **settings)
        with torch.device("meta"):
            make = _classifier if subject.kind == "classifier" else _block
            module, image = make(subject.name, **settings)
    except TypeError as error:
        raise ValueError(f"{subject}: {error}") from error
    return Counted(count_parameters(module), measure(module.eval(), image))


def _count_model(name: str, fused: bool, nc: int | None = None, imgsz: int = 640) -> Counted:
    model = build(name, nc).eval()
    if fused:
        model.fuse()
    layers = layer_costs(model.model, model.layers, model.yaml["ch"], imgsz)
    return Counted(count_parameters(model), in_sequence([layer.cost for layer in layers]))


def flops(subject: Subject, convention: str) -> int:
    """Operations of one pass by a convention of `KNOWN_CONVENTIONS`.

    Raises:
        ValueError: as `counted`, or an unknown convention.
    """
    if convention == TABLE:
        operations = counted(subject, fused=True).cost.operations
        return operations["products"] + 2 * operations["biases"]
    for known in CONVENTIONS:
        if convention == known:
            return counted(subject).cost.flops(known)
    raise ValueError(f"convention '{convention}' is none of {', '.join(KNOWN_CONVENTIONS)}")


def _classifier(name: str, side: int = 224, **arguments: Any) -> tuple[nn.Module, Tensor]:
    if name not in CLASSIFIERS:
        raise ValueError(f"unknown classifier '{name}'; there are {', '.join(CLASSIFIERS)}")
    return CLASSIFIERS[name](**arguments), torch.empty(1, 3, side, side)


def _block(name: str, args: tuple[Any, ...], map: tuple[int, int, int]) -> tuple[nn.Module, Tensor]:
    return lookup(name).block(*args), torch.empty(1, *map)


def _parameters(subject: Subject) -> int:
    return counted(subject).parameters


# (subject, convention) -> value
QUANTITIES: dict[str, Callable[[Subject, str], Value]] = {
    "parameters": lambda item, _: _parameters(item),
    "GFLOPs": lambda item, convention: round(flops(item, convention) / 1e9, 3),
    "multiply-adds": lambda item, convention: flops(item, convention) // 2,
}
# (subject, the one it is compared with, convention) -> value
COMPARISONS: dict[str, Callable[[Subject, Subject, str], Value]] = {
    "parameters change": lambda item, base, _: _parameters(item) - _parameters(base),
    "parameters change, %": lambda item, base, _: round(100 * (_parameters(item) / _parameters(base) - 1), 1),
    "FLOPs ratio": lambda item, base, convention: round(flops(item, convention) / flops(base, convention), 4),
}


def recount(recipe: Recount, quantity: str, convention: str) -> Value:
    """Count one quantity.

    Raises:
        ValueError: an unknown quantity, one that compares without anything to compare with, or `counted`'s.
    """
    if quantity in QUANTITIES:
        return QUANTITIES[quantity](recipe.subject, convention)
    if quantity not in COMPARISONS:
        raise ValueError(f"cannot recount '{quantity}'; known are {', '.join([*QUANTITIES, *COMPARISONS])}")
    if recipe.against is None:
        raise ValueError(f"'{quantity}' compares; recount needs an entry `against`")
    return COMPARISONS[quantity](recipe.subject, recipe.against, convention)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
