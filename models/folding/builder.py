"""The folded network while it is put together: an fx graph and the modules that it calls."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

if TYPE_CHECKING:
    from models.folding.sources import Part, Source


class Builder:
    """Where sources put the layers that make them.

    Attributes:
        nodes: what was emitted for each source.
    """

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.nodes: dict[Source, fx.Node] = {}
        self._once: dict[Any, fx.Node] = {}
        self._numbers: Counter[str] = Counter()

    def call(self, kind: str, module: nn.Module, *inputs: Any) -> fx.Node:
        """Call a layer; it is named after its kind and number."""
        name = f"{kind}{self._numbers[kind]}"
        self._numbers[kind] += 1
        self.root.add_module(name, module)
        return self.graph.call_module(name, inputs)

    def add(self, left: fx.Node, right: fx.Node) -> fx.Node:
        """The sum of two tensors of one shape."""
        return self.graph.call_function(operator.add, (left, right))

    def constant(self, tensor: Tensor) -> fx.Node:
        """A tensor that is no input and no weight of a layer."""
        name = f"constant{self._numbers['constant']}"
        self._numbers["constant"] += 1
        self.root.register_buffer(name, tensor)
        return self.graph.get_attr(name)

    def part(self, part: Part) -> fx.Node:
        """A source, or a slice of it."""
        node = self.nodes[part.source]
        if part.whole:
            return node
        place = part.source.positions()
        first = min(place[row] for row in part.rows)
        window = (slice(None), slice(first, first + len(part.rows)))
        return self._cached(part, lambda: self.graph.call_function(operator.getitem, (node, window)))

    def joined(self, parts: tuple[Part, ...]) -> fx.Node:
        """Parts side by side along the channels; the same ones are joined once."""
        pieces = [self.part(part) for part in parts]
        if len(pieces) == 1:
            return pieces[0]
        return self._cached(parts, lambda: self.graph.call_function(torch.cat, (pieces,), {"dim": 1}))

    def network(self, output: Any) -> fx.GraphModule:
        """The finished network, which returns `output`, nodes in any nest of containers."""
        self.graph.output(output)
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)

    def _cached(self, key: Any, make: Callable[[], fx.Node]) -> fx.Node:
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]
