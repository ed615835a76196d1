"""Convolutions of the folded network: over channels that lie anywhere, dense, grouped or depthwise."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn

from models.folding.builder import Builder
from models.folding.layout import Layout
from models.folding.sources import Mapped, Part, Source, memory_order, read


class Settings(NamedTuple):
    """Stride, padding and dilation of a convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def layer(self, weight: Tensor, bias: Tensor | None, groups: int) -> nn.Conv2d:
        """A layer with the weight (c2, c1 / groups, kh, kw)."""
        c2, inputs, *kernel = weight.shape
        with torch.device("meta"):  # its own initial weights are not wanted
            conv = nn.Conv2d(
                inputs * groups,
                c2,
                kernel_size=tuple(kernel),  # type: ignore[arg-type]
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=groups,
                bias=bias is not None,
            )
        conv.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
        conv.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        return conv


POINTWISE = Settings(stride=(1, 1), padding=(0, 0), dilation=(1, 1))
# channels in a block of the memory layouts that ONNX Runtime and OpenVINO choose (with AVX2)
LEAST_CHANNELS = 8


class Dense(Source):
    """A convolution over parts of other sources: `sum_p W_p * x_p + b`.

    It is emitted as that sum, so that nothing is concatenated, or as one convolution: see `terms`. Where
    a part is an upsampled map and the kernel 1x1, upsampling may come after the convolution, on fewer pixels:
    `W * up(x) = up(W * x)`, since equal pixels stay equal.

    Attributes:
        parts: what it reads.
        weight: (rows, columns, kh, kw); the columns are the rows of the parts, one part after the other.
        bias: (rows,), or None.
        number: of the convolution of the traced network that it is, or is a piece of, in order.
        terms: the convolutions that make up the sum.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        weight: Tensor,
        bias: Tensor | None,
        like: Settings,
        number: int,
        terms: Sequence[Term],
    ) -> None:
        self.parts, self.weight, self.bias, self.like = tuple(parts), weight, bias, like
        self.number, self.terms = number, tuple(terms)
        super().__init__([part.source for term in terms for part in term.parts], Layout(len(weight)))

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Make `scale * y + shift` of what it gives, both (rows,) double."""
        weight = self.weight.double() * scale.reshape(-1, 1, 1, 1)
        bias = shift if self.bias is None else self.bias.double() * scale + shift
        self.weight, self.bias = weight.to(self.weight), bias.to(self.weight)

    def emit(self, builder: Builder) -> fx.Node:
        order = self.layout.order
        bias = None if self.bias is None else self.bias[order]
        sums: dict[nn.Module | None, fx.Node] = {}
        for term in self.terms:
            columns = [term.columns[index] for index in memory_order(term.parts)]
            conv = self.like.layer(self.weight[order][:, columns], bias, groups=1)
            bias = None  # once
            node = builder.call("conv", conv, read(builder, term.parts))
            before = sums.get(term.upsampling)
            sums[term.upsampling] = node if before is None else builder.add(before, node)
        enlarged = (node if up is None else builder.call("upsample", up, node) for up, node in sums.items())
        return functools.reduce(builder.add, enlarged)


class Term(NamedTuple):
    """One convolution of a sum: what it reads, the columns of the whole weight, and what comes after it."""

    parts: tuple[Part, ...]
    columns: list[int]
    upsampling: nn.Module | None


def enlarged(part: Part, weight: Tensor, like: Settings) -> bool:
    """Whether a part is an upsampled map that a 1x1 convolution can read before it is upsampled."""
    pointwise = weight.shape[2:] == (1, 1) and like == POINTWISE
    return pointwise and isinstance(part.source, Mapped) and repeats_pixels(part.source.layer)


def terms_of(parts: Sequence[Part], weight: Tensor, like: Settings, *, before: bool) -> list[Term]:
    """One convolution a part; slices and very narrow parts are joined.

    Args:
        before: convolve what is upsampled before it is.
    """
    terms: list[Term] = []
    together = Term((), [], None)
    start = 0
    for part in parts:
        columns = list(range(start, start + len(part.rows)))
        start += len(columns)
        if before and enlarged(part, weight, like):
            assert isinstance(part.source, Mapped)
            low = Part(part.source.inputs[0], part.rows)
            terms.append(Term((low,), columns, part.source.layer))
        elif part.whole and len(columns) >= LEAST_CHANNELS:
            terms.append(Term((part,), columns, None))
        else:
            together = Term((*together.parts, part), together.columns + columns, None)
    return [*terms, together] if together.parts else terms


def joined(terms: Sequence[Term]) -> list[Term]:
    """The same with a single convolution for all that is not upsampled afterwards."""
    plain = [term for term in terms if term.upsampling is None]
    parts = tuple(part for term in plain for part in term.parts)
    columns = [column for term in plain for column in term.columns]
    return [*(term for term in terms if term.upsampling is not None), Term(parts, columns, None)]


class Grouped(Source):
    """A convolution in groups, on one source whose rows lie in order; its own do too."""

    def __init__(
        self, source: Source, weight: Tensor, bias: Tensor | None, like: Settings, groups: int
    ) -> None:
        super().__init__([source], Layout(len(weight), frozen=True))
        self.conv = like.layer(weight, bias, groups)

    def emit(self, builder: Builder) -> fx.Node:
        return builder.call("grouped", self.conv, builder.nodes[self.inputs[0]])


class Depthwise(Source):
    """A depthwise convolution: `weight` is (rows, 1, kh, kw), each channel keeps its filter."""

    def __init__(self, source: Source, weight: Tensor, bias: Tensor | None, like: Settings) -> None:
        super().__init__([source], source.layout)
        self.weight, self.bias, self.like = weight, bias, like

    def emit(self, builder: Builder) -> fx.Node:
        order = memory_order([Part.all(self)])
        bias = None if self.bias is None else self.bias[order]
        conv = self.like.layer(self.weight[order], bias, groups=self.rows)
        return builder.call("depthwise", conv, builder.nodes[self.inputs[0]])


def repeats_pixels(layer: nn.Module) -> bool:
    """Whether a layer enlarges a map by a whole factor, each pixel becoming a block of equal ones."""
    if not isinstance(layer, nn.Upsample) or layer.mode != "nearest" or layer.size is not None:
        return False
    factors = layer.scale_factor if isinstance(layer.scale_factor, tuple) else (layer.scale_factor,)
    return all(factor is not None and float(factor).is_integer() for factor in factors)


def widened(weight: Tensor, groups: int, factor: int) -> Tensor:
    """(c2, c1 / groups, kh, kw) for `groups` / `factor` groups: zeros where a filter did not look before."""
    c2, inputs, *kernel = weight.shape
    own = weight.reshape(groups // factor, factor, c2 // groups, inputs, *kernel)
    wide = own.new_zeros((groups // factor, factor, c2 // groups, factor, inputs, *kernel))
    for index in range(factor):
        wide[:, index, :, index] = own[:, index]
    return wide.reshape(c2, factor * inputs, *kernel)
