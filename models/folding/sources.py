"""The tensors of the folded network: what makes each of them, and in which order their channels lie.

A logical channel of the traced network is a `Channel`, a row of a source. Where the traced network permutes,
splits or repeats channels, only these references move. A source becomes a layer of the folded network when it
is emitted, after all orders are settled.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, fx, nn

from models.folding.builder import Builder
from models.folding.layout import Layout, are_neighbours


class Source(ABC):
    """A tensor (B, rows, H, W) of the folded network.

    Attributes:
        inputs: the sources that it is made of.
        layout: in which order its rows lie in memory. What works on each row of its input alone shares the
            input's.
    """

    def __init__(self, inputs: Sequence[Source], layout: Layout) -> None:
        self.inputs, self.layout = tuple(inputs), layout

    @property
    def rows(self) -> int:
        """Number of channels."""
        return len(self.layout)

    @abstractmethod
    def emit(self, builder: Builder) -> fx.Node:
        """Add the layer to the folded network."""


class Channel(NamedTuple):
    """One logical channel: a row of a source."""

    source: Source
    row: int


Channels: TypeAlias = tuple[Channel, ...]


def channels_of(source: Source) -> Channels:
    """All rows of a source in order."""
    return tuple(Channel(source, row) for row in range(source.rows))


@dataclass(frozen=True)
class Part:
    """Some rows of a source, ascending; they lie next to each other."""

    source: Source
    rows: tuple[int, ...]

    @classmethod
    def all(cls, source: Source) -> Part:
        """The whole source."""
        return cls(source, tuple(range(source.rows)))

    @property
    def whole(self) -> bool:
        return len(self.rows) == self.source.rows


def memory_order(parts: Sequence[Part]) -> list[int]:
    """For parts side by side, whose rows count through: the row at each place in memory."""
    order: list[int] = []
    for part in parts:
        place, start = part.source.layout.positions(), len(order)
        own = sorted(range(len(part.rows)), key=lambda index: place[part.rows[index]])
        order += [start + index for index in own]
    return order


def read(builder: Builder, parts: Sequence[Part]) -> fx.Node:
    """Parts side by side along the channels: sources, or slices of them; the same ones are joined once."""
    pieces = [_piece(builder, part) for part in parts]
    if len(pieces) == 1:
        return pieces[0]
    return builder.once(tuple(parts), lambda: builder.graph.call_function(torch.cat, (pieces,), {"dim": 1}))


def _piece(builder: Builder, part: Part) -> fx.Node:
    node = builder.nodes[part.source]
    if part.whole:
        return node
    place = part.source.layout.positions()
    first = min(place[row] for row in part.rows)
    window = (slice(None), slice(first, first + len(part.rows)))
    return builder.once(part, lambda: builder.graph.call_function(operator.getitem, (node, window)))


class Mapped(Source):
    """A layer without weights, applied to each channel: activation, pooling, resampling."""

    def __init__(self, source: Source, layer: nn.Module) -> None:
        super().__init__([source], source.layout)
        self.layer = layer

    def emit(self, builder: Builder) -> fx.Node:
        return builder.call(type(self.layer).__name__.lower(), self.layer, builder.nodes[self.inputs[0]])


class Combined(Source):
    """Sum or product of two sources whose rows lie alike, or of one and a map of a single channel."""

    def __init__(self, source: Source, other: Source, function: Callable[..., Tensor]) -> None:
        super().__init__([source, other], source.layout)
        self.function = function

    def emit(self, builder: Builder) -> fx.Node:
        return builder.graph.call_function(self.function, tuple(builder.nodes[s] for s in self.inputs))


class Joined(Source):
    """Parts of other sources in one tensor; its rows are theirs, one part after the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__([part.source for part in parts], _JoinedLayout(parts))
        self.parts = tuple(parts)

    def emit(self, builder: Builder) -> fx.Node:
        return read(builder, self.parts)


class _JoinedLayout(Layout):
    """The layouts of parts, one after the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__(sum(len(part.rows) for part in parts))
        self.parts = parts

    def positions(self) -> list[int]:
        self.order = memory_order(self.parts)
        return super().positions()

    def freeze(self) -> None:
        for part in self.parts:
            part.source.layout.freeze()

    def require(self, rows: Sequence[int], exact: bool) -> bool:
        start = 0
        for part in self.parts:  # what runs through the parts in turn is required of each
            own = [part.rows[row - start] for row in rows if start <= row < start + len(part.rows)]
            if own and not part.source.layout.require(own, exact):
                return False
            start += len(part.rows)
        self.freeze()
        return are_neighbours(memory_order(self.parts), rows, exact)


class Selected(Source):
    """Rows of another source in a given order, copied one by one: what is left when nothing cheaper works."""

    def __init__(self, source: Source, rows: Sequence[int]) -> None:
        super().__init__([source], Layout(len(rows), frozen=True))
        self.order = tuple(rows)

    def emit(self, builder: Builder) -> fx.Node:
        place = self.inputs[0].layout.positions()
        index = builder.constant(torch.tensor([place[row] for row in self.order]))
        return builder.graph.call_function(torch.index_select, (builder.nodes[self.inputs[0]], 1, index))


class Foreign(Source):
    """A node of the traced network that stays: the image, the head, and what no rule knows.

    Args:
        node: of the traced network.
        module: what it calls, when it calls a module.
        args, kwargs: its arguments, with sources in place of nodes; in a source's place, what was emitted.
        rows: channels when it gives a map (B, C, H, W), else 0.
    """

    def __init__(
        self, node: fx.Node, module: nn.Module | None, args: Any, kwargs: dict[str, Any], rows: int
    ) -> None:
        super().__init__(sources_in((args, kwargs)), Layout(rows, frozen=True))
        self.node, self.module, self.args, self.kwargs = node, module, args, kwargs

    def emit(self, builder: Builder) -> fx.Node:
        if self.node.op == "placeholder":
            return builder.graph.placeholder("images")
        args, kwargs = changed((self.args, self.kwargs), builder.nodes.__getitem__, builder.constant)
        if self.module is not None:
            return builder.call(type(self.module).__name__.lower(), self.module, *args, **kwargs)
        return builder.graph.create_node(self.node.op, self.node.target, tuple(args), kwargs)


def changed(value: Any, source: Callable[[Source], Any], tensor: Callable[[Tensor], Any]) -> Any:
    """A nest of containers with every source and every tensor in it changed."""

    def change(leaf: Any) -> Any:
        if isinstance(leaf, Source):
            return source(leaf)
        return tensor(leaf) if isinstance(leaf, Tensor) else leaf

    return fx.node.map_aggregate(value, change)


def sources_in(value: Any) -> list[Source]:
    """Every source in a nest of containers."""
    found: list[Source] = []
    changed(value, found.append, lambda tensor: tensor)
    return found
