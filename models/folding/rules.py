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
from models.folding.algebra import affine, convolve, merge, pair, settings_of, with_identity_rows
from models.folding.convolution import (
    Settings,
)
from models.folding.fold import Folding, Value, is_channels, rule
from models.folding.head import FoldedHead, piece_rows
from models.folding.sources import Channel, Channels, Combined, Foreign, Mapped, Source, channels_of

ELEMENTWISE = (
    nn.SiLU, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.GELU,
    nn.ELU, nn.CELU, nn.SELU, nn.Mish, nn.Softplus, nn.Hardtanh, nn.LogSigmoid, nn.Softsign,
)  # fmt: skip
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
    return with_identity_rows(folding, joined) or joined


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
    like = Settings(pair(given.get("stride", 1)), pair(padding or 0), pair(given.get("dilation", 1)))
    return convolve(folding, x, weight, bias, like, given.get("groups", 1))  # type: ignore[arg-type]


@rule(nn.BatchNorm2d)
def _batch_norm(folding: Folding, node: fx.Node) -> Value:
    """A scale and a shift per channel."""
    norm = folding.module(node)
    x = folding.value(node.args[0])
    if not is_channels(x) or norm.running_mean is None:  # statistics of the batch are no constants
        return NotImplemented
    scale, shift = batch_norm_terms(norm)
    return affine(folding, x, scale, shift, alone=_unshared(folding, node.args[0]))


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
    (height, width), stride = pair(layer.kernel_size), pair(layer.stride)
    centred = height == width and height % 2 == 1 and pair(layer.padding) == (height // 2, width // 2)
    return height if centred and stride == pair(layer.dilation) == (1, 1) else 0


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
    if isinstance(factor, Tensor) and factor.ndim == 0:  # a gate's gain
        factor = float(factor)
    if not maps or not isinstance(factor, (int, float)):
        return NotImplemented
    if factor == 1:
        return maps[0]
    source = node.args[0] if is_channels(left) else node.args[1]
    scale = torch.full((len(maps[0]),), float(factor), dtype=torch.float64)
    return affine(folding, maps[0], scale, torch.zeros_like(scale), alone=_unshared(folding, source))


# ---- the head ----


@rule(Detect)
def _detect(folding: Folding, node: fx.Node) -> Value:
    """Its 1x1 convolutions read channels in any order and write boxes and scores apart; see `FoldedHead`."""
    head = folding.module(node)
    pieces = piece_rows(head)
    maps: tuple[list[Source], ...] = tuple([] for _ in pieces)
    inputs: Any = node.args[0]
    for conv, argument in zip(head.m, inputs):
        folding.look_at(argument)
        for kind, rows in zip(maps, pieces):
            weight, bias = conv.weight[rows].detach(), conv.bias[rows].detach()
            x, weight = _read(folding.value(argument), weight)
            found = convolve(folding, x, weight, bias, settings_of(conv), conv.groups)
            kind.append(folding.in_order(found))
    return folding.add(Foreign(node, FoldedHead(head), maps, {}, rows=0))


def _read(x: Channels, weight: Tensor) -> tuple[Channels, Tensor]:
    """Channels and columns of a weight without those that are 0 in all rows, unless all are."""
    used = weight.flatten(2).any(dim=2).any(dim=0)
    if bool(used.all()) or not bool(used.any()):
        return x, weight
    return tuple(channel for channel, read in zip(x, used.tolist()) if read), weight[:, used]
