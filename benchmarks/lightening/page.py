"""The page of `lighten.py`: what a lighter network saves, and what it keeps of its teacher.

`lighten.html` needs nothing but a browser; `lighten.json` has its numbers.
"""

from __future__ import annotations

import base64
import copy
import csv
import datetime
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from markupsafe import Markup

from benchmarks.networks import describe_machine
from benchmarks.pages import bare, render
from benchmarks.plots import Point, lines, scatter
from benchmarks.timings import Timing
from models.detector import Detector
from models.yolo import DetectionModel
from training.lightening.config import LightenConfig
from utils.counting.measure import count_parameters, measure
from utils.data.channels import with_channels
from utils.data.images import ImageError, read_image
from utils.data.index import DatasetIndex
from utils.detections.annotate import annotate
from utils.errors import UserError
from utils.files import write_text
from utils.flags import arguments
from utils.plots.canvas import svg_of

TEMPLATE = "lighten.html.j2"
TEACHER = "teacher"
SHOWN = 8  # pictures
SIDE, QUALITY = 560, 82  # pixels of a picture's longer side, and of JPEG
COURSE = ("step", "agreement/mAP_0.5:0.95", "output_error")  # columns of results.csv


@dataclass(frozen=True)
class Variant:
    """A network in the table.

    Attributes:
        role: a student has learnt to the end, a candidate has not.
        parameters, gflops: of the fused network, for one picture of the run's size.
        megabytes: of its weights in half precision, as best.pt has them.
        milliseconds, ratio: quartiles over the rounds; `ratio` to the teacher's in the same round.
        start, fitted, short, end: agreement (mAP50-95 against the teacher's boxes) as weights were taken
            over, after least squares, after few steps, and of the best weights of all.
        true_map: mAP50-95 against labels.
    """

    name: str
    role: Literal["teacher", "student", "candidate"]
    parameters: int
    gflops: float
    megabytes: float
    milliseconds: tuple[float, float, float] | None = None
    ratio: tuple[float, float, float] | None = None
    start: float | None = None
    fitted: float | None = None
    short: float | None = None
    end: float | None = None
    true_map: float | None = None
    note: str = ""

    def timed(self, timing: Timing) -> Variant:
        return replace(self, milliseconds=timing.milliseconds, ratio=timing.ratio)

    @property
    def agreement(self) -> float | None:
        """The last that was measured of one that has learnt."""
        return self.short if self.end is None else self.end


@dataclass(frozen=True)
class Record:
    """The numbers of the page.

    Attributes:
        ceiling: agreement of the teacher itself with weights rounded to half precision.
        plan: what was looked for, and how; empty where the user named the network.
        left_out: networks that were no candidates, each with the reason.
    """

    command: str
    date: str
    machine: dict[str, Any]
    runtime: str
    imgsz: int
    source: str
    pictures: int
    held: int
    data: str
    ceiling: float
    variants: list[Variant]
    steps: int = 0  # of one student; each fit of a search has its own
    plan: str = ""
    left_out: list[tuple[str, str]] = field(default_factory=list)

    @property
    def teacher(self) -> Variant:
        return self.variants[0]

    @property
    def students(self) -> list[Variant]:
        """Those that have learnt to the end, the one that is kept first."""
        return [variant for variant in self.variants if variant.role == "student"]


@dataclass(frozen=True)
class Compared:
    """One picture with the boxes of each, as data URIs, and how many boxes there are."""

    name: str
    teacher: str
    student: str
    boxes: tuple[int, int]


def variant_of(
    name: str, role: Literal["teacher", "student", "candidate"], model: DetectionModel, imgsz: int
) -> Variant:
    """What a network costs."""
    image = torch.empty(1, model.channels, imgsz, imgsz, device="meta")
    fused = copy.deepcopy(model).fuse()  # of meta tensors it would take ten times as long
    size = sum(t.numel() * (2 if t.is_floating_point() else t.itemsize) for t in model.state_dict().values())
    gflops = measure(fused, image).flops("conv") / 1e9
    return Variant(name, role, count_parameters(fused), round(gflops, 4), round(size / 1e6, 3))


def record_of(
    config: LightenConfig, known: Mapping[str, Any], held: int, imgsz: int, variants: Sequence[Variant]
) -> Record:
    """The record of a run.

    Args:
        known: what its checkpoint says of it, `lightened`.
        held: pictures held out.
    """
    words = ("python", "lighten.py", *map(bare, arguments(config)))
    return Record(
        command=shlex.join(words),
        date=datetime.date.today().isoformat(),
        machine=describe_machine([config.timed_in] if config.timed_in else []),
        runtime=config.timed_in,
        imgsz=imgsz,
        source=bare(config.source),
        pictures=known["pictures"],
        held=held,
        data=bare(config.data),
        ceiling=known["agreement"]["ceiling"],
        variants=list(variants),
        steps=known.get("steps", 0),
    )


def write_page(
    folder: Path, record: Record, courses: Mapping[str, Path], pictures: Sequence[Compared]
) -> Path:
    """Write lighten.json and lighten.html into a run's folder, and return the latter.

    Args:
        courses: results.csv of those that have learnt to the end, by name.
    """
    write_text(folder / "lighten.json", json.dumps(asdict(record), indent=1) + "\n")
    plots = [course({name: read_course(path) for name, path in courses.items()}, record)]
    if len(record.variants) > 2:  # of two there is no front
        plots.insert(0, front(record))
    page = folder / "lighten.html"
    write_text(
        page,
        render(TEMPLATE, record=record, command=shlex.split(record.command), plots=plots, pictures=pictures),
    )
    return page


def front(record: Record) -> tuple[str, str, Markup]:
    """Title, note and drawing: agreement against latency, against GFLOPs where none was measured."""
    timed = record.teacher.ratio is not None
    points = []
    for variant in record.variants:
        agreement = record.ceiling if variant.role == "teacher" else variant.agreement
        if agreement is None:
            continue
        x = variant.ratio[1] if variant.ratio else variant.gflops
        rough = "" if variant.role != "candidate" else " (short fit)"
        points.append(Point(f"{variant.name}{rough}", x, agreement, marked=variant.role == "teacher"))
    against = f"latency in {record.runtime}" if timed else "GFLOPs"
    title = f"Agreement against {against}"
    drawn = scatter(
        points, "", "ratio to the teacher's" if timed else "GFLOPs", "agreement, mAP50-95", frontier=True
    )
    note = "Line: no other network is both lighter and agrees more."
    return title, note, Markup(svg_of(drawn, title))


def course(courses: Mapping[str, Sequence[tuple[float, float]]], record: Record) -> tuple[str, str, Markup]:
    """Title, note and drawing: agreement by steps."""
    begun = {v.name: [(0.0, s) for s in (v.start, v.fitted) if s is not None] for v in record.variants}
    series = {name: [*begun[name], *points] for name, points in courses.items()}
    drawn = lines(series, "", "steps", "agreement, mAP50-95", level=record.ceiling)
    title, note = (
        "The course",
        "Level: the teacher itself, its weights rounded to half precision. At step 0: least squares.",
    )
    return title, note, Markup(svg_of(drawn, title))


def read_course(results: Path) -> list[tuple[float, float]]:
    """Steps since the beginning and agreement, from a results.csv.

    Its steps begin anew with the second phase, the one in which outputs are compared.

    Raises:
        UserError: it is not there, or not what a run writes.
    """
    try:
        with results.open(encoding="utf-8", newline="") as file:
            named = [[float(row[name]) for name in COURSE] for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{results} is missing or damaged ({error}); the page is drawn from it") from error
    first = max((step for step, _, outputs in named if not outputs), default=0.0)
    return [(step + first if outputs else step, agreement) for step, agreement, outputs in named]


def compare_pictures(models: Sequence[DetectionModel], index: DatasetIndex, imgsz: int) -> list[Compared]:
    """Some pictures with the boxes of both at the working threshold, those with boxes before the others.

    Args:
        models: teacher and student.
        index: pictures held out, with the teacher's boxes as labels. One that cannot be read any more is left
            out.
    """
    filled = np.diff(index.offsets) > 0
    order = [*np.flatnonzero(filled), *np.flatnonzero(~filled)]
    few = max(min(int(filled.sum()), len(order)), min(SHOWN, len(order)))
    chosen = [order[i] for i in np.unique(np.linspace(0, few - 1, SHOWN).round().astype(int))]
    detectors = [Detector(model) for model in models]
    found = []
    for path in (index.path(int(i)) for i in chosen):
        try:
            image = read_image(path, models[0].channels)
        except ImageError:
            continue
        drawn = [_drawn(detector, image, imgsz) for detector in detectors]
        (first, own), (second, its) = drawn
        found.append(Compared(Path(path).name, first, second, (own, its)))
    return found


def _drawn(detector: Detector, image: np.ndarray, imgsz: int) -> tuple[str, int]:
    """A data URI of the picture with what a detector finds on it, and how many boxes that are."""
    rows = detector.detect(detector.prepare([image], imgsz))[0][0].cpu().numpy()
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    shown = np.ascontiguousarray(cv2.resize(with_channels(image, 3), size, interpolation=way))
    rows[:, :4] *= scale
    annotate(shown, rows, detector.names)
    _, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}", len(rows)
