"""The content of an official YOLOv5 checkpoint (v5.0 to v7.0), taken from its inert nodes.

Such a file holds a whole model object. Only what a weight file needs is taken: the parameters and buffers of
the module tree, the yaml, the class names and a few numbers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from utils.checkpoints.archive import REBUILT_TENSORS, TorchArchive
from utils.checkpoints.plain import PlainReader
from utils.checkpoints.unpickle import Node, RefusedError

DETECTORS = ("models.yolo.Model", "models.yolo.DetectionModel")
MODEL_KEYS = frozenset(
    {"nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head", "activation", "ch", "inplace"}
)
MAX_PARTS, MAX_NAME = 20_000, 1000  # modules and tensors of a model, and characters of their dotted names
MAX_ANCHORS = 1000  # values
OTHER_TASKS = {
    "models.yolo.SegmentationModel": "a segmentation model",
    "models.yolo.ClassificationModel": "a classification model",
}


def read_official(root: Any, archive: TorchArchive) -> dict[str, Any]:
    """Plain checkpoint content, with the keys that our own files have and `format` "yolov5".

    `model` and `ema` are state dicts in the stored dtype (half precision in releases), or None.

    Raises:
        RefusedError: no detection model is in it, or what it needs is missing or of the wrong type.
    """
    read = PlainReader(archive).read
    holder = root if type(root) is dict else {"model": root}
    modules = [_detector(holder[key], key) for key in ("model", "ema") if holder.get(key) is not None]
    if not modules:
        raise RefusedError(f"holds no model; its keys are {', '.join(map(str, holder))[:200] or 'none'}")
    attributes = _attributes(modules[-1])
    if type(attributes.get("yaml")) is not dict:
        raise RefusedError("its model has no yaml attribute, so it cannot be rebuilt")
    described = read(attributes["yaml"], "yaml")
    yaml = {key: described[key] for key in described if key in MODEL_KEYS}  # forks add keys of their own
    names = read(attributes.get("names"), "names")
    states = [_state_dict(module, archive) for module in modules]
    strides = read(attributes.get("stride"), "stride")  # pixels, smallest level first
    stride = strides.float().flatten()[:16].tolist() if isinstance(strides, torch.Tensor) else None
    train_args = read(holder.get("opt"), "opt", lenient=True)
    hyp = read(attributes.get("hyp"), "hyp", lenient=True)
    return {
        "format": "yolov5",
        "version": 0,
        "model": states[0] if holder.get("model") is not None else None,
        "ema": states[-1] if holder.get("ema") is not None else None,
        "yaml": yaml,
        "names": dict(enumerate(names)) if type(names) is list else names,
        "nc": attributes.get("nc", yaml.get("nc")),
        "stride": stride,
        "anchors": _anchors(states[-1], stride),
        "epoch": holder.get("epoch", -1),
        "best_fitness": _fitness(read(holder.get("best_fitness"), "best_fitness")),
        "train_args": train_args if type(train_args) is dict else None,
        "hyp": hyp if type(hyp) is dict else None,
        "optimizer": None,
        "date": read(holder.get("date"), "date", lenient=True),
    }


def _detector(value: Any, key: str) -> Node:
    """`value` as a detection model, or an error that says what it is."""
    if not isinstance(value, Node) or not value.name.startswith(("models.", "torch.nn.")):
        raise RefusedError(
            f"its '{key}' is no model object; weights alone cannot say how to rebuild the model"
        )
    if value.name in OTHER_TASKS:
        raise RefusedError(f"{OTHER_TASKS[value.name]}; only detection models can be loaded")
    if value.name not in DETECTORS:
        raise RefusedError(f"its '{key}' is a {value.name}, not a detection model")
    return value


def _state_dict(root: Node, archive: TorchArchive) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers of a module tree by dotted name, in the order of torch's state dicts.

    Raises:
        RefusedError: the tree is too deep, too large or cyclic, or a parameter is no tensor.
    """
    found: dict[str, torch.Tensor] = {}
    waiting, left = [("", root)], MAX_PARTS
    while waiting:
        prefix, module = waiting.pop()
        attributes = _attributes(module)
        kinds = [_mapping(attributes, kind) for kind in ("_parameters", "_buffers", "_modules")]
        # a module may stand in many places, and all that is in it counts each time
        left -= 1 + sum(map(len, kinds))
        if left < 0 or any(len(prefix) + len(name) > MAX_NAME for kind in kinds for name in map(str, kind)):
            raise RefusedError(
                f"its module tree is too deep, too large or contains itself at '{prefix[:80]}'"
            )
        parameters, buffers, children = map(_members, kinds)
        transient = _transient(attributes)
        for name, value in (*parameters, *buffers):
            if name not in transient:
                if value.name not in REBUILT_TENSORS:
                    raise RefusedError(f"damaged: '{f'{prefix}{name}'[:200]}' is no tensor")
                found[f"{prefix}{name}"] = archive.tensor(value)
        waiting += [(f"{prefix}{name}.", child) for name, child in reversed(children)]
    return found


def _transient(attributes: dict[Any, Any]) -> Collection[Any]:
    """The names of the buffers that are not stored."""
    match attributes.get("_non_persistent_buffers_set"):
        case Node(name="builtins.set", args=(list() as names,)) | (set() as names):
            if len(names) > MAX_NAME:
                raise RefusedError(f"damaged: a module with {len(names)} buffers that are not stored")
            return names
    return ()


def _mapping(attributes: dict[Any, Any], kind: str) -> dict[Any, Any]:
    """What a module holds, by name."""
    match attributes.get(kind, {}):
        case Node(name="collections.OrderedDict", args=(), items=items) | (dict() as items):
            return items
    raise RefusedError(f"damaged: a module whose {kind} is no mapping")


def _members(items: dict[Any, Any]) -> list[tuple[str, Node]]:
    """The nodes of a mapping with their names, without what is None."""
    pairs = [(name, value) for name, value in items.items() if value is not None]
    if any(type(name) is not str or not isinstance(value, Node) for name, value in pairs):
        raise RefusedError("damaged: a module with something strange in it")
    return pairs


def _attributes(module: Node) -> dict[Any, Any]:
    if type(module.state) is not dict:
        raise RefusedError(f"damaged: a {module.name} without attributes")
    return module.state


def _anchors(state: dict[str, torch.Tensor], stride: list[float] | None) -> Any:
    """Anchors in pixels, nested lists (levels, anchors, 2), from the head's buffer in grid units."""
    found = [value for name, value in state.items() if name.split(".")[-1] == "anchors"]
    if len(found) != 1 or stride is None or found[0].ndim != 3 or found[0].shape[0] != len(stride):
        return None
    if found[0].numel() > MAX_ANCHORS:
        raise RefusedError(f"damaged: it has {found[0].numel()} values of anchors")
    return (found[0].float() * torch.tensor(stride).view(-1, 1, 1)).tolist()


def _fitness(value: Any) -> float | None:
    """A number, or the array of one number that v6.0 wrote."""
    while type(value) is list and len(value) == 1:
        value = value[0]
    return float(value) if type(value) in (int, float) else None
