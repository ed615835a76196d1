"""Official-looking checkpoint files: whole pickled modules of classes that exist nowhere."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Stub:
    """Stands for a class of `module`, so that a file of that class can be written here."""


def stub(module: str, name: str, **attributes: Any) -> Any:
    kind = type(name, (Stub,), {"__module__": module, "__qualname__": name})
    instance = kind()
    instance.__dict__.update(attributes)
    return instance


def fake_module(
    module: str, name: str, tensors: dict[str, Any], children: dict[str, Any], **extra: Any
) -> Any:
    return stub(
        module,
        name,
        _parameters=OrderedDict(tensors),
        _buffers=OrderedDict(),
        _modules=OrderedDict(children),
        **extra,
    )


def fake_detector(name: str = "DetectionModel", **changes: Any) -> Any:
    conv = fake_module("models.common", "Conv", {"weight": torch.nn.Parameter(torch.ones(2, 2).half())}, {})
    extra = {"yaml": {"nc": 1}, "names": ["x"], "nc": 1, "stride": torch.tensor([8.0])} | changes
    return fake_module(
        "models.yolo", name, {}, {"0": conv}, **{k: v for k, v in extra.items() if v is not Stub}
    )


def save_fake(path: Path, root: Any) -> Path:
    """torch.save for objects whose classes exist nowhere: the pickler is told to believe in them."""

    class Pickler(pickle._Pickler):  # type: ignore[name-defined]
        def save_global(self, obj: Any, name: str | None = None) -> None:
            if isinstance(obj, type) and issubclass(obj, Stub):
                self.write(b"c" + f"{obj.__module__}\n{obj.__qualname__}\n".encode())
                self.memoize(obj)
            else:
                super().save_global(obj, name)

        dispatch = {**pickle._Pickler.dispatch, type: save_global}  # type: ignore[attr-defined]

    class Module:
        """What torch.save asks for of a pickle module."""

        __name__ = "pickle"

    Module.Pickler = Pickler  # type: ignore[attr-defined]
    torch.save(root, path, pickle_module=Module)
    return path


def fake_of(module: nn.Module, **extra: Any) -> Any:
    """A module tree of ours as the public code of those classes would have pickled it, in half precision."""
    kind = type(module)
    place = "models.common" if kind.__module__.startswith("models.") else kind.__module__
    children = {name: fake_of(child) for name, child in module.named_children()}
    tensors = {
        name: nn.Parameter(p.detach().half(), False)
        for name, p in module._parameters.items()
        if p is not None
    }
    node = fake_module(place, kind.__name__, tensors, children, **extra)
    kept = {n: t for n, t in module._buffers.items() if n not in module._non_persistent_buffers_set}
    node._buffers.update(kept)
    return node
