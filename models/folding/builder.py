"""The folded network while it is put together: an fx graph and the modules that it calls."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor, fx, nn


class Builder:
    """Where sources put the layers that make them.

    Attributes:
        nodes: what was emitted for each source.
    """

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()
        self.nodes: dict[Any, fx.Node] = {}
        self._made: dict[Hashable, fx.Node] = {}
        self._numbers: Counter[str] = Counter()

    def call(self, kind: str, module: nn.Module, *inputs: Any, **settings: Any) -> fx.Node:
        """Call a layer; it is named after its kind and number."""
        name = f"{kind}{self._numbers[kind]}"
        self._numbers[kind] += 1
        self.root.add_module(name, module)
        return self.graph.call_module(name, inputs, settings)

    def add(self, left: fx.Node, right: fx.Node) -> fx.Node:
        """The sum of two tensors of one shape."""
        return self.graph.call_function(operator.add, (left, right))

    def constant(self, tensor: Tensor) -> fx.Node:
        """A tensor that is no input and no weight of a layer."""
        name = f"constant{self._numbers['constant']}"
        self._numbers["constant"] += 1
        self.root.register_buffer(name, tensor)
        return self.graph.get_attr(name)

    def once(self, key: Hashable, make: Callable[[], fx.Node]) -> fx.Node:
        """The node that was made for a key, made now when there is none."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def network(self, output: Any) -> fx.GraphModule:
        """The finished network, which returns `output`, nodes in any nest of containers."""
        self.graph.output(output)
        self.graph.lint()
        return fx.GraphModule(self.root, self.graph)
