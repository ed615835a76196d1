"""Walk through a traced network and keep account of where every channel is; rules say what a node means."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, fx

from models.folding.builder import Builder
from models.folding.convolution import Dense, Settings, enlarged, joined, terms_of
from models.folding.forms import Chooser, Site, by_rule
from models.folding.sources import (
    Channel,
    Channels,
    Foreign,
    Joined,
    Part,
    Selected,
    Source,
    changed,
    channels_of,
    sources_in,
)

# what a node of the traced network gives: the channels of a map (B, C, H, W); a tensor or number that hangs
# on weights alone; a list of such values; or a node that stays
Value: TypeAlias = Any
Rule: TypeAlias = "Callable[[Folding, fx.Node], Value]"
RULES: dict[Any, Rule] = {}  # by type of module, function, or name of method


def rule(*targets: Any) -> Callable[[Rule], Rule]:
    """Decorator: fold nodes that call one of these by this rule; `NotImplemented` leaves a node alone."""

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return enter


class Folding:
    """One walk.

    Attributes:
        counts: how often which rule applied.
        dtype: of the weights.
        needed: after `fold`, the sources that the network consists of, in order.
        sites: where there was a choice, and between which forms.
        side: (height, width) of the map that the node under way reads, in the network's own size.
        ready: what nodes ahead give, where a rule has settled several at once.

    Args:
        choose: which form each site takes.
        scale: how much larger than the traced images those are that the network will see.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        slices: Mapping[int, Sequence[tuple[int, ...]]] | None = None,
        choose: Chooser = by_rule,
        scale: tuple[float, float] = (1, 1),
    ) -> None:
        self.network, self.slices = network, slices or {}
        self._choose, self.scale = choose, scale
        self.sites: dict[Site, tuple[str, ...]] = {}
        self.side = (0, 0)
        self.ready: dict[fx.Node, Value] = {}
        self.dtype = next(network.parameters()).dtype
        self.counts: Counter[str] = Counter()
        self.values: dict[fx.Node, Value] = {}
        self.sources: list[Source] = []
        self.needed: list[Source] = []
        self._written = 0

    def fold(self) -> fx.GraphModule:
        """The folded network."""
        output: Any = None
        for node in self.network.graph.nodes:
            if node.op == "output":
                output = self.settled(node.args[0])
            else:
                self.values[node] = self._visit(node)
        self.needed = self._needed(output)
        builder = Builder()
        for source in self.needed:
            builder.nodes[source] = source.emit(builder)
        return builder.network(changed(output, builder.nodes.__getitem__, builder.constant))

    def _needed(self, output: Any) -> list[Source]:
        """The sources that the output hangs on, and the image; in order."""
        image = [s for s in self.sources if isinstance(s, Foreign) and s.node.op == "placeholder"]
        found = {*image, *sources_in(output)}
        for source in reversed(self.sources):
            if source in found:
                found.update(source.inputs)
        return [source for source in self.sources if source in found]

    def _visit(self, node: fx.Node) -> Value:
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self.network).detach()
        inputs = [self.values[source] for source in node.all_input_nodes]
        called = node.op in ("call_function", "call_method")
        if called and inputs and all(isinstance(value, (Tensor, int, float)) for value in inputs):
            return self._computed(node)
        self.look_at(node.args[0] if node.args else None)
        key = type(self.module(node)) if node.op == "call_module" else node.target
        known = key in RULES and bool(node.args)  # with its input in a keyword, a node stays
        if node in self.ready:
            return self.ready.pop(node)
        value = RULES[key](self, node) if known else NotImplemented
        return self.keep(node) if value is NotImplemented else value

    def _computed(self, node: fx.Node) -> Value:
        """The value of a node that hangs on weights alone."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def keep(self, node: fx.Node) -> Value:
        """The node as it is, on inputs whose channels lie in the traced order."""
        module = copy.deepcopy(self.module(node)) if node.op == "call_module" else None
        value = node.meta["value"]
        is_map = isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] > 0
        args = () if node.op == "placeholder" else self.settled(node.args)
        foreign = Foreign(node, module, args, self.settled(node.kwargs), value.shape[1] if is_map else 0)
        self.add(foreign)
        return channels_of(foreign) if is_map else foreign

    # ---- choosing among equal forms ----

    def look_at(self, argument: Any) -> None:
        """Take the size of a node's map, or of the first of several, as `side`."""
        first = argument[0] if isinstance(argument, (list, tuple)) and argument else argument
        value = first.meta.get("value") if isinstance(first, fx.Node) else None
        if isinstance(value, Tensor) and value.ndim == 4:
            height, width = value.shape[2:]
            self.side = round(height * self.scale[0]), round(width * self.scale[1])

    def choose(
        self,
        kind: str,
        forms: Sequence[str],
        channels: tuple[int, int],
        like: Settings,
        kernel: Sequence[int],
        pieces: int,
    ) -> str:
        """One of these names of forms, the first of which is the rule's; see `Site`."""
        height, width = kernel
        site = Site(kind, *channels, (height, width), like.stride[0], pieces, self.side)
        self.sites[site] = tuple(forms)
        return self._choose(site, forms)

    # ---- having nodes as they are ----

    def settled(self, arguments: Any) -> Any:
        """Arguments of a node that stays: in place of nodes, sources in traced order."""

        def settle(value: Value) -> Any:
            if isinstance(value, list):
                return [settle(item) for item in value]
            return self.in_order(value) if is_channels(value) else value

        return fx.node.map_arg(arguments, lambda node: settle(self.values[node]))

    def module(self, node: fx.Node) -> Any:
        """What a node calls."""
        return self.network.get_submodule(str(node.target))

    def value(self, argument: Any) -> Value:
        """What an argument of a node is."""
        return self.values[argument] if isinstance(argument, fx.Node) else argument

    # ---- making sources ----

    def add(self, source: Any) -> Any:
        """Take a new source into account; sources are emitted in this order."""
        self.sources.append(source)
        return source

    def written(
        self, parts: list[Part], weight: Tensor, bias: Tensor | None, like: Settings, *, whole: bool = False
    ) -> Channels:
        """A dense convolution; or several, unless `whole`, which write apart what `slices_wanted` found."""
        if whole:
            return channels_of(self.add(self._dense(parts, weight, bias, like, number=-1)))
        every = [tuple(range(len(weight)))]
        pieces = self.slices.get(self._written, every)
        size = (weight.shape[1], len(weight)), like, weight.shape[2:]
        if len(pieces) > 1 and self.choose("slices", ("apart", "cut"), *size, len(pieces)) == "cut":
            pieces = every
        place: dict[int, Channel] = {}
        for rows in pieces:
            own = None if bias is None else bias[list(rows)]
            made = self.add(self._dense(parts, weight[list(rows)], own, like, number=self._written))
            place |= {row: Channel(made, offset) for offset, row in enumerate(rows)}
        self.counts["slices written apart"] += len(pieces) - 1
        self._written += 1
        return tuple(place[row] for row in range(len(weight)))

    def _dense(
        self, parts: list[Part], weight: Tensor, bias: Tensor | None, like: Settings, number: int
    ) -> Dense:
        size = (weight.shape[1], len(weight)), like, weight.shape[2:]
        low = any(enlarged(part, weight, like) for part in parts)
        first = not low or self.choose("upsample", ("before", "after"), *size, len(parts)) == "before"
        terms = terms_of(parts, weight, like, before=first)
        plain = sum(term.upsampling is None for term in terms)
        if plain > 1 and self.choose("sum", ("sum", "one"), *size, plain) == "one":
            terms = joined(terms)
        return Dense(parts, weight, bias, like, number, terms)

    # ---- having channels in memory ----

    def parts(self, channels: Channels) -> list[Part]:
        """Parts that hold at least these channels, each once, in any order."""
        rows: dict[Source, set[int]] = {}
        for source, row in channels:
            rows.setdefault(source, set()).add(row)
        parts = []
        for source, used in rows.items():
            wanted = tuple(sorted(used))
            fits = len(wanted) == source.rows or source.layout.require(wanted, exact=False)
            parts.append(Part(source, wanted) if fits else Part.all(source))
        return parts

    def tensor(self, channels: Channels) -> tuple[Source, list[int]]:
        """One source that holds these channels and no others, and the row of each."""
        distinct = tuple(dict.fromkeys(channels))
        if len(distinct) < len(channels):
            joined, rows = self.tensor(distinct)
            row_of = dict(zip(distinct, rows))
            return self.copied(joined, [row_of[channel] for channel in channels]), list(range(len(channels)))
        place: dict[Channel, int] = {}
        parts = []
        for part in self.parts(channels):
            own = sorted(row for source, row in channels if source is part.source)
            place |= {Channel(part.source, row): len(place) + offset for offset, row in enumerate(own)}
            # more rows than these: they cannot be neighbours
            surplus = len(part.rows) > len(own)
            parts.append(Part.all(self.copied(part.source, own)) if surplus else part)
        whole = len(parts) == 1 and parts[0].whole
        return parts[0].source if whole else self.add(Joined(parts)), [place[channel] for channel in channels]

    def in_order(self, channels: Channels) -> Source:
        """One source in which these channels lie in this order."""
        source, rows = self.tensor(channels)
        if source.layout.require(rows, exact=True):
            source.layout.freeze()
            return source
        return self.copied(source, rows)

    def aligned(self, left: Channels, right: Channels) -> tuple[Source, list[int], Source]:
        """Two sources that have channel i of both at the same place in memory, and the rows of the first."""
        (a, rows_a), (b, rows_b) = self.tensor(left), self.tensor(right)

        def fits() -> bool:
            return moved(a, rows_a, rows_b) == moved(b, rows_b, rows_b)

        # asked again after each requirement: it may have moved both, where they share one order
        granted = fits() or (b.layout.require(moved(a, rows_a, rows_b), exact=True) and fits())
        granted = granted or (a.layout.require(moved(b, rows_b, rows_a), exact=True) and fits())
        if not granted:
            b = self.copied(b, moved(a, rows_a, rows_b))
        a.layout.freeze()
        b.layout.freeze()
        return a, rows_a, b

    def copied(self, source: Source, rows: Sequence[int]) -> Selected:
        """Rows of a source copied one by one, for want of anything better."""
        self.counts["channels copied one by one"] += 1
        return self.add(Selected(source, rows))


def moved(source: Source, rows: Sequence[int], others: Sequence[int]) -> list[int]:
    """`others` in the order in which the corresponding `rows` of the source lie in memory."""
    place = source.layout.positions()
    order = sorted(range(len(rows)), key=lambda index: place[rows[index]])
    return [others[index] for index in order]


def is_channels(value: Value) -> bool:
    """Whether a value is the channels of a map."""
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Channel)
