"""Train several variants under the same budget, and compare them on one page.

    python benchmark.py train --data bccd.yaml --variants yolov5n yolov5n-gsconv --seeds 0 1 2 \\
        --weights yolov5n.pt --imgsz 320 --epochs 20 --name bccd --output docs/results-bccd.md

Every run is a `train.py` of its own in `<project>/<name>/<variant>-seed<k>`: first all variants with the
first seed, then with the second. The same command again continues after an interruption; finished runs stay.
Page, plot and `results.csv` are rewritten after every run, from all finished runs of the folder.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout
from torch import Tensor

import train as train_command
from benchmarks.comparison import Comparison
from benchmarks.outcome import Outcome, outcome_of, record
from benchmarks.pages import check_page
from benchmarks.results_page import MARK, Setting, bare, commands_for, page
from benchmarks.runs import Run, arguments, carry_out, check_budget, runs_in, settings_of
from benchmarks.scatter import plot_comparison
from models.weights import find_weights
from models.yolo import DetectionModel
from training.config import TrainConfig
from utils.checkpoints.files import inference_state, read_checkpoint
from utils.console import LOGGER, setup_console
from utils.data.index import build_index
from utils.data.spec import load_data_spec
from utils.device import amp_dtype, select_device
from utils.errors import UserError
from utils.files import atomic_write, find_file, safe_name
from utils.flags import (
    DATA_HELP,
    DEVICE_HELP,
    IMGSZ,
    SEED,
    SHARE,
    SIDE,
    CommandConfig,
    at_least,
    flag,
    not_empty,
)
from utils.hyperparameters import Hyperparameters
from utils.interrupt import StopRequest

# flags that are handed to train.py as they are
SHARED = (
    "data", "weights", "hyp", "epochs", "batch_size", "imgsz", "device", "workers", "cache", "optimizer",
    "cos_lr", "multi_scale", "noautoanchor", "label_smoothing", "amp",
)  # fmt: skip
PATHS = ("data", "weights", "hyp", "project", "output", "notes")
CSV_COLUMNS = (
    "variant", "seed", "best epoch", "precision", "recall", "mAP50", "mAP50-95", "parameters", "GFLOPs",
    "GFLOPs at 640", "taken over", "seconds per epoch",
)  # fmt: skip


@dataclass(frozen=True)
class Config(CommandConfig):
    """Train several variants under the same budget and write one page about them."""

    data: str = flag("data/digits.yaml", DATA_HELP)
    variants: tuple[str, ...] = flag(
        (), "model yamls, as --cfg of train.py takes them; the others are compared with the first"
    )
    seeds: tuple[int, ...] = flag((0,), "seeds; every variant is trained with each of them", rule=SEED)
    weights: str = flag("", "initial weights of all; empty trains from scratch")
    hyp: str = flag("data/hyps/hyp.scratch-low.yaml", "hyper-parameter yaml (also looked up in data/hyps/)")
    epochs: int = flag(100, "number of epochs; none stops early", rule=at_least(1))
    batch_size: int = flag(16, "batch size", rule=at_least(1))
    imgsz: int = flag(640, "training and validation image size in pixels", *IMGSZ, rule=SIDE)
    device: str = flag("", DEVICE_HELP)
    workers: int = flag(8, "data loading processes (at most one a core)", rule=at_least(0))
    cache: Literal["ram", "disk"] | None = flag(
        None, "keep decoded images in ram or on disk", nargs="?", const="ram"
    )
    optimizer: Literal["SGD", "Adam", "AdamW"] = flag("SGD", "optimizer")
    cos_lr: bool = flag(False, "cosine instead of linear decay of the learning rate")
    multi_scale: bool = flag(False, "vary the image size by ±50 %% from batch to batch")
    noautoanchor: bool = flag(False, "keep the anchors of the models")
    label_smoothing: float = flag(0.0, "label smoothing epsilon", rule=SHARE)
    amp: Literal["auto", "off", "fp16", "bf16"] = flag(
        "auto", "mixed precision: auto is fp16 on CUDA, off elsewhere"
    )
    project: str = flag("runs/benchmark", "folder that holds the folders of comparisons")
    name: str = flag("exp", "name of the folder of this comparison", rule=not_empty)
    output: str = flag("", "page to write, PAGE.md; default: results.md in the folder of the comparison")
    notes: str = flag("", "text file that is put into the page word for word")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.variants:
            raise ValueError("--variants: name at least one model yaml, such as yolov5n yolov5n-gsconv")
        if self.output and Path(self.output).suffix != ".md":
            raise ValueError(f"--output is a Markdown page and must end in .md, found {self.output}")

    @property
    def folder(self) -> Path:
        return Path(self.project) / self.name

    @property
    def page(self) -> Path:
        return Path(self.output) if self.output else self.folder / "results.md"

    @property
    def planned(self) -> list[tuple[str, Run]]:
        """Each run with its variant as it was named, in the order of training."""
        named = {label(variant): variant for variant in self.variants}
        return [
            (variant, Run(name, seed, self.folder / f"{name}-seed{seed}"))
            for seed in dict.fromkeys(self.seeds)
            for name, variant in named.items()
        ]

    def train_config(self, run: Run, variant: str) -> TrainConfig:
        """What train.py is told."""
        shared = {name: getattr(self, name) for name in SHARED}
        return TrainConfig(
            **shared,
            cfg=variant,
            seed=run.seed,
            project=str(run.folder.parent),
            name=run.folder.name,
            exist_ok=True,
            noplots=True,
            patience=0,
        )


@dataclass(frozen=True)
class Prepared:
    """What the flags name, found and checked.

    Attributes:
        weights: the tensors of the initial weights, None without any.
        images, labels: of the validation split.
    """

    hyp: Hyperparameters
    device: torch.device
    weights: Mapping[str, Tensor] | None
    images: int
    labels: int
    notes: str


def run(config: Config) -> None:
    """Train what is not trained yet, and write the page.

    Raises:
        UserError: something the flags name is unusable (before any training), or a training failed.
        SystemExit: Ctrl-C or SIGTERM came; the run under way can be continued.
    """
    setup_console()
    prepared = prepare(config)
    plan = config.planned
    with alone_in(config.folder), StopRequest() as stop:
        for number, (variant, run_) in enumerate(plan, start=1):
            if stop.requested:
                LOGGER.info("stopped; the same command goes on")
                raise SystemExit(stop.exit_status)
            place = f"[{number}/{len(plan)}] {run_}"
            if run_.finished:
                LOGGER.info(f"{place}: finished before")
                continue
            LOGGER.info(f"{place}: {'goes on' if run_.started else 'starts'}, in {run_.folder}")
            carry_out(run_, config.train_config(run_, variant), stop)
            record(run_, config.imgsz, prepared.weights, prepared.device)
            write_everything(config, prepared)
    write_everything(config, prepared)
    LOGGER.info(f"{config.page}: the page; {config.folder}: everything else")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other calls out of the folder as long as this one works in it; the lock ends with the process.

    Raises:
        UserError: another call is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder}: another call is at work there; wait, or take another --name") from error
    try:
        yield
    finally:
        lock.release()


def prepare(config: Config) -> Prepared:
    """Find and check all that the flags name, so that a mistake shows now and not after hours.

    Raises:
        UserError: what is wrong with it.
    """
    names: dict[str, str] = {}
    for variant in config.variants:
        other = names.setdefault(label(variant), variant)
        if other != variant:
            raise UserError(
                f"--variants: '{other}' and '{variant}' share the name {label(variant)}; rename one"
            )
    device = select_device(config.device)
    amp_dtype(config.amp, device)
    spec = load_data_spec(config.data)
    first_variant, first = config.planned[0]
    hyp = train_command.hyperparameters(config.train_config(first, first_variant))
    anchors = None if hyp.anchors is None else round(hyp.anchors)
    for variant in config.variants:
        DetectionModel(variant, nc=spec.nc, anchors=anchors)
    weights = inference_state(read_checkpoint(find_weights(config.weights))) if config.weights else None
    check_page(config.page, MARK, "--output", beside=(config.page.with_suffix(".png"),))
    notes = _read_notes(config.notes)
    _check_budgets(config, hyp)
    index = build_index(spec.val, spec.names)
    return Prepared(hyp, device, weights, len(index), len(index.boxes), notes)


def label(variant: str) -> str:
    """The name of a variant in folders and tables."""
    return safe_name(Path(variant).name.removesuffix(".yaml"))


def _check_budgets(config: Config, hyp: Hyperparameters) -> None:
    """Refuse runs in the folder that had another budget: those that are wanted, and those in the table."""
    planned = {run_.folder: variant for variant, run_ in config.planned}
    for run_ in runs_in(config.folder):
        if run_.finished or (run_.started and run_.folder in planned):
            variant = planned.get(run_.folder) or str(settings_of(run_).get("cfg", run_.variant))
            check_budget(run_, config.train_config(run_, variant), hyp)


def _read_notes(path: str) -> str:
    try:
        return find_file(path).read_text(encoding="utf-8") if path else ""
    except UnicodeDecodeError as error:
        raise UserError(f"--notes: {path} is not a text file in UTF-8") from error


def write_everything(config: Config, prepared: Prepared) -> None:
    """Write the page, its plot and `results.csv` from all finished runs of the folder."""
    outcomes = [outcome_of(run_) for run_ in runs_in(config.folder) if run_.finished]
    comparison = Comparison.of(outcomes, baseline=label(config.variants[0]))
    setting = Setting(
        data=bare(config.data).rpartition("/")[2].removesuffix(".yaml").removesuffix(".yml"),
        budget=_budget(config),
        commands=commands_for(comparison, _reproducing(config)),
        imgsz=config.imgsz,
        images=prepared.images,
        labels=prepared.labels,
    )
    plot = config.page.with_suffix(".png")
    plot_comparison(comparison, config.imgsz, plot)
    with atomic_write(config.page) as file:
        file.write(page(setting, comparison, plot.name, prepared.notes).encode())
    with atomic_write(config.folder / "results.csv") as file:
        file.write(_csv(outcomes).encode())


def _reproducing(config: Config) -> list[str]:
    """The flags of this call without variants and seeds, and without the folders of this machine."""
    paths: dict[str, Any] = {name: bare(getattr(config, name)) for name in PATHS}
    return arguments(dataclasses.replace(config, **paths), leave_out=("variants", "seeds"))


def _budget(config: Config) -> str:
    start = f"from {bare(config.weights)}" if config.weights else "from scratch"
    epochs = f"{config.epochs} epoch{'s' if config.epochs > 1 else ''}"
    return (
        f"{epochs} {start}, at {config.imgsz} px in batches of {config.batch_size}, "
        f"{config.optimizer}, {Path(bare(config.hyp)).name}; no run stops early."
    )


def _csv(outcomes: Sequence[Outcome]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for o in outcomes:
        scores = [f"{value:.6g}" for value in (o.precision, o.recall, o.map50, o.map50_95)]
        share = "" if o.facts.transferred is None else f"{o.facts.transferred:.6g}"
        seconds = f"{statistics.median(o.seconds):.6g}" if o.seconds else ""
        costs = [o.facts.parameters, f"{o.facts.gflops:.6g}", f"{o.facts.gflops_640:.6g}"]
        writer.writerow([o.variant, o.seed, o.epoch, *scores, *costs, share, seconds])
    return text.getvalue()
