"""A narrower network of the same blocks, made of the most telling channels of a wider one.

Which channels belong together is found by running the network: each map that an operation makes gets a label
a channel, and labels that have to stay or go together, such as those of the two sides of a sum, are tied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.blocks.conv import batch_norm_terms
from models.parse import Layer, run_layers
from models.yolo import PROBE, DetectionModel
from utils.errors import UserError

# what moves channels about without a change: it does the same to their labels
MOVES = {
    "cat", "chunk", "split", "flatten", "reshape", "transpose", "permute", "stack", "view", "contiguous",
    "__getitem__",
}  # fmt: skip
PRODUCTS = {"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__"}
ACTIVATIONS = {"silu", "relu", "relu6", "leaky_relu", "hardswish", "hardsigmoid", "mish", "gelu", "sigmoid"}
# of a variable with mean 0 and variance 1: values, and weights that add up to 1
NODES = torch.linspace(-4, 4, 65, dtype=torch.float64)
WEIGHTS = torch.softmax(-NODES.square() / 2, dim=0)


class CannotNarrow(ValueError):
    """A network whose channels cannot be followed, or that is not the other one but narrower."""


@dataclass(frozen=True)
class Step:
    """An operation that makes new maps.

    Attributes:
        inputs, outputs: labels of the channels that go in and come out.
        others: labels of further maps that go in, with as many channels as come out.
        module: the name of its module, if it has one.
        mixes: whether each channel that comes out is made of all that go in, or of all of its group.
    """

    inputs: Tensor
    outputs: Tensor
    others: tuple[Tensor, ...]
    module: str
    mixes: bool


class Trace(TorchFunctionMode):
    """Follows the channels of a network through all that is done to them.

    Attributes:
        steps: what makes new maps, in order.
        pieces: labels of all that comes out of any operation, in order.
        layers: labels of the output of each layer that gives one map, by index.
        tied: (2, n) labels that stay or go together.
        moments: (labels, 2) what a channel is on the average, and its square, as far as BatchNorm tells.
    """

    def __init__(self, model: DetectionModel) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.pieces: list[Tensor] = []
        self.layers: dict[int, Tensor] = {}
        self.tied: list[Tensor] = []
        self.moments = torch.zeros(0, 2, dtype=torch.float64)
        self._labels: dict[int, tuple[Tensor, Tensor]] = {}  # by id: the tensor, kept alive, and its labels
        self._values: dict[int, Tensor] = {}  # by id: (1, C, nodes, 1) of a map that BatchNorm has made
        self._modules = {id(m.weight): (name, m) for name, m in model.named_modules() if _has_weight(m)}
        mode, head = model.training, model.layers[-1]
        model.eval()

        def note(layer: Layer, module: nn.Module, x: Any) -> Any:
            module.train(layer is head)  # the head gives logits alone
            y = module(x)
            if isinstance(y, Tensor):
                self.layers[layer.index] = self.labels(y)
            return y

        image = model.head.anchors.new_zeros(1, model.channels, PROBE, PROBE)
        with torch.no_grad():
            self._new(image, torch.ones(model.channels, 2, dtype=torch.float64))
            with self:
                run_layers(model.model, model.layers, image, note)
        model.train(mode)

    def labels(self, tensor: Tensor) -> Tensor:
        """(C,) labels of a map (1, C, H, W)."""
        if id(tensor) not in self._labels:
            raise CannotNarrow("a map whose channels cannot be followed")
        return self._labels[id(tensor)][1][0, :, 0, 0]

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        known = [arg for arg in flat(args) if id(arg) in self._labels]
        inputs = [self._labels[id(arg)][1] for arg in known]
        values = self._values.get(id(known[0])) if known else None
        result, name = func(*args, **kwargs), getattr(func, "__name__", "")
        if not known:
            return result
        if name in MOVES:
            move = Tensor.reshape if name == "view" else func  # labels lie otherwise in memory
            moved = move(*swapped(args, dict(zip(map(id, known), inputs))), **kwargs)
            for tensor, labels in zip(flat([result]), flat([moved])):
                self._labels[id(tensor)] = tensor, labels
                if labels.ndim == 4:
                    self.pieces.append(labels[0, :, 0, 0])
        elif isinstance(result, Tensor) and result.ndim == 4:
            maps = [labels[0, :, 0, 0] for labels in inputs if labels.ndim == 4]
            self._make([*args, *kwargs.values()], maps, result, torch.prod if name in PRODUCTS else torch.sum)
            if name in ACTIVATIONS and values is not None:
                self._describe(result, func(values.clone(), *args[1:], **kwargs))
        return result

    def _make(
        self, args: Sequence[Any], inputs: list[Tensor], result: Tensor, combine: Callable[..., Tensor]
    ) -> None:
        """Label what an operation has made of maps; `combine` says what becomes of their moments."""
        module, block = next((self._modules[id(a)] for a in flat(args) if id(a) in self._modules), ("", None))
        alike = [labels for labels in inputs if len(labels) == result.shape[1]]
        groups = _groups(block) if isinstance(block, nn.Conv2d) else 0
        mixes = groups > 0
        if mixes or not alike:
            unknown = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
            own = self._new(result, unknown.repeat(result.shape[1], 1))
        else:
            own = self._new(result, combine(torch.stack([self.moments[labels] for labels in alike]), dim=0))
            self.tied += [torch.stack((own, labels)) for labels in alike]
        if inputs:
            first, others = (inputs[0], ()) if mixes or not alike else (alike[0], tuple(alike[1:]))
            self.steps.append(Step(first, own, others, module, mixes or not alike))
            if groups > 1:  # of each group as many have to stay
                self.pieces += [*first.chunk(groups), *own.chunk(groups)]
        if isinstance(block, nn.BatchNorm2d):
            scale = block.weight.detach().double().abs()[:, None]
            normal = block.bias.detach().double()[:, None] + scale * NODES.to(scale.device)
            self._describe(result, normal[None, :, :, None])

    def _new(self, tensor: Tensor, moments: Tensor) -> Tensor:
        own = torch.arange(tensor.shape[1]) + len(self.moments)
        self.moments = torch.cat((self.moments, moments))
        self._labels[id(tensor)] = tensor, own[None, :, None, None].expand(tensor.shape)
        self._values.pop(id(tensor), None)
        self.pieces.append(own)
        return own

    def _describe(self, tensor: Tensor, values: Tensor) -> None:
        self._values[id(tensor)] = values
        found = values[0, :, :, 0].cpu()
        both = torch.stack((found @ WEIGHTS, found.square() @ WEIGHTS), dim=1)
        self.moments[self.labels(tensor)] = both


def flat(args: Sequence[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, and in lists and tuples of them."""
    for arg in args:
        if isinstance(arg, Tensor):
            yield arg
        elif isinstance(arg, (list, tuple)):
            yield from flat(arg)


def swapped(args: Sequence[Any], found: dict[int, Tensor]) -> Sequence[Any]:
    """Arguments with other tensors in place of those whose ids are known."""
    changed = [
        swapped(arg, found) if isinstance(arg, (list, tuple)) else found.get(id(arg), arg) for arg in args
    ]
    return tuple(changed) if isinstance(args, tuple) else changed


@torch.no_grad()
def narrowed(teacher: DetectionModel, width: float) -> tuple[DetectionModel, dict[int, Tensor]]:
    """The teacher at another `width_multiple`, a smaller one, with the channels that tell most.

    A channel counts by the energy that it brings to the convolutions that take it (as BatchNorm tells of what
    comes in); what those that go were on the average is left with the BatchNorm that misses them.

    Returns:
        The network, and for each layer that gives one map the channels of the teacher's that it kept.

    Raises:
        CannotNarrow: some block's channels cannot be chosen.
    """
    try:
        slim = DetectionModel(teacher.yaml | {"width_multiple": width})
    except UserError as error:  # a block that needs other numbers of channels
        raise CannotNarrow(str(error)) from error
    slim.names = teacher.names
    wide_trace, slim_trace = Trace(teacher), Trace(slim)
    wide, own = wide_trace.steps, slim_trace.steps
    if [step.module for step in wide] != [step.module for step in own]:
        raise CannotNarrow("the narrower network does other things")
    modules = dict(teacher.named_modules())
    kept = choose(wide_trace, slim_trace, importance(wide_trace, modules))
    origin = origins(wide_trace, slim_trace, kept)
    steps = {its.module: (its, mine) for its, mine in zip(wide, own)}
    # by label: what the channels that go would have added
    missed = torch.zeros(len(slim_trace.moments), dtype=torch.float64)
    for name, module in slim.named_modules():
        if name in steps:
            _fill(module, modules[name], *steps[name], origin, wide_trace.moments[:, 0], missed)
        else:
            _copy(module, modules[name], lambda tensor: tensor)
    chosen = {
        index: _positions(wide_trace.layers[index], origin[labels])
        for index, labels in slim_trace.layers.items()
    }
    return slim, chosen


def importance(trace: Trace, modules: dict[str, nn.Module]) -> Tensor:
    """(labels,) the energy that each channel brings to the convolutions that take it."""
    scale = torch.ones(len(trace.moments), dtype=torch.float64)
    for step in trace.steps:
        if isinstance(bn := modules.get(step.module), nn.BatchNorm2d):
            scale[step.inputs] = batch_norm_terms(bn)[0].abs().cpu()
    score = torch.zeros_like(scale)
    for step in trace.steps:
        conv = modules.get(step.module)
        if isinstance(conv, nn.Conv2d) and (groups := _groups(conv)):
            kernels = conv.weight.detach().double().cpu() * scale[step.outputs, None, None, None]
            for labels, kernel in zip(step.inputs.chunk(groups), kernels.chunk(groups)):
                score[labels] += trace.moments[labels, 1] * kernel.square().sum(dim=(0, 2, 3))
    return score


def choose(wide: Trace, slim: Trace, score: Tensor) -> Tensor:
    """(labels,) bool: which channels of the wider network stay, so that every map has as many as it should.

    Raises:
        CannotNarrow: no choice does that.
    """
    group = torch.arange(len(score))
    ties = torch.cat(wide.tied, dim=1) if wide.tied else torch.zeros(2, 0, dtype=torch.long)
    while True:  # the smallest label of all that are tied is the name of the group
        least = group[ties].amin(dim=0)
        joined = group.scatter_reduce(0, ties.flatten(), least.repeat(2), "amin")
        joined = joined[joined]
        if torch.equal(joined, group):
            break
        group = joined
    total = torch.zeros_like(score).index_add(0, group, score)
    state = torch.zeros(len(score), dtype=torch.long)  # of each group: 1 stays, -1 goes, 0 not decided
    wanted = sorted(zip(wide.pieces, (len(piece) for piece in slim.pieces)), key=lambda pair: len(pair[0]))
    for piece, count in wanted:
        groups = group[piece]
        open_ones = groups[state[groups] == 0].unique()
        missing = max(count - int((state[groups] == 1).sum()), 0)
        order = open_ones[total[open_ones].argsort(descending=True, stable=True)]
        state[order[:missing]], state[order[missing:]] = 1, -1
        if int((state[groups] == 1).sum()) != count:
            raise CannotNarrow(f"no {count} of {len(piece)} channels can be chosen")
    return state[group] == 1


def origins(wide: Trace, slim: Trace, kept: Tensor) -> Tensor:
    """(labels of the narrower network,) the channels of the wider one that they stand for.

    In their order, unless a sum demands another one: where a shuffle lies on one side of it, the convolution
    on the other side follows.

    Raises:
        CannotNarrow: two orders that exclude each other.
    """
    origin = torch.full((len(slim.moments),), -1)
    origin[slim.pieces[0]] = wide.pieces[0]  # the image
    made: dict[int, int] = {}  # by the first label of a map: the step that made it
    steps = list(zip(wide.steps, slim.steps))

    def demand(labels: Tensor, wanted: Tensor) -> None:
        number = made.get(int(labels[0]))
        its, mine = steps[number] if number is not None else (None, None)
        if its is None or mine is None or not torch.equal(mine.outputs, labels) or mine.others:
            raise CannotNarrow("channels that a sum brings together")
        if not mine.mixes:
            demand(mine.inputs, its.inputs[_positions(its.outputs, wanted)])
        origin[labels] = wanted

    for number, (its, mine) in enumerate(steps):
        made[int(mine.outputs[0])] = number
        if mine.mixes:
            origin[mine.outputs] = its.outputs[kept[its.outputs]]
            continue
        places = _positions(its.inputs, origin[mine.inputs])
        for theirs, ours in zip(its.others, mine.others):
            if not torch.equal(origin[ours], theirs[places]):
                demand(ours, theirs[places])
        origin[mine.outputs] = its.outputs[places]
    for its, mine in steps:
        if not mine.mixes:
            places = _positions(its.inputs, origin[mine.inputs])
            if not torch.equal(origin[mine.outputs], its.outputs[places]):
                raise CannotNarrow("channels whose order was demanded twice")
    return origin


def _fill(
    module: nn.Module,
    other: nn.Module,
    its: Step,
    mine: Step,
    origin: Tensor,
    mean: Tensor,
    missed: Tensor,
) -> None:
    """Give a module of the narrower network the channels of the wider one's."""
    if isinstance(module, nn.Conv2d) and isinstance(other, nn.Conv2d) and (groups := _groups(module)):
        each = [labels.chunk(groups) for labels in (its.inputs, its.outputs, mine.inputs, mine.outputs)]
        parts = zip(*each, other.weight.chunk(groups), module.weight.data.chunk(groups), strict=True)
        for inputs, outputs, own_inputs, own_outputs, kernel, own_kernel in parts:
            columns = _positions(inputs, origin[own_inputs])
            kept = kernel[_positions(outputs, origin[own_outputs])]
            own_kernel.copy_(kept[:, columns])
            gone = mean[inputs].clone()
            gone[columns] = 0
            missed[own_outputs] = kept.double().sum(dim=(2, 3)) @ gone
        if module.bias is not None and other.bias is not None:
            rows = _positions(its.outputs, origin[mine.outputs])
            module.bias.data.copy_(other.bias[rows] + missed[mine.outputs])
            missed[mine.outputs] = 0
        return
    rows = _positions(its.outputs, origin[mine.outputs])
    _copy(module, other, lambda tensor: tensor[rows] if tensor.ndim else tensor)
    if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        module.running_mean -= missed[mine.inputs].to(module.running_mean)


def _copy(module: nn.Module, other: nn.Module, part: Callable[[Tensor], Tensor]) -> None:
    """The tensors that a module has itself, some part of each."""
    for (_, target), (name, source) in zip(_own_tensors(module), _own_tensors(other)):
        if target.shape != part(source).shape:
            raise CannotNarrow(f"{name} of {type(module).__name__}")
        target.data.copy_(part(source))


def _own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _positions(labels: Tensor, wanted: Tensor) -> Tensor:
    """Where the wanted labels stand; one that is wanted n times, at its first n places."""
    places: dict[int, list[int]] = {}
    for place, label in enumerate(labels.tolist()):
        places.setdefault(label, []).append(place)
    try:
        return torch.tensor([places[label].pop(0) for label in wanted.tolist()], dtype=torch.long)
    except (KeyError, IndexError):
        raise CannotNarrow("a channel that is not there") from None


def _groups(conv: nn.Conv2d) -> int:
    """Groups of a convolution that makes channels of several; 0 for one that looks at each by itself."""
    return 0 if conv.groups == conv.in_channels > 1 else conv.groups


def _has_weight(module: nn.Module) -> bool:
    return isinstance(getattr(module, "weight", None), Tensor)
