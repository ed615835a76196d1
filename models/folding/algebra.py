"""The algebra of convolutions: what several of them, or one and what lies before or behind, are together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.folding.convolution import (
    LEAST_CHANNELS,
    POINTWISE,
    Dense,
    Depthwise,
    Grouped,
    Settings,
    widened,
)
from models.folding.fold import Folding
from models.folding.sources import Channel, Channels, Part, channels_of

MOST_DENSE = 64  # channels of a depthwise convolution that might as well be dense


def convolve(
    folding: Folding,
    x: Channels,
    weight: Tensor,
    bias: Tensor | None,
    like: Settings,
    groups: int,
    *,
    whole: bool = False,
) -> Channels:
    """A convolution on channels wherever they are.

    Dense: `sum_i W[:, i] * x_i`, in any order of i. Channels that are one and the same tensor are read once,
    with the sum of their columns: `W[:, i] * x_i + W[:, j] * x_i = (W[:, i] + W[:, j]) * x_i`. Depthwise: a
    channel keeps its filter. Groups may get wider, with zeros in the weights, where a runtime's blocks are.
    """
    size = (len(x), len(weight)), like, weight.shape[2:], groups
    if groups == len(x) == len(weight) > 1:
        forms = ("depthwise", "dense") if weight[0].numel() > 1 and len(x) <= MOST_DENSE else ("depthwise",)
        if len(forms) == 1 or folding.choose("depthwise", forms, *size) == "depthwise":
            source, rows = folding.tensor(x)
            order = sorted(range(len(x)), key=rows.__getitem__)
            made = Depthwise(source, weight[order], None if bias is None else bias[order], like)
            folding.add(made)
            return tuple(Channel(made, row) for row in rows)
        weight = widened(weight, groups, groups)
    elif groups > 1:
        wide = int(folding.choose("groups", _numbers_of_groups(len(x), groups), *size))
        folding.counts["narrow groups widened"] += wide < groups
        weight = widened(weight, groups, groups // wide)
        if wide > 1:
            return channels_of(folding.add(Grouped(folding.in_order(x), weight, bias, like, wide)))
    parts = folding.parts(x)
    columns = [Channel(part.source, row) for part in parts for row in part.rows]
    place = {channel: column for column, channel in enumerate(columns)}
    merged = weight.new_zeros((len(weight), len(columns), *weight.shape[2:]))
    merged.index_add_(1, torch.tensor([place[channel] for channel in x], device=weight.device), weight)
    folding.counts["copies of channels read once"] += len(x) - len(set(x))
    return folding.written(parts, merged, bias, like, whole=whole)


def _numbers_of_groups(channels: int, groups: int) -> list[str]:
    """How many groups there may be; first as many as leave each `LEAST_CHANNELS` to read, or a single one."""
    numbers = [groups // factor for factor in range(1, groups + 1) if groups % factor == 0]
    wide = [number for number in numbers if channels // number >= LEAST_CHANNELS]
    numbers.sort(key=lambda number: number != (wide or [1])[0])
    return list(map(str, numbers))


def affine(folding: Folding, x: Channels, scale: Tensor, shift: Tensor, alone: bool) -> Channels:
    """`scale * x + shift`, (C,) double each.

    Where x is convolutions W * z + b that nothing else reads (`alone`), these become
    `(scale W) * z + (scale b + shift)`; elsewhere it is a depthwise 1x1 convolution.
    """
    place = {channel: index for index, channel in enumerate(x)}
    sources = list(dict.fromkeys(source for source, _ in x))
    complete = len(place) == len(x) == sum(source.rows for source in sources)
    if alone and complete and all(isinstance(source, Dense) for source in sources):
        for source in sources:
            rows = [place[channel] for channel in channels_of(source)]
            assert isinstance(source, Dense)
            source.rescale(scale[rows], shift[rows])
        folding.counts["scales and shifts folded into convolutions"] += 1
        return x
    unit = scale.reshape(-1, 1, 1, 1).to(folding.dtype)
    return convolve(folding, x, unit, shift.to(folding.dtype), POINTWISE, groups=len(x))


def merge(folding: Folding, left: Channels, right: Channels) -> Channels | None:
    """`V * x + W * x = (V + W) * x` for dense convolutions; the smaller kernel gets a border of zeros.

    None when they read different things, or look at pixels that do not lie on each other.
    """
    a, b = left[0].source, right[0].source
    if not isinstance(a, Dense) or not isinstance(b, Dense) or a.parts != b.parts or a.rows != b.rows:
        return None
    if left != channels_of(a) or right != channels_of(b):
        return None
    small, large = sorted((a, b), key=lambda source: source.weight[0, 0].numel())
    # rows and columns that the larger kernel has more on each side; its padding must be larger by as many
    margins = [wide - narrow for narrow, wide in zip(small.like.padding, large.like.padding)]
    kernels = zip(small.weight.shape[2:], large.weight.shape[2:], margins)
    centred = all(margin >= 0 and wide == narrow + 2 * margin for narrow, wide, margin in kernels)
    same = small.like.stride == large.like.stride and large.like.dilation == (1, 1) == small.like.dilation
    if not centred or not same:
        return None
    weight = large.weight + F.pad(small.weight, (margins[1], margins[1], margins[0], margins[0]))
    biases = [source.bias for source in (a, b) if source.bias is not None]
    bias = torch.stack(biases).sum(dim=0) if biases else None
    folding.counts["parallel convolutions merged"] += 1
    return channels_of(folding.add(Dense(a.parts, weight, bias, large.like, -1, large.terms)))


def with_identity_rows(folding: Folding, x: Channels) -> Channels | None:
    """Some channels convolved beside the others of the same map, as one convolution that passes these on.

    None where there is nothing of the kind, or the form apart was chosen.
    """
    written = list(dict.fromkeys(source for source, _ in x if isinstance(source, Dense)))
    for conv in written:
        read = list(dict.fromkeys(part.source for part in conv.parts))
        kept = [channel for channel in x if channel.source is not conv]
        height, width = conv.weight.shape[2:]
        whole = len(read) == 1 and len(kept) + conv.rows == len(x) and set(channels_of(conv)) <= set(x)
        same = conv.like.stride == conv.like.dilation == (1, 1) and conv.like.padding == (
            height // 2,
            width // 2,
        )
        if not whole or not same or not kept or height * width % 2 == 0 or height * width == 1:
            continue
        source = read[0]
        if any(channel.source is not source for channel in kept) or len(x) != source.rows:
            continue
        size = (source.rows, len(x)), conv.like, (height, width), conv.rows
        if folding.choose("partial", ("apart", "one"), *size) == "apart":
            continue
        weight = conv.weight.new_zeros((len(x), source.rows, height, width))
        bias = conv.weight.new_zeros(len(x))
        columns = [row for part in conv.parts for row in part.rows]
        for row, channel in enumerate(x):
            if channel.source is conv:
                weight[row, columns] = conv.weight[channel.row]
                bias[row] = 0 if conv.bias is None else conv.bias[channel.row]
            else:
                weight[row, channel.row, height // 2, width // 2] = 1
        return folding.written([Part.all(source)], weight, bias, conv.like)
    return None


def settings_of(conv: nn.Conv2d) -> Settings:
    """Stride, padding and dilation of a layer."""
    return Settings(pair(conv.stride), pair(conv.padding), pair(conv.dilation))


def pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
