"""The façade: every block of every family can be imported from here (`from models.common import GSConv`).

And YOLOv5's `DetectMultiBackend` and `AutoShape`; see `docs/compatibility.md`.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from models.adapters import AutoShape, DetectMultiBackend
from models.blocks import FAMILIES

# every public module class, by name, that a family file defines itself
_BLOCKS = {
    name: value
    for family in FAMILIES
    for name, value in vars(family).items()
    if isinstance(value, type) and issubclass(value, nn.Module)
    if value.__module__ == family.__name__ and not name.startswith("_")
}
_OTHERS = (AutoShape, DetectMultiBackend)
__all__ = sorted([*_BLOCKS, *(kind.__name__ for kind in _OTHERS)])


def __getattr__(name: str) -> Any:
    if name in _BLOCKS:
        return _BLOCKS[name]
    raise AttributeError(f"models.common has no block '{name}'")


def __dir__() -> list[str]:
    return __all__
