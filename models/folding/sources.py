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
from models.folding.layout import Layout, inverse, is_run


class Source(ABC):
    """A tensor (B, rows, H, W) of the folded network."""

    rows: int

    def inputs(self) -> Sequence[Source]:
        """The sources that it is made of."""
        return ()

    @abstractmethod
    def require(self, rows: Sequence[int], exact: bool) -> bool:
        """Have `rows` next to each other in memory, in that order when `exact`; False when that cannot be."""

    @abstractmethod
    def freeze(self) -> None:
        """Keep the order of rows from now on."""

    @abstractmethod
    def positions(self) -> list[int]:
        """Where each row lies in memory."""

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
        place, start = part.source.positions(), len(order)
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
    place = part.source.positions()
    first = min(place[row] for row in part.rows)
    window = (slice(None), slice(first, first + len(part.rows)))
    return builder.once(part, lambda: builder.graph.call_function(operator.getitem, (node, window)))


class Free(Source):
    """A source whose rows can be written in any order."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.layout = Layout(rows)

    def require(self, rows: Sequence[int], exact: bool) -> bool:
        return self.layout.require(rows, exact)

    def freeze(self) -> None:
        self.layout.freeze()

    def positions(self) -> list[int]:
        return inverse(self.layout.order)


class Tied(Source):
    """A source whose rows are those of its input, each made from that one alone."""

    def __init__(self, source: Source) -> None:
        self.source, self.rows = source, source.rows

    def inputs(self) -> Sequence[Source]:
        return (self.source,)

    def require(self, rows: Sequence[int], exact: bool) -> bool:
        return self.source.require(rows, exact)

    def freeze(self) -> None:
        self.source.freeze()

    def positions(self) -> list[int]:
        return self.source.positions()


class Mapped(Tied):
    """A layer without weights, applied to each channel: activation, pooling, resampling."""

    def __init__(self, source: Source, layer: nn.Module, kind: str) -> None:
        super().__init__(source)
        self.layer, self.kind = layer, kind

    def emit(self, builder: Builder) -> fx.Node:
        return builder.call(self.kind, self.layer, builder.nodes[self.source])


class Combined(Tied):
    """Sum or product of two sources whose rows lie alike, or of one and a map of a single channel."""

    def __init__(self, source: Source, other: Source, function: Callable[..., Tensor]) -> None:
        super().__init__(source)
        self.other, self.function = other, function

    def inputs(self) -> Sequence[Source]:
        return (self.source, self.other)

    def emit(self, builder: Builder) -> fx.Node:
        return builder.graph.call_function(
            self.function, (builder.nodes[self.source], builder.nodes[self.other])
        )


class Joined(Source):
    """Parts of other sources in one tensor; its rows are theirs, one part after the other."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        self.rows = sum(len(part.rows) for part in parts)

    def inputs(self) -> Sequence[Source]:
        return [part.source for part in self.parts]

    def require(self, rows: Sequence[int], exact: bool) -> bool:
        start = 0
        for part in self.parts:  # a wish that runs through the parts in turn is a wish of each
            mine = [part.rows[row - start] for row in rows if start <= row < start + len(part.rows)]
            if mine and not part.source.require(mine, exact):
                return False
            start += len(part.rows)
        self.freeze()
        place = self.positions()
        places = [place[row] for row in rows]
        return is_run(places if exact else sorted(places))

    def freeze(self) -> None:
        for part in self.parts:
            part.source.freeze()

    def positions(self) -> list[int]:
        return inverse(memory_order(self.parts))

    def emit(self, builder: Builder) -> fx.Node:
        return read(builder, self.parts)


class Rigid(Source):
    """A source whose rows lie in order, whatever makes it."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def require(self, rows: Sequence[int], exact: bool) -> bool:
        return is_run(rows if exact else sorted(rows))

    def freeze(self) -> None:
        """It always is."""

    def positions(self) -> list[int]:
        return list(range(self.rows))


class Selected(Rigid):
    """Rows of another source in a given order, copied one by one: what is left when nothing cheaper works."""

    def __init__(self, source: Source, rows: Sequence[int]) -> None:
        super().__init__(len(rows))
        self.source, self.order = source, tuple(rows)

    def inputs(self) -> Sequence[Source]:
        return (self.source,)

    def emit(self, builder: Builder) -> fx.Node:
        place = self.source.positions()
        index = torch.tensor([place[row] for row in self.order])
        return builder.call("select", _Select(index), builder.nodes[self.source])


class _Select(nn.Module):
    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.index)


class Foreign(Rigid):
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
        super().__init__(rows)
        self.node, self.module, self.args, self.kwargs = node, module, args, kwargs

    def inputs(self) -> Sequence[Source]:
        return sources_in((self.args, self.kwargs))

    def emit(self, builder: Builder) -> fx.Node:
        if self.node.op == "placeholder":
            return builder.graph.placeholder("images")
        args = changed(self.args, builder.nodes.__getitem__, builder.constant)
        kwargs = changed(self.kwargs, builder.nodes.__getitem__, builder.constant)
        if self.module is not None:
            return builder.call(type(self.module).__name__.lower(), self.module, *args, **kwargs)
        return builder.graph.create_node(self.node.op, self.node.target, tuple(args), kwargs)


def changed(value: Any, source: Callable[[Source], Any], tensor: Callable[[Tensor], Any]) -> Any:
    """A nest of containers with every source and every tensor in it changed."""
    if isinstance(value, Source):
        return source(value)
    if isinstance(value, Tensor):
        return tensor(value)
    if isinstance(value, slice):
        return slice(*(changed(item, source, tensor) for item in (value.start, value.stop, value.step)))
    if isinstance(value, (list, tuple)):
        return type(value)(changed(item, source, tensor) for item in value)
    if isinstance(value, dict):
        return {key: changed(item, source, tensor) for key, item in value.items()}
    return value


def sources_in(value: Any) -> list[Source]:
    """Every source in a nest of containers."""
    found: list[Source] = []
    changed(value, found.append, lambda tensor: tensor)
    return found
