"""Train several variants under the same budget, and compare them on one page.

    python benchmark.py train --data bccd.yaml --variants yolov5n yolov5n-gsconv --seeds 0 1 2 \\
        --weights yolov5n.pt --imgsz 320 --epochs 20 --name bccd --output docs/results-bccd.md

Every run is a `train.py` of its own in `<project>/<name>/<variant>-seed<k>`: first all variants with the
first seed, then with the second. The same command again continues after an interruption; finished runs stay.
Page, plot and `results.csv` are rewritten after every run, from all finished runs of the folder.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import AcquireReturnProxy, FileLock, Timeout

import train as train_command
from benchmarks.outcome import Comparison, outcome_of, record
from benchmarks.pages import bare, check_page, mark_of, render
from benchmarks.plots import Point, scatter
from benchmarks.runs import Run, carry_out, check_budget, runs_in, settings_of
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from training.config import TrainConfig
from training.setup import open_teacher
from utils.console import LOGGER, setup_console
from utils.data.index import DatasetIndex, build_index
from utils.data.spec import load_data_spec
from utils.device import amp_dtype, select_device
from utils.errors import Incomplete, UserError
from utils.files import find_file, safe_name, write_text
from utils.flags import SEED, CommandConfig, arguments, at_least, flag, not_empty
from utils.hyperparameters import Hyperparameters
from utils.interrupt import StopRequest
from utils.plots.canvas import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "results.md.j2"
TRAIN = {field.name: field for field in dataclasses.fields(TrainConfig)}
CSV_COLUMNS = {
    "variant": "variant", "seed": "seed", "epoch": "best epoch", "precision": "precision", "recall": "recall",
    "map50": "mAP50", "map50_95": "mAP50-95", "parameters": "parameters", "gflops": "GFLOPs",
    "gflops_640": "GFLOPs at 640", "transferred": "taken over", "seconds": "seconds per epoch",
}  # fmt: skip


def of_train(name: str) -> Any:
    """The flag of that name as train.py has it, which is told its value."""
    return dataclasses.field(default=TRAIN[name].default, metadata=TRAIN[name].metadata)


def is_markdown(page: str) -> str:
    return "" if not page or Path(page).suffix == ".md" else "must end in .md"


@dataclass(frozen=True)
class Config(CommandConfig):
    """Train several variants under one budget, none stops early, and write one page about them."""

    data: str = of_train("data")
    variants: tuple[str, ...] = flag(
        (), "model yamls, as --cfg of train.py takes them; the others are compared with the first"
    )
    seeds: tuple[int, ...] = flag((0,), "seeds; every variant is trained with each of them", rule=SEED)
    weights: str = of_train("weights")
    teacher: str = of_train("teacher")
    teacher_weight: float = of_train("teacher_weight")
    hyp: str = of_train("hyp")
    epochs: int = of_train("epochs")
    batch_size: int = flag(16, "batch size", rule=at_least(1))
    imgsz: int = of_train("imgsz")
    device: str = of_train("device")
    workers: int = of_train("workers")
    cache: Literal["ram", "disk"] | None = of_train("cache")
    optimizer: Literal["SGD", "Adam", "AdamW"] = of_train("optimizer")
    cos_lr: bool = of_train("cos_lr")
    multi_scale: bool = of_train("multi_scale")
    noautoanchor: bool = of_train("noautoanchor")
    label_smoothing: float = of_train("label_smoothing")
    amp: Literal["auto", "off", "fp16", "bf16"] = of_train("amp")
    project: str = flag("runs/benchmark", "folder that holds the folders of comparisons")
    name: str = flag("exp", "name of the folder of this comparison", rule=not_empty)
    output: str = flag(
        "", "page to write, PAGE.md; default: results.md in the folder of the comparison", rule=is_markdown
    )
    notes: str = flag("", "text file that is put into the page word for word")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.variants:
            raise ValueError("--variants: name at least one model yaml, such as yolov5n yolov5n-gsconv")
        TrainConfig(teacher=self.teacher, teacher_weight=self.teacher_weight)  # refuses one without the other

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
        """What train.py is told; no run stops early."""
        own = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in TRAIN
        }
        place = {"project": str(run.folder.parent), "name": run.folder.name, "exist_ok": True}
        return TrainConfig(**own | place, cfg=variant, seed=run.seed, noplots=True, patience=0)


def run(config: Config) -> None:
    """Train what is not trained yet, and write the page.

    Raises:
        UserError: something the flags name is unusable (before any training), or a training failed.
        Incomplete: some validation images could not be used.
        SystemExit: Ctrl-C or SIGTERM came; the run under way can be continued.
    """
    setup_console()
    weights, index, notes = prepare(config)
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
            record(run_, config.imgsz, weights, select_device(config.device))
            write_everything(config, index, notes)
    write_everything(config, index, notes)
    finished = sum(run_.finished for _, run_ in plan)
    LOGGER.info(f"{finished} of {len(plan)} runs on {config.data} at {config.imgsz} px")
    LOGGER.info(f"{config.page}: the page; {config.folder}: everything else")
    if missing := index.report.shortfall():
        raise Incomplete(f"val: {missing}; the page is about the others")


def alone_in(folder: Path) -> AcquireReturnProxy:
    """A context that keeps other calls out of the folder, from now on; the lock ends with the process.

    Raises:
        UserError: another call is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder}: another call is at work there; wait, or take another --name") from error


def prepare(config: Config) -> tuple[DetectionModel | None, DatasetIndex, str]:
    """Find and check all that the flags name, so that a mistake shows now and not after hours.

    Returns:
        The network of the initial weights, None without any; the validation split; the notes.

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
    amp_dtype(config.amp, select_device(config.device))
    spec = load_data_spec(config.data)
    first_variant, first = config.planned[0]
    told = config.train_config(first, first_variant)
    hyp = train_command.hyperparameters(told)
    anchors = None if hyp.anchors is None else round(hyp.anchors)
    for variant in config.variants:
        open_teacher(told, DetectionModel(variant, nc=spec.nc, anchors=anchors), run=None)
    weights = load_model(find_weights(told.initial_weights)) if told.initial_weights else None
    check_page(config.page, mark_of(TEMPLATE), "--output", beside=(config.page.with_suffix(".png"),))
    try:
        notes = find_file(config.notes).read_text(encoding="utf-8") if config.notes else ""
    except UnicodeDecodeError as error:
        raise UserError(f"--notes: {config.notes} is not a text file in UTF-8") from error
    _check_budgets(config, hyp)
    index = build_index(spec.val, spec.names)
    index.report.check_usable("val")
    return weights, index, notes


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


def write_everything(config: Config, index: DatasetIndex, notes: str) -> None:
    """Write the page, its plot and `results.csv` from all finished runs of the folder."""
    import pandas as pd

    found = pd.DataFrame([outcome_of(run_) for run_ in runs_in(config.folder) if run_.finished])
    comparison = Comparison.of(found, baseline=label(config.variants[0]))
    plot = config.page.with_suffix(".png")
    save_figure(picture_of(comparison, config.imgsz), plot)
    page = render(
        TEMPLATE,
        config=config,
        commands=_commands(comparison, config),
        machines=found[["torch", "device", "threads"]]
        .drop_duplicates()
        .sort_values(["torch", "device"])
        .itertuples(),
        comparison=comparison,
        plot=plot.name,
        images=len(index),
        labels=len(index.boxes),
        notes=notes,
    )
    write_text(config.page, page)
    found["seconds"] = found["seconds"].explode().astype(float).groupby(level=0).median()
    table = found[list(CSV_COLUMNS)].rename(columns=CSV_COLUMNS)
    csv = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_text(config.folder / "results.csv", csv)


def picture_of(comparison: Comparison, imgsz: int) -> Figure:
    """mAP50-95, with its sd where there are several seeds, against GFLOPs."""
    points = [
        Point(
            f"{rank}  {row.map50_95:.3f}  {row.variant}", row.gflops, row.map50_95,
            spread=None if math.isnan(row.map50_95_sd) else row.map50_95_sd,
            marked=row is comparison.baseline,
        )
        for rank, row in enumerate(comparison.variants, start=1)
    ]  # fmt: skip
    titles = ("Accuracy against operations", f"GFLOPs at {imgsz} px", "mAP50-95 at the best epoch")
    return scatter(points, *titles, width=9, level=comparison.baseline.map50_95)


def _commands(comparison: Comparison, config: Config) -> list[tuple[str, ...]]:
    """The calls that lead to these runs: one for the variants of each set of seeds.

    The baseline is the first variant of the last call.
    """
    base = comparison.baseline
    others = sorted((row for row in comparison.variants if row is not base), key=lambda row: row.variant)
    groups: dict[tuple[int, ...], list[str]] = {}
    for row in (base, *others):
        groups.setdefault(row.seeds, []).append(bare(row.cfg))
    flags = list(map(bare, arguments(config, leave_out=("variants", "seeds"))))
    calls = [
        ("python", "benchmark.py", "train", "--variants", *variants, "--seeds", *map(str, seeds), *flags)
        for seeds, variants in groups.items()
    ]
    return [*calls[1:], calls[0]]
