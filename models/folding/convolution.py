"""Convolutions of the folded network: over channels that lie anywhere, dense, grouped or depthwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from models.folding.builder import Builder
from models.folding.sources import Free, Mapped, Part, Source, Tied, memory_order, read


@dataclass(frozen=True)
class Settings:
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


class Dense(Free):
    """A convolution over parts of other sources: `sum_p W_p * x_p + b`.

    It is emitted as that sum, one convolution a part, so that nothing is concatenated; slices and very narrow
    parts are joined all the same. Where a part is an upsampled map and the kernel 1x1, upsampling comes after
    the convolution, on fewer pixels: `W * up(x) = up(W * x)`, since equal pixels stay equal.

    Attributes:
        parts: what it reads.
        weight: (rows, columns, kh, kw); the columns are the rows of the parts, one part after the other.
        bias: (rows,), or None.
        number: of the convolution of the traced network that it is, or is a piece of, in order.
    """

    def __init__(
        self, parts: Sequence[Part], weight: Tensor, bias: Tensor | None, like: Settings, number: int
    ) -> None:
        super().__init__(len(weight))
        self.parts, self.weight, self.bias, self.like = tuple(parts), weight, bias, like
        self.number = number

    def inputs(self) -> Sequence[Source]:
        return [part.source for term in self.terms() for part in term.parts]

    def terms(self) -> list[Term]:
        """The convolutions that make up the sum."""
        pointwise = self.weight.shape[2:] == (1, 1) and self.like == POINTWISE
        alone: list[Term] = []
        together: list[tuple[Part, list[int]]] = []
        start = 0
        for part in self.parts:
            columns = list(range(start, start + len(part.rows)))
            start += len(columns)
            if pointwise and isinstance(part.source, Mapped) and repeats_pixels(part.source.layer):
                low = Part(part.source.source, part.rows)
                alone.append(Term((low,), columns, part.source.layer))
            elif part.whole and len(columns) >= LEAST_CHANNELS:
                alone.append(Term((part,), columns, None))
            else:
                together.append((part, columns))
        if together:
            parts, columns_of = zip(*together)
            alone.append(Term(parts, [column for columns in columns_of for column in columns], None))
        return alone

    def rescale(self, scale: Tensor, shift: Tensor) -> None:
        """Make `scale * y + shift` of what it gives, both (rows,) double."""
        weight = self.weight.double() * scale.reshape(-1, 1, 1, 1)
        bias = shift if self.bias is None else self.bias.double() * scale + shift
        self.weight, self.bias = weight.to(self.weight), bias.to(self.weight)

    def emit(self, builder: Builder) -> fx.Node:
        bias = None if self.bias is None else self.bias[self.layout.order]
        sums: dict[nn.Module | None, fx.Node] = {}
        for term in self.terms():
            columns = [term.columns[index] for index in memory_order(term.parts)]
            conv = self.like.layer(self.weight[self.layout.order][:, columns], bias, groups=1)
            bias = None  # once
            node = builder.call("conv", conv, read(builder, term.parts))
            before = sums.get(term.upsampling)
            sums[term.upsampling] = node if before is None else builder.add(before, node)
        total: fx.Node | None = None
        for upsampling, node in sums.items():
            term_sum = node if upsampling is None else builder.call("upsample", upsampling, node)
            total = term_sum if total is None else builder.add(total, term_sum)
        assert total is not None
        return total


@dataclass(frozen=True)
class Term:
    """One convolution of a sum: what it reads, the columns of the whole weight, and what comes after it."""

    parts: tuple[Part, ...]
    columns: list[int]
    upsampling: nn.Module | None


class Grouped(Free):
    """A convolution in groups, on one source whose rows lie in order; its own do too."""

    def __init__(
        self, source: Source, weight: Tensor, bias: Tensor | None, like: Settings, groups: int
    ) -> None:
        super().__init__(len(weight))
        self.source, self.weight, self.bias, self.like, self.groups = source, weight, bias, like, groups
        self.freeze()

    def inputs(self) -> Sequence[Source]:
        return (self.source,)

    def emit(self, builder: Builder) -> fx.Node:
        conv = self.like.layer(self.weight, self.bias, self.groups)
        return builder.call("grouped", conv, builder.nodes[self.source])


class Depthwise(Tied):
    """A depthwise convolution: `weight` is (rows, 1, kh, kw), each channel keeps its filter."""

    def __init__(self, source: Source, weight: Tensor, bias: Tensor | None, like: Settings) -> None:
        super().__init__(source)
        self.weight, self.bias, self.like = weight, bias, like

    def emit(self, builder: Builder) -> fx.Node:
        order = memory_order([Part.all(self)])
        bias = None if self.bias is None else self.bias[order]
        conv = self.like.layer(self.weight[order], bias, groups=self.rows)
        return builder.call("depthwise", conv, builder.nodes[self.source])


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
