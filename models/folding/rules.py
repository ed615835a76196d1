"""The rules of folding: what each kind of node means for the channels that pass through it.

In the equations x_i is channel i, W[:, i] the column of a weight that reads it.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from models.blocks.conv import batch_norm_terms
from models.blocks.detect import Detect
from models.blocks.reshape import shuffle_channels
from models.folding.convolution import (
    LEAST_CHANNELS,
    POINTWISE,
    Dense,
    Depthwise,
    Grouped,
    Settings,
    widened,
)
from models.folding.fold import Folding, Value, is_channels, rule
from models.folding.head import FoldedHead, box_rows
from models.folding.sources import Channel, Channels, Combined, Foreign, Mapped, Part, Source, channels_of

ELEMENTWISE = (
    nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.GELU,
    nn.ELU, nn.CELU, nn.SELU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.LogSigmoid, nn.Softsign,
)  # fmt: skip
MOST_DENSE = 64  # channels of a depthwise convolution that might as well be dense
PER_CHANNEL = (
    *ELEMENTWISE, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample,
    nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d, nn.ZeroPad2d,
)  # fmt: skip


# ---- references move, nothing is computed ----


@rule(nn.Identity, nn.Dropout, nn.Dropout2d)
def _nothing(folding: Folding, node: fx.Node) -> Value:
    """What does nothing in evaluation mode is left out."""
    return folding.value(node.args[0])


@rule(torch.cat)
def _concatenate(folding: Folding, node: fx.Node) -> Value:
    """`x | y` is the channels of x and those of y; who reads it reads both."""
    inputs: Any = folding.value(node.args[0])  # a list of nodes, or what a split gave
    values = [folding.value(part) for part in inputs] if isinstance(inputs, (list, tuple)) else []
    dimension = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    if dimension != 1 or not values or not all(is_channels(value) for value in values):
        return NotImplemented
    folding.counts["concatenations left to their readers"] += 1
    joined = tuple(channel for value in values for channel in value)
    return _with_identity_rows(folding, joined) or joined


def _with_identity_rows(folding: Folding, x: Channels) -> Channels | None:
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


@rule(shuffle_channels, "chunk", torch.chunk, "split", operator.getitem)
def _selected(folding: Folding, node: fx.Node) -> Value:
    """`y[i] = x[p(i)]`, in one piece or in several: carried into the weights of whatever reads y.

    To find p, the node is run on a map whose values are their own places; and, to see that it leaves batch,
    height and width alone whatever these are, on shapes too large for any number that it was given.
    """
    x: Any = folding.value(node.args[0])
    if isinstance(x, list) and isinstance(node.args[1], (int, slice)):  # of what a split gave
        return x[node.args[1]]
    if not is_channels(x) or len(node.all_input_nodes) > 1:
        return NotImplemented
    run = getattr(Tensor, node.target) if isinstance(node.target, str) else node.target
    places = torch.arange(2 * len(x) * 3 * 5).reshape(2, len(x), 3, 5)
    large = torch.empty(1000, len(x), 10**6, 10**6, device="meta")
    try:
        found, shapes = (run(probe, *node.args[1:], **node.kwargs) for probe in (places, large))
    except (IndexError, RuntimeError, TypeError):  # as torch does for an index that the small map has not
        return NotImplemented
    pieces = []
    for piece, shape in zip(*([part] if isinstance(part, Tensor) else part for part in (found, shapes))):
        if piece.ndim != 4 or not piece.numel() or (len(shape), *shape.shape[2:]) != (1000, 10**6, 10**6):
            return NotImplemented
        rows = piece[0, :, 0, 0] // 15
        if not torch.equal(piece, places[:, rows]):
            return NotImplemented
        pieces.append(tuple(x[row] for row in rows.tolist()))
    if node.target is shuffle_channels:
        folding.counts["channel permutations carried into weights"] += 1
    return pieces[0] if isinstance(found, Tensor) else pieces


# ---- convolutions ----


@rule(nn.Conv2d)
def _convolution(folding: Folding, node: fx.Node) -> Value:
    conv = folding.module(node)
    x = folding.value(node.args[0])
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or not is_channels(x):
        return NotImplemented
    together = _entries(folding, node)
    if len(together) > 1:
        layers = [folding.module(other) for other in together]
        weight = torch.cat([layer.weight.detach() for layer in layers])
        zeros = weight.new_zeros
        biases = [zeros(len(y.weight)) if y.bias is None else y.bias.detach() for y in layers]
        made = convolve(folding, x, weight, torch.cat(biases), settings_of(conv), 1, whole=True)
        start = 0
        for other, layer in zip(together, layers):
            folding.ready[other] = made[start : start + len(layer.weight)]
            start += len(layer.weight)
        return folding.ready.pop(node)
    bias = None if conv.bias is None else conv.bias.detach()
    return convolve(folding, x, conv.weight.detach(), bias, settings_of(conv), conv.groups)


def _entries(folding: Folding, node: fx.Node) -> list[fx.Node]:
    """The convolutions that read the same map alike, this one first, when one is to stand for all."""
    conv = folding.module(node)

    def alike(other: fx.Node) -> bool:
        if other.op != "call_module" or len(other.args) != 1 or other.kwargs:
            return False
        layer = folding.module(other)
        return (
            type(layer) is nn.Conv2d
            and (layer.groups, layer.padding_mode, layer.kernel_size) == (1, "zeros", conv.kernel_size)
            and not isinstance(layer.padding, str)
            and settings_of(layer) == settings_of(conv)
        )

    source: Any = node.args[0]
    found = [other for other in source.users if alike(other)]
    if len(found) < 2 or found[0] is not node:
        return []
    rows = sum(len(folding.module(other).weight) for other in found)
    size = (conv.in_channels, rows), settings_of(conv), conv.kernel_size, len(found)
    return found if folding.choose("entries", ("apart", "one"), *size) == "one" else []


@rule(F.conv2d, torch.conv2d)
def _functional_convolution(folding: Folding, node: fx.Node) -> Value:
    """A convolution whose weight is put together from others, such as HetConv's."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    arguments = dict(zip(names, node.args)) | dict(node.kwargs)
    given = {name: folding.value(argument) for name, argument in arguments.items()}
    x, weight, bias, padding = (given.get(name) for name in ("input", "weight", "bias", "padding"))
    fixed = isinstance(weight, Tensor) and (bias is None or isinstance(bias, Tensor))
    if not fixed or not is_channels(x) or isinstance(padding, str):
        return NotImplemented
    like = Settings(_pair(given.get("stride", 1)), _pair(padding or 0), _pair(given.get("dilation", 1)))
    return convolve(folding, x, weight, bias, like, given.get("groups", 1))  # type: ignore[arg-type]


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


@rule(nn.BatchNorm2d)
def _batch_norm(folding: Folding, node: fx.Node) -> Value:
    """A scale and a shift per channel."""
    norm = folding.module(node)
    x = folding.value(node.args[0])
    if not is_channels(x) or norm.running_mean is None:  # statistics of the batch are no constants
        return NotImplemented
    scale, shift = batch_norm_terms(norm)
    return affine(folding, x, scale, shift, alone=_unshared(folding, node.args[0]))


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


def _unshared(folding: Folding, node: Any) -> bool:
    """Whether a node is a convolution that a single other node reads, or joins only such ones."""
    if not isinstance(node, fx.Node) or len(node.users) > 1:
        return False
    if node.target is torch.cat:
        joined: Any = node.args[0]
        return all(_unshared(folding, part) for part in joined)
    is_layer = node.op == "call_module" and isinstance(folding.module(node), nn.Conv2d)
    return is_layer or node.target in (F.conv2d, torch.conv2d)


# ---- what works on each channel alone ----


@rule(*PER_CHANNEL)
def _map(folding: Folding, node: fx.Node) -> Value:
    x = folding.value(node.args[0])
    if not is_channels(x):
        return NotImplemented
    layer = copy.deepcopy(folding.module(node))
    if hasattr(layer, "inplace"):
        setattr(layer, "inplace", False)  # noqa: B010  # it now works on what others may read, too
    if isinstance(layer, nn.MaxPool2d):
        return _pool(folding, x, layer)
    return apply_each(folding, x, layer)


def _pool(folding: Folding, x: Channels, pool: nn.MaxPool2d) -> Channels:
    """`max_k(max_l(x)) = max_(k + l - 1)(x)` where both look around each pixel."""
    before = x[0].source
    size, own = _window(pool), _window(before.layer) if isinstance(before, Mapped) else 0
    if not size or not own or x != channels_of(before):
        return apply_each(folding, x, pool)
    size += own - 1
    like = Settings((1, 1), (size // 2, size // 2), (1, 1))
    shape = (len(x), len(x)), like, (size, size), 2
    if folding.choose("pools", ("chain", "beside"), *shape) == "chain":
        return apply_each(folding, x, pool)
    wide = nn.MaxPool2d(size, stride=1, padding=size // 2)
    return apply_each(folding, channels_of(before.inputs[0]), wide)


def _window(layer: nn.Module) -> int:
    """The side of a pooling's window when it is square and each pixel lies in the middle of one; else 0."""
    if not isinstance(layer, nn.MaxPool2d) or layer.ceil_mode or layer.return_indices:
        return 0
    (height, width), stride = _pair(layer.kernel_size), _pair(layer.stride)
    centred = height == width and height % 2 == 1 and _pair(layer.padding) == (height // 2, width // 2)
    return height if centred and stride == _pair(layer.dilation) == (1, 1) else 0


def _called(layer: Callable[[], nn.Module]) -> Callable[[Folding, fx.Node], Value]:
    def apply(folding: Folding, node: fx.Node) -> Value:
        x = folding.value(node.args[0])
        plain = is_channels(x) and len(node.args) == 1 and not node.kwargs
        return apply_each(folding, x, layer()) if plain else NotImplemented

    return apply


rule("relu", torch.relu, F.relu)(_called(nn.ReLU))
rule("sigmoid", torch.sigmoid)(_called(nn.Sigmoid))
rule("tanh", torch.tanh)(_called(nn.Tanh))
rule(F.silu)(_called(nn.SiLU))
rule(F.hardswish)(_called(nn.Hardswish))


def apply_each(folding: Folding, x: Channels, layer: nn.Module) -> Channels:
    """A layer that treats channels alike: `f(x | y) = f(x) | f(y)`, so that nothing is joined for it."""
    used = Counter(source for source, _ in dict.fromkeys(x))
    if all(count == source.rows for source, count in used.items()):
        made = {source: folding.add(Mapped(source, layer)) for source in used}
        return tuple(Channel(made[source], row) for source, row in x)
    source, rows = folding.tensor(x)
    mapped = folding.add(Mapped(source, layer))
    return tuple(Channel(mapped, row) for row in rows)


@rule(operator.add, torch.add)
def _add(folding: Folding, node: fx.Node) -> Value:
    """The sum of two maps; two convolutions of the same channels that nothing else reads become one."""
    if len(node.args) != 2 or node.kwargs:
        return NotImplemented
    left, right = (folding.value(argument) for argument in node.args)
    if not is_channels(left) or not is_channels(right):
        return NotImplemented
    if all(_unshared(folding, argument) for argument in node.args):
        merged = merge(folding, left, right)
        if merged is not None:
            return merged
    return combine(folding, left, right, operator.add)


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


def combine(
    folding: Folding, left: Channels, right: Channels, function: Callable[..., Tensor]
) -> Channels | Any:
    """Channel by channel, in whatever order suits both; or many channels with a map of a single one."""
    if len(left) == len(right):
        a, rows, b = folding.aligned(left, right)
    elif 1 in (len(left), len(right)):
        one, many = sorted((left, right), key=len)
        (a, rows), (b, _) = folding.tensor(many), folding.tensor(one)
    else:
        return NotImplemented
    made = folding.add(Combined(a, b, function))
    return tuple(Channel(made, row) for row in rows)


@rule(operator.mul, torch.mul)
def _multiply(folding: Folding, node: fx.Node) -> Value:
    """The product of two maps, or of a number and a map."""
    if len(node.args) != 2 or node.kwargs:
        return NotImplemented
    left, right = (folding.value(argument) for argument in node.args)
    maps = [value for value in (left, right) if is_channels(value)]
    if len(maps) == 2:
        return combine(folding, left, right, operator.mul)
    factor = right if is_channels(left) else left
    if not maps or not isinstance(factor, (int, float)):
        return NotImplemented
    source = next(argument for argument in node.args if isinstance(argument, fx.Node))
    scale = torch.full((len(maps[0]),), float(factor), dtype=torch.float64)
    return affine(folding, maps[0], scale, torch.zeros_like(scale), alone=_unshared(folding, source))


# ---- the head ----


@rule(Detect)
def _detect(folding: Folding, node: fx.Node) -> Value:
    """Its 1x1 convolutions read channels in any order and write boxes and scores apart; see `FoldedHead`."""
    head = folding.module(node)
    maps: tuple[list[Source], list[Source]] = ([], [])
    inputs: Any = node.args[0]
    for conv, argument in zip(head.m, inputs):
        folding.look_at(argument)
        for kind, rows in zip(maps, box_rows(head)):
            weight, bias = conv.weight[rows].detach(), conv.bias[rows].detach()
            found = convolve(folding, folding.value(argument), weight, bias, settings_of(conv), conv.groups)
            kind.append(folding.in_order(found))
    return folding.add(Foreign(node, FoldedHead(head), maps, {}, rows=0))


def settings_of(conv: nn.Conv2d) -> Settings:
    """Stride, padding and dilation of a layer."""
    return Settings(_pair(conv.stride), _pair(conv.padding), _pair(conv.dilation))


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])
