"""Counting what `published.yaml` names: a model, a published classifier, or one block.

A subject is a mapping as the file has it, such as `{model: yolov5n.yaml, nc: 20}`: a kind with a name, and
settings. These are `nc` and `imgsz` of a model, arguments of a classifier (`benchmarks.classifiers`) and
`side` of its image, `args` of a block and the `map` (channels, height, width) that it gets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from benchmarks.classifiers import CLASSIFIERS
from benchmarks.complexity import build
from models.registry import lookup
from models.yolo import DetectionModel
from utils.counting.measure import count_parameters, measure, meta_copy
from utils.counting.meter import Cost

Value: TypeAlias = int | float
Subject: TypeAlias = Mapping[str, Any]
Counted: TypeAlias = tuple[nn.Module, Sequence[int]]  # and the shape of what it takes, without the batch


def recount(subject: Subject, quantity: str, convention: str = "conv") -> Value:
    """Count one quantity of `QUANTITIES`, or of `COMPARISONS` with what the subject names as `against`.

    Args:
        convention: one of `utils.counting.conventions.CONVENTIONS`.

    Raises:
        ValueError: an unknown quantity, a subject of another form, nothing to compare with, or there is no
            such model, classifier or block, or its settings do not suit it.
    """
    alone = {key: value for key, value in subject.items() if key != "against"}
    if quantity in QUANTITIES:
        return QUANTITIES[quantity](alone, convention)
    if quantity not in COMPARISONS:
        raise ValueError(f"cannot recount '{quantity}'; known are {', '.join([*QUANTITIES, *COMPARISONS])}")
    if "against" not in subject:
        raise ValueError(f"'{quantity}' compares; recount needs an entry `against`")
    return COMPARISONS[quantity](alone, subject["against"], convention)


def parameters(subject: Subject) -> int:
    """Of a model before its BatchNorms are folded."""
    module, _ = _built(json.dumps(subject))
    return count_parameters(module)


def flops(subject: Subject, convention: str) -> int:
    """Operations of one pass by a convention of `CONVENTIONS`."""
    return _cost(json.dumps(subject), fused=convention == "table").flops(convention)  # type: ignore[arg-type]


# (subject, convention) -> value
QUANTITIES: dict[str, Callable[[Subject, str], Value]] = {
    "parameters": lambda item, _: parameters(item),
    "GFLOPs": lambda item, convention: round(flops(item, convention) / 1e9, 3),
    "multiply-adds": lambda item, convention: flops(item, convention) // 2,
}
# (subject, the one it is compared with, convention) -> value
COMPARISONS: dict[str, Callable[[Subject, Subject, str], Value]] = {
    "parameters change": lambda item, base, _: parameters(item) - parameters(base),
    "parameters change, %": lambda item, base, _: round(100 * (parameters(item) / parameters(base) - 1), 1),
    "FLOPs ratio": lambda item, base, convention: round(flops(item, convention) / flops(base, convention), 4),
}


@cache
def _built(subject: str) -> tuple[nn.Module, Tensor]:
    """What a subject (as json) names, in eval mode, and an image or a map for it, both without data."""
    settings = json.loads(subject)
    kinds = [kind for kind in KINDS if kind in settings]
    if len(kinds) != 1:
        given = ", ".join(settings) or "none"
        raise ValueError(f"recount needs exactly one of {', '.join(KINDS)}, got {given}")
    name = settings.pop(kinds[0])
    if not isinstance(name, str):
        raise ValueError(f"recount: {kinds[0]} is {name!r}; it must be a name")
    try:
        module, shape = KINDS[kinds[0]](name, **settings)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
    return module.eval(), torch.empty(1, *shape, device="meta")


def _model(name: str, nc: int | None = None, imgsz: int = 640) -> Counted:
    model = build(name, nc)
    return model, (model.yaml["ch"], imgsz, imgsz)


def _classifier(name: str, side: int = 224, **arguments: Any) -> Counted:
    if name not in CLASSIFIERS:
        raise ValueError(f"unknown classifier '{name}'; there are {', '.join(CLASSIFIERS)}")
    with torch.device("meta"):
        return CLASSIFIERS[name](**arguments), (3, side, side)


def _block(name: str, args: list[Any], map: list[int]) -> Counted:
    with torch.device("meta"):
        return lookup(name).block(*args), map


KINDS: dict[str, Callable[..., Counted]] = {"model": _model, "classifier": _classifier, "block": _block}


@cache
def _cost(subject: str, fused: bool = False) -> Cost:
    """Of one pass; what several claims name is counted once."""
    module, image = _built(subject)
    if fused and isinstance(module, DetectionModel):
        module = meta_copy(module).fuse()
    return measure(module, image)
