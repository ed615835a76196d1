"""How far the maps of lighter networks are from those of the network that they stand for.

    python benchmark.py maps --weights yolov5n.pt --students runs/lighten/exp/weights/best.pt \
        --source scenes/ coco256/images/val2017

Compared are the ends of stages that have as many channels in both, on the same pictures, letterboxed as
`val.py` does it. It takes seconds and tells recipes of `lighten.py` apart that a mAP over some hundred
pictures does not; several sources show how much of what was learnt holds for other pictures than those that
were learnt from. In the table 0 is equal and 1 as far off as the mean of the map: of all channels together,
and in brackets on the average over channels. Layers are those of `--weights`; means are over the stages that
are not the same in both, so compare those of one variant, at one size. Classes do not matter.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.pages import console_table
from models.alignment import align
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from training.lightening.losses import DEAD
from training.lightening.measure import held_loader
from training.lightening.pair import Watched, ends_of_stages
from training.lightening.pictures import whole_pictures
from utils.console import LOGGER, progress, setup_console, warn
from utils.data.batch import Batch
from utils.data.images import IMAGE_SUFFIXES
from utils.data.index import DatasetIndex, index_pictures
from utils.data.letterbox import rounded_size
from utils.data.sources import expand, is_live, suffix_of
from utils.device import select_device
from utils.errors import Incomplete, UserError
from utils.flags import DEVICE_HELP, IMGSZ, SIDE, CommandConfig, at_least, flag, not_empty

Shares = Sequence[tuple[float, float]]  # of each stage, as `Distance.share` gives them


@dataclass(frozen=True)
class Config(CommandConfig):
    """Errors of the maps of lighter networks."""

    weights: str = flag("", "the network that they stand for", rule=not_empty)
    students: tuple[str, ...] = flag((), "the lighter networks", rule=not_empty)
    source: tuple[str, ...] = flag((), "folders, globs or lists of pictures; a row for each", rule=not_empty)
    pictures: int = flag(48, "the first so many of each source", rule=at_least(1))
    imgsz: int = flag(640, "image size in pixels", *IMGSZ, rule=SIDE)
    batch_size: int = flag(16, "images at once", rule=at_least(1))
    workers: int = flag(8, "data loading threads (at most one a core)", rule=at_least(0))
    device: str = flag("", DEVICE_HELP)


@dataclass
class Distance:
    """Sums over pictures, by channel (C,), of a map and of how far another one is from it."""

    count: int = 0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    squares: Tensor = field(default_factory=lambda: torch.zeros(()))
    differences: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, own: Tensor, wanted: Tensor) -> None:
        """Take in two maps (B, C, H, W)."""
        its, over = wanted.cpu().double(), (0, 2, 3)  # not every device has float64
        self.count += its.numel() // its.shape[1]
        self.total = self.total + its.sum(over)
        self.squares = self.squares + its.square().sum(over)
        self.differences = self.differences + (own.cpu().double() - its).square().sum(over)

    def share(self) -> tuple[float, float]:
        """The mean squared difference over the variance of the wanted map: of all channels together, and
        the mean of that of each channel, as it is learnt from."""
        error = self.differences / self.count
        variance = self.squares / self.count - (self.total / self.count).square()
        together = error.sum() / variance.sum().clamp(min=DEAD)
        return float(together), float((error / variance.clamp(min=DEAD)).mean())


def run(config: Config) -> None:
    """Measure, and print a table for each student.

    Raises:
        UserError: weights or pictures that cannot be used, or networks of which no stages can be compared.
        Incomplete: some pictures cannot be read; the others have been compared.
    """
    setup_console()
    device = select_device(config.device)
    teacher = load_model(find_weights(config.weights), device)
    size = rounded_size(config.imgsz, teacher.multiple)
    opened = {source: pictures(config, source) for source in dict.fromkeys(config.source)}
    loaders = {
        source: held_loader(teacher, index, size, config.batch_size, config.workers)
        for source, index in opened.items()
    }
    for path in config.students:
        student = load_model(find_weights(path), device)
        ends = comparable(student, teacher, path)
        found = {
            source: distances(student, teacher, ends, progress(loader, source, total=len(loader)))
            for source, loader in loaders.items()
        }
        LOGGER.info(f"{path}: error of maps, as a share of their variance (mean over channels of the shares)")
        table = rows(found, ends)
        print(console_table(table, "l" + "r" * (len(table[0]) - 1)))
    seen = ", ".join(f"{index.report.count()} of {source}" for source, index in opened.items())
    LOGGER.info(f"{seen} at {size} px on {device}, against {config.weights}")
    if faults := sum(len(index.report.faults) for index in opened.values()):
        raise Incomplete(f"{faults} pictures cannot be read; the figures are those of the others")


def pictures(config: Config, source: str) -> DatasetIndex:
    """The first pictures of a source.

    Raises:
        UserError: it is no source of files, or none of them can be read.
    """
    if is_live(source) or "://" in source:
        raise UserError(f"--source {source}: name a folder, a glob or a list of pictures")
    files = (Path(file) for file in expand(source) if suffix_of(file) in IMAGE_SUFFIXES)
    index = whole_pictures(index_pictures([str(file.absolute()) for file in islice(files, config.pictures)]))
    for fault in index.report.faults:
        warn(f"left out: {fault.file}: {fault.kind} ({fault.detail})")
    if not len(index):
        raise UserError(f"--source {source}: no picture can be read")
    return index


def comparable(student: DetectionModel, teacher: DetectionModel, path: str) -> dict[int, int]:
    """Ends of stages that have as many channels in both: the student's layer, and the teacher's.

    Raises:
        UserError: there are none, or the two do not take the same pictures.
    """
    if student.channels != teacher.channels:
        raise UserError(f"{path}: its pictures have {student.channels} channels, not {teacher.channels}")
    if teacher.multiple % student.multiple:
        raise UserError(
            f"{path}: sides of its pictures are multiples of {student.multiple}, not of {teacher.multiple}"
        )
    ends = ends_of_stages(teacher, align(student, teacher))
    same = {
        own: its for own, its in ends.items() if student.layers[own].channels == teacher.layers[its].channels
    }
    if not same:
        raise UserError(f"{path}: no stage has as many channels as that in its place; val.py compares all")
    others = [str(its) for own, its in ends.items() if own not in same]
    if others:
        LOGGER.info(f"{path}: not compared, as it has other channels there: layers {', '.join(others)}")
    return same


@torch.inference_mode()
def distances(
    student: DetectionModel, teacher: DetectionModel, ends: Mapping[int, int], batches: Iterable[Batch]
) -> Shares:
    """For each of `ends` both shares of `Distance`, over all the batches."""
    own, its = Watched(student.eval(), ends), Watched(teacher.eval(), ends.values())
    sums = {layer: Distance() for layer in ends}
    for batch in batches:
        images = batch.images.to(teacher.stride.device).float() / 255
        mine, wanted = own.logits(images)[1], its.logits(images)[1]
        for layer, counterpart in ends.items():
            sums[layer].add(mine[layer], wanted[counterpart])
    return [one.share() for one in sums.values()]


def rows(found: Mapping[str, Shares], ends: Mapping[int, int]) -> list[tuple[str, ...]]:
    """A row for each source: the mean over the stages that are not the same in both, and each of these."""
    differ = [i for i in range(len(ends)) if any(shares[i][0] != 0 for shares in found.values())]
    layers = [*ends.values()]

    def cell(shares: Shares) -> str:
        together, by_channel = (statistics.fmean(values) for values in zip(*shares, strict=True))
        return f"{together:.3f} ({by_channel:.3f})"

    table: list[tuple[str, ...]] = [("source", "mean", *(f"layer {layers[i]}" for i in differ))]
    for source, shares in found.items():
        some = [shares[i] for i in differ]
        table.append((source, cell(some or shares), *(cell([share]) for share in some)))
    return table
