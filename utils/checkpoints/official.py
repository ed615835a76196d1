"""The content of an official YOLOv5 checkpoint (v5.0 to v7.0), taken from its inert nodes.

Such a file holds a whole model object. Only what a weight file needs is taken: the parameters and buffers of
the module tree, the yaml, the class names and a few numbers.
"""

from __future__ import annotations

from typing import Any

import torch

from utils.checkpoints.archive import REBUILT_TENSORS, TorchArchive
from utils.checkpoints.plain import MAX_DEPTH, Plainer
from utils.checkpoints.unpickle import Node, RefusedError

DETECTORS = ("models.yolo.Model", "models.yolo.DetectionModel")
MODEL_KEYS = frozenset(
    {"nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head", "activation", "ch", "inplace"}
)
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
    plain = Plainer(archive)
    holder = root if type(root) is dict else {"model": root}
    modules = {key: _detector(holder[key], key) for key in ("model", "ema") if holder.get(key) is not None}
    if not modules:
        raise RefusedError(f"holds no model; its keys are {', '.join(map(str, holder))[:200] or 'none'}")
    main = modules.get("ema", modules.get("model"))
    assert main is not None
    attributes = _attributes(main)
    if type(attributes.get("yaml")) is not dict:
        raise RefusedError("its model has no yaml attribute, so it cannot be rebuilt")
    described = plain(attributes["yaml"], "yaml")
    yaml = {key: described[key] for key in described if key in MODEL_KEYS}  # forks add keys of their own
    states = {key: state_dict(module, archive) for key, module in modules.items()}
    stride = _stride(attributes, main, plain)
    return {
        "format": "yolov5",
        "version": 0,
        "model": states.get("model"),
        "ema": states.get("ema"),
        "yaml": yaml,
        "names": _names(plain(attributes.get("names"), "names")),
        "nc": _integer(attributes.get("nc", yaml.get("nc")), "nc"),
        "stride": stride,
        "anchors": _anchors(states.get("ema", states.get("model", {})), stride),
        "epoch": _integer(holder.get("epoch", -1), "epoch"),
        "best_fitness": _fitness(plain(holder.get("best_fitness"), "best_fitness")),
        "train_args": _mapping(plain(holder.get("opt"), "opt", lenient=True)),
        "hyp": _mapping(plain(attributes.get("hyp"), "hyp", lenient=True)),
        "optimizer": None,
        "date": plain(holder.get("date"), "date", lenient=True),
    }


def state_dict(module: Node, archive: TorchArchive) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers of a module tree by dotted name, in the order of torch's state dicts.

    Raises:
        RefusedError: the tree is too deep or cyclic, or a parameter is no tensor.
    """
    found: dict[str, torch.Tensor] = {}
    _collect(module, "", 0, archive, found)
    return found


def _collect(
    module: Node, prefix: str, depth: int, archive: TorchArchive, found: dict[str, torch.Tensor]
) -> None:
    if depth > MAX_DEPTH or len(found) > 100_000:
        raise RefusedError(f"its module tree is too deep, too large or contains itself at '{prefix[:80]}'")
    attributes = _attributes(module)
    hidden = attributes.get("_non_persistent_buffers_set")
    match hidden:
        case Node(name="builtins.set", args=([*members],)):
            transient = [name for name in members if type(name) is str]
        case _:
            transient = [name for name in hidden if type(name) is str] if type(hidden) is set else []
    for name, value in (*_named(attributes, "_parameters"), *_named(attributes, "_buffers")):
        if value is None or name in transient:
            continue
        if not isinstance(value, Node) or value.name not in REBUILT_TENSORS:
            raise RefusedError(f"damaged: '{f'{prefix}{name}'[:200]}' is no tensor")
        found[f"{prefix}{name}"] = archive.tensor(value)
    for name, child in _named(attributes, "_modules"):
        if child is None:
            continue
        if not isinstance(child, Node):
            raise RefusedError(f"damaged: '{prefix[:80]}{name}' is no module")
        _collect(child, f"{prefix}{name}.", depth + 1, archive, found)


def _named(attributes: dict[Any, Any], kind: str) -> list[tuple[str, Any]]:
    match attributes.get(kind):
        case None:
            return []
        case Node(name="collections.OrderedDict", args=(), items=items):
            pairs = items
        case dict() as pairs:
            pass
        case _:
            raise RefusedError(f"damaged: a module whose {kind} is no mapping")
    if any(type(name) is not str or len(name) > 200 for name in pairs):
        raise RefusedError(f"damaged: a module with a strange name in its {kind}")
    return list(pairs.items())


def _attributes(module: Node) -> dict[Any, Any]:
    if type(module.state) is not dict:
        raise RefusedError(f"damaged: a {module.name} without attributes")
    return module.state


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


def _names(value: Any) -> dict[int, str]:
    if type(value) is list:
        value = dict(enumerate(value))
    if type(value) is not dict or any(type(k) is not int or type(v) is not str for k, v in value.items()):
        raise RefusedError("its class names are neither a list of text nor a mapping from class to text")
    return value


def _stride(attributes: dict[Any, Any], model: Node, plain: Plainer) -> list[float] | None:
    """Strides in pixels, smallest level first."""
    value = plain(attributes.get("stride"), "stride")
    if isinstance(value, torch.Tensor):
        value = value.float().flatten()[:16].tolist()
    if type(value) is not list or any(type(pixels) not in (int, float) for pixels in value):
        return None
    return [float(pixels) for pixels in value]


def _anchors(state: dict[str, torch.Tensor] | None, stride: list[float] | None) -> Any:
    """Anchors in pixels, nested lists (levels, anchors, 2), from the head's buffer in grid units."""
    found = [value for name, value in (state or {}).items() if name.split(".")[-1] == "anchors"]
    if len(found) != 1 or stride is None or found[0].ndim != 3 or found[0].shape[0] != len(stride):
        return None
    return (found[0].float() * torch.tensor(stride).view(-1, 1, 1)).tolist()


def _integer(value: Any, key: str) -> int:
    if type(value) is not int or abs(value) >= 1 << 31:
        raise RefusedError(f"its '{key}' is {type(value).__name__}, not an integer")
    return value


def _fitness(value: Any) -> float | None:
    """A number, or the array of one number that v6.0 wrote."""
    while type(value) is list and len(value) == 1:
        value = value[0]
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if type(value) in (int, float) else None


def _mapping(value: Any) -> dict[str, Any] | None:
    return value if type(value) is dict else None
