"""What a student took over is fitted to what it reads now: least squares, before anything is learnt.

A convolution that was taken over expects the maps of the teacher, and behind a lighter layer it gets others.
What it should make of them is known, as the teacher makes it of the same pictures, and to a convolution that
is a linear problem: its weights are moved to the solution, one after the other in the order in which they
run, each on what the student makes of all before it. Ridge regression towards the weights that are there, so
that directions which no picture shows stay as they were.

Behind a layer that has nothing of the teacher (`Pair.blank`) a convolution stays as it is unless most of what
it should give can be made of what it reads: a backbone that has learnt nothing gives next to nothing, and
weights that make the teacher's of it would be immense, and the teacher's own lost in the attempt. Fitted are
channels whose weights are those of some convolution of the teacher's layer in their place, to what that one
gives; and the last convolution of a layer that ends in a `Conv`, as the teacher's does, to its last.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.conv import Conv
from models.parse import Layer, run_layers
from training.lightening.pair import Pair
from utils.console import progress
from utils.data.images import ImageError
from utils.data.loader import Loader
from utils.device import memory_format
from utils.errors import UserError

AREA = 12_000_000  # pixels, of all pictures together that are looked at
SAMPLES = 12_000  # positions of a map that are looked at, in all pictures together
RIDGE = 0.01  # of the variance of what is read: how much a weight is held where it is
LEAST_RIDGE = 1e-4  # of the variance of what the teacher's reads: of maps that are next to nothing no weight
# could make what is wanted, but a very large one
UNLIKE = 0.5  # of the variance of what a layer should give: what it gives then says nothing of it
FAINT = 1e-3  # a BatchNorm's factor below which what it reads says nothing

Take = Callable[[nn.Conv2d, Tensor, Tensor], None]


@dataclass
class Traced:
    """What ran in a layer.

    Attributes:
        convs: in the order in which they ran.
        norms: the BatchNorm that the result of one went to.
        last: the convolution of the `Conv` whose result was the layer's, if it was one's.
    """

    convs: list[nn.Conv2d]
    norms: dict[nn.Conv2d, nn.BatchNorm2d]
    last: nn.Conv2d | None


@dataclass
class Wanted:
    """What a convolution of the teacher makes, (N, C) at some positions, and the variance of what it
    reads."""

    rows: Tensor
    variance: float


@dataclass
class Reader:
    """Channels of a convolution of the student, and those of the teacher's that they stand for."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    channels: list[int]
    wanted: list[tuple[nn.Conv2d, nn.BatchNorm2d | None, int]]


def first_images(loader: Loader, device: torch.device) -> list[Tensor]:
    """What a fit looks at, of a loader's first epoch: (B, C, H, W) images with values 0 to 1.

    Raises:
        UserError: a picture cannot be read any more.
    """
    found: list[Tensor] = []
    loader.set_epoch(0)
    try:
        for batch in loader:
            images = batch.images.to(device).to(torch.float32, memory_format=memory_format(device)) / 255
            found.append(images)
            if sum(images[:, 0].numel() for images in found) >= AREA:
                break
    except ImageError as error:
        raise UserError(f"{error}; put it back as it was, or take it out, and start again") from None
    return found


def result_of_fit(count: int, seconds: float) -> str:
    """What to tell of it."""
    if not count:
        return (
            "no layer is fitted: what was taken over reads what it read before, or stands behind layers that "
            "have to learn first"
        )
    what = f"{count} convolutions that were taken over are fitted to the maps that they read now"
    return f"{what}, in {seconds:.0f} s"


@dataclass
class Solution:
    """What has to be added to the weights of a reader, and to what it gives; `left` is the share of the
    variance of what is wanted that remains."""

    step: Tensor
    constant: Tensor
    left: float


@torch.no_grad()
def fit_readers(pair: Pair, batches: Sequence[Tensor]) -> int:
    """Fit the student's convolutions on images, (B, C, H, W) each with values 0 to 1; how many were moved."""
    pair.student.eval()
    known = [pair.given(pair.lesson(images)[0]) for images in batches]
    readers = _readers(pair, batches[0], known[0])
    needed = {conv for some in readers.values() for reader in some for conv, _, _ in reader.wanted}
    share = max(SAMPLES // sum(map(len, batches)), 1)
    told: dict[nn.Conv2d, list[Tensor]] = {conv: [] for conv in needed}
    spread: dict[nn.Conv2d, list[Tensor]] = {conv: [] for conv in needed}

    def note(conv: nn.Conv2d, x: Tensor, y: Tensor) -> None:
        if conv in told:
            told[conv].append(_written(y, share))
            spread[conv].append(x.var(dim=(0, 2, 3), correction=0).mean())

    for images in batches:
        _trace_teacher(pair, images, note)
    wanted = {conv: Wanted(torch.cat(told[conv]), float(torch.stack(spread[conv]).mean())) for conv in needed}
    moved, foreign = 0, set[int]()
    last_use = {j: layer.index for layer, _ in _own(pair) for j in layer.sources}
    for layer, module in progress(_own(pair), "least squares", unit=" layers"):
        inputs = [_inputs(layer, maps) for maps in known]
        doubtful, before = layer.index in pair.blank or not foreign.isdisjoint(layer.sources), moved
        for reader in readers[layer.index]:
            rows: list[Tensor] = []

            def read(conv: nn.Conv2d, x: Tensor, y: Tensor, rows: list[Tensor] = rows) -> None:
                if conv is reader.conv:  # noqa: B023
                    rows.append(_read(conv, x, y, share))

            for x in inputs:
                trace(module, x, read)
            solution = _solved(reader, torch.cat(rows), wanted)
            if solution is not None and not (doubtful and solution.left > UNLIKE):
                _move(reader, solution)
                moved += 1
        if doubtful and moved == before:
            foreign.add(layer.index)
        elif layer.index in pair.new:
            _settle(module, inputs)
        for maps, x in zip(known, inputs):
            maps[layer.index] = module(x)
        for maps in known:
            for j in [j for j in maps if last_use.get(j, layer.index) <= layer.index]:
                del maps[j]
    return moved


def _own(pair: Pair) -> list[tuple[Layer, nn.Module]]:
    """The student's own layers."""
    return list(zip(pair.student.layers, pair.student.model))[pair.shared :]


def _inputs(layer: Layer, maps: Mapping[int, Any]) -> Any:
    inputs = [maps[j] for j in layer.sources]
    return inputs if layer.joins else inputs[0]


def trace(module: nn.Module, x: Any, take: Take = lambda conv, x, y: None) -> tuple[Any, Traced]:
    """Run a layer and see how; `take` is given what each convolution reads and writes."""
    found = Traced([], {}, None)
    written: list[Any] = [None, None]  # the latest result of a convolution, and of a Conv
    maker: list[nn.Conv2d] = []

    def after(part: nn.Module, args: tuple[Any, ...], y: Any) -> None:
        if isinstance(part, nn.Conv2d):
            found.convs.append(part)
            written[0] = y
            take(part, args[0], y)
        elif isinstance(part, nn.BatchNorm2d) and args[0] is written[0]:
            found.norms[found.convs[-1]] = part
        elif isinstance(part, Conv):
            written[1], maker[:] = y, [part.conv]

    handles = [part.register_forward_hook(after) for part in module.modules()]
    try:
        y = module(x)
    finally:
        for handle in handles:
            handle.remove()
    if maker and y is written[1]:
        found.last = maker[0]
    return y, found


def _trace_teacher(pair: Pair, images: Tensor, take: Take = lambda conv, x, y: None) -> dict[int, Traced]:
    """The teacher's layers by index, in whose places the student's own stand."""
    stands = {pair.pairs[layer.index] for layer, _ in _own(pair) if layer.index in pair.pairs}
    found: dict[int, Traced] = {}

    def call(layer: Layer, module: nn.Module, x: Any) -> Any:
        if layer.index not in stands:
            return module(x)
        y, found[layer.index] = trace(module, x, take)
        return y

    run_layers(pair.teacher.model, pair.teacher.layers, images, call)
    return found


def _readers(pair: Pair, images: Tensor, given: Mapping[int, Any]) -> dict[int, list[Reader]]:
    """What can be fitted, by the student's own layers, in the order in which it runs."""
    shapes: dict[nn.Conv2d, torch.Size] = {}

    def note(conv: nn.Conv2d, x: Tensor, y: Tensor) -> None:
        shapes[conv] = y.shape[2:]

    teacher, maps = _trace_teacher(pair, images, note), dict(given)
    found: dict[int, list[Reader]] = {}
    for layer, module in _own(pair):
        maps[layer.index], own = trace(module, _inputs(layer, maps), note)
        its = pair.pairs.get(layer.index)
        readers = [] if its is None else _of_layer(own, teacher[its], pair.kept(its))
        found[layer.index] = [
            reader
            for reader in readers
            if all(shapes[conv] == shapes[reader.conv] for conv, _, _ in reader.wanted)
        ]
    return found


def _of_layer(own: Traced, its: Traced, kept: Sequence[int]) -> list[Reader]:
    """What can be fitted of a layer; `kept`: the channels of the teacher's layer that the student has."""
    rows = {
        _content(row): (conv, its.norms.get(conv), number)
        for conv in its.convs
        if conv.groups == 1
        for number, row in enumerate(conv.weight)
        if row.any()  # of a dead channel no weight tells which one it is
    }
    found = []
    for conv, times in Counter(own.convs).items():
        if conv.groups != 1 or times > 1 or isinstance(conv.padding, str) or not conv.weight.requires_grad:
            continue
        norm = own.norms.get(conv)
        stand = {number: rows.get(_content(row)) for number, row in enumerate(conv.weight)}
        if conv is own.last and its.last is not None and len(kept) == conv.out_channels:
            stand = {
                number: (its.last, its.norms.get(its.last), channel) for number, channel in enumerate(kept)
            }
        wanted = {number: one for number, one in stand.items() if one and (one[1] is None) == (norm is None)}
        if norm is not None:
            wanted = {
                number: one for number, one in wanted.items() if abs(float(norm.weight[number])) > FAINT
            }
        if wanted:
            found.append(Reader(conv, norm, list(wanted), list(wanted.values())))
    return found


def _content(row: Tensor) -> bytes:
    return row.detach().cpu().float().contiguous().numpy().tobytes()


def _positions(picture: int, count: int, share: int) -> Tensor:
    """Where a map of so many positions is looked at: the same places in maps of the same size."""
    generator = torch.Generator().manual_seed(picture)
    return torch.randperm(count, generator=generator)[:share]


def _written(y: Tensor, share: int) -> Tensor:
    """Some positions of a map (B, C, H, W), as rows (N, C)."""
    maps = y.flatten(2)
    return torch.cat(
        [one[:, _positions(i, one.shape[1], share).to(one.device)].T for i, one in enumerate(maps)]
    )


def _read(conv: nn.Conv2d, x: Tensor, y: Tensor, share: int) -> Tensor:
    """What a convolution read for these positions of its map: rows (N, K), K the weights of a channel."""
    shape = {"dilation": conv.dilation, "padding": conv.padding, "stride": conv.stride}
    count = y.shape[2] * y.shape[3]
    rows = []
    for i, one in enumerate(x):
        patches = F.unfold(one[None], conv.kernel_size, **shape)[0]  # type: ignore[arg-type]
        rows.append(patches[:, _positions(i, count, share).to(one.device)].T)
    return torch.cat(rows)


def _solved(reader: Reader, read: Tensor, wanted: Mapping[nn.Conv2d, Wanted]) -> Solution | None:
    """Where the weights of a reader give what is wanted for what it reads; None where there is no such
    place."""
    conv, norm = reader.conv, reader.norm
    x = read.cpu().double()
    weight = conv.weight[reader.channels].flatten(1).cpu().double()
    goal = (
        torch.stack([wanted[other].rows[:, channel] for other, _, channel in reader.wanted], dim=1)
        .cpu()
        .double()
    )
    if norm is not None:
        lines = {other: _line(other) for _, other, _ in reader.wanted if other is not None}
        its = torch.stack(
            [lines[other][:, channel] for _, other, channel in reader.wanted if other is not None]
        )
        mine = _line(norm)[:, reader.channels]
        # what has to stand before the student's BatchNorm, for the teacher's result after its own
        goal = (goal * its[:, 0] + its[:, 1] - mine[1]) / mine[0]
    rest = goal - x @ weight.T
    if conv.bias is not None:
        rest = rest - conv.bias[reader.channels].cpu().double()
    free = norm is not None or conv.bias is not None  # to take up what is constant
    x_mean, mean = (x.mean(dim=0), rest.mean(dim=0)) if free else (x.new_zeros(()), x.new_zeros(()))
    x, rest = x - x_mean, rest - mean
    gram = x.T @ x
    its_variance = max(wanted[other].variance for other, _, _ in reader.wanted)
    held = (RIDGE * gram.diagonal().mean()).clamp(min=max(LEAST_RIDGE * its_variance * len(x), 1e-12))
    step = torch.linalg.solve(gram + held * torch.eye(len(gram), dtype=gram.dtype), x.T @ rest).T
    constant = mean - step @ x_mean if free else mean
    if not (step.isfinite().all() and constant.isfinite().all()):
        return None
    left = (rest - x @ step.T).square().sum() / (goal - goal.mean(dim=0)).square().sum().clamp(min=1e-12)
    freedom = 1 - len(gram) / len(x)  # as many weights as positions explain anything
    return Solution(step, constant, float(left) / freedom if freedom > 0 else float("inf"))


def _move(reader: Reader, solution: Solution) -> None:
    """Move the weights of a reader to where they give what is wanted."""
    conv, norm, constant = reader.conv, reader.norm, solution.constant
    conv.weight[reader.channels] += solution.step.view(-1, *conv.weight.shape[1:]).to(conv.weight)
    if norm is not None and norm.running_mean is not None:
        norm.running_mean[reader.channels] -= constant.to(norm.running_mean)
    elif conv.bias is not None:
        conv.bias[reader.channels] += constant.to(conv.bias)


def _settle(module: nn.Module, inputs: Sequence[Any]) -> None:
    """Give each BatchNorm the statistics of what it reads, with factor and constant that leave what it makes.

    So it makes the same with them at rest and with those of a batch. Channels of which it makes next to
    nothing keep what they have, since with so small a factor they would not learn; those that are silent
    until something is learnt get the statistics alone, so that they begin to learn as others do.
    """
    read: dict[nn.BatchNorm2d, list[Tensor]] = {}

    def note(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        variance, mean = torch.var_mean(args[0].float(), dim=(0, 2, 3), correction=0)
        read.setdefault(norm, []).append(torch.stack((mean, variance)).cpu().double())

    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d) and part.affine]
    handles = [norm.register_forward_pre_hook(note) for norm in norms if norm.weight.requires_grad]
    try:
        for x in inputs:
            module(x)
    finally:
        for handle in handles:
            handle.remove()
    for norm, moments in read.items():
        assert norm.running_mean is not None and norm.running_var is not None
        means, variances = torch.stack(moments).unbind(dim=1)
        mean = means.mean(dim=0)
        variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
        factor, constant = _line(norm)
        weight = factor * (variance + norm.eps).sqrt()
        told = weight.abs() > FAINT
        for tensor, values in (
            (norm.weight, weight),
            (norm.bias, constant + factor * mean),
            (norm.running_mean, mean),
            (norm.running_var, variance),
        ):
            tensor[told] = values[told].to(tensor)
        silent = norm.weight == 0
        norm.running_mean[silent] = mean.to(norm.running_mean)[silent]
        norm.running_var[silent] = variance.to(norm.running_var)[silent]


def _line(norm: nn.BatchNorm2d) -> Tensor:
    """(2, C) factor and constant of each channel of a BatchNorm at rest."""
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight.cpu().double() / (norm.running_var.cpu().double() + norm.eps).sqrt()
    return torch.stack((factor, norm.bias.cpu().double() - factor * norm.running_mean.cpu().double()))
