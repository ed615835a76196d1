"""What counts as an operation: kinds of operations, and the conventions that add some of them up.

`docs/counting.md` tells which convention belongs to which published number.
"""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Kind: TypeAlias = Literal[
    "products", "normalisation", "biases", "elementwise", "pooling", "resampling", "reductions"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

Convention: TypeAlias = Literal["conv", "bn", "all", "thop", "table"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
EXPLAINED: dict[Convention, str] = {
    "conv": "2 x multiply-adds of convolutions and matrix products",
    "bn": "those of conv, and 8 operations for every value that a BatchNorm makes",
    "all": "those of bn, and biases, activations, sums, products, pooling and resampling",
    "thop": "2 x what the thop package counts by its rules",
    "table": "those of conv, and each bias as one more multiply-add, as in the tables of YOLOv5",
}
# the kinds that a convention adds up; thop has rules of its own, for layers
KINDS_OF: dict[str, tuple[Kind, ...]] = {
    "conv": ("products",),
    "bn": ("products", "normalisation"),
    "all": KINDS,
    "table": ("products", "biases", "biases"),
}
