"""What `benchmark.py train` can be told, and a check of all of it before hours are spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.pages import check_page, mark_of
from benchmarks.runs import Run, check_budget, runs_in, settings_of
from benchmarks.study.candidates import keep_fault, rung_fault, rungs_of
from models.cfg import load_cfg, validate_cfg
from models.insertion import insert as insert_into
from models.tuning.calls import RUNTIMES
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from training.config import TrainConfig
from training.setup import hyperparameters, open_teacher
from training.study_storage import address_fault
from utils.data.index import DatasetIndex, build_index
from utils.data.spec import load_data_spec
from utils.device import amp_dtype, select_device
from utils.errors import UserError
from utils.files import find_file, safe_name
from utils.flags import SEED, CommandConfig, at_least, flag, not_empty, one_of

TEMPLATE = "results.md.j2"
OTHERWISE = ("iou", "insert", "study")  # flags of train.py that mean something else here
TRAIN = {field.name: field for field in dataclasses.fields(TrainConfig)}


def of_train(name: str) -> Any:
    """The flag of that name as train.py has it, which is told its value."""
    return dataclasses.field(default=TRAIN[name].default, metadata=TRAIN[name].metadata)


def is_markdown(page: str) -> str:
    return "" if not page or Path(page).suffix == ".md" else "must end in .md"


@dataclass(frozen=True)
class Config(CommandConfig):
    """Train several variants under one budget, none stops early, and write one page about them."""

    topics = {
        "what is compared": ("variants", "iou", "insert", "singly", "seeds"),
        "a study that is shared, or stops early": ("study", "rungs", "keep"),
        "what is trained": ("data", "weights", "nofit", "teacher", "teacher_weight", "imgsz"),
        "how it is trained": (
            "epochs", "batch_size", "hyp", "optimizer", "cos_lr", "multi_scale", "noautoanchor",
            "label_smoothing",
        ),
        "what runs it": ("device", "amp", "workers", "cache"),
        "what is written": ("milliseconds", "project", "name", "output", "notes"),
    }  # fmt: skip

    data: str = of_train("data")
    variants: tuple[str, ...] = flag(
        (),
        "model yamls, as --cfg of train.py takes them; the others are compared with the first",
        "--variants",
        "--cfg",
    )
    iou: tuple[str, ...] = flag((), "box losses to compare with that of --hyp (docs/losses.md)")
    insert: tuple[str, ...] = flag(
        (), "blocks to put into each network, one comparison a text: 'CBAM after C3' 'SE in 8 + ECA in 6'"
    )
    singly: bool = flag(False, "change one thing at a time, instead of every combination of the three")
    seeds: tuple[int, ...] = flag((0,), "seeds; every variant is trained with each of them", rule=SEED)
    study: str = flag(
        "",
        "share the work with all who say the same: a file that they all see, or postgresql://USER@HOST/DATABASE",
        rule=address_fault,
    )
    rungs: tuple[str, ...] = flag(
        (),
        "after how many epochs, with how many seeds, only the best go on, such as 4 or 4x2",
        rule=rung_fault,
    )
    keep: tuple[str, ...] = flag(
        ("1/3",), "who goes on after each rung: a share of the others or a number of them", rule=keep_fault
    )
    milliseconds: str = flag(
        "", "runtime in which each network is timed at the end", rule=one_of(("", *RUNTIMES))
    )
    weights: str = of_train("weights")
    nofit: bool = of_train("nofit")
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
        for text in self.iou:
            TrainConfig(iou=text)
        rungs_of(self.rungs, self.epochs, len(set(self.seeds)))
        TrainConfig(teacher=self.teacher, teacher_weight=self.teacher_weight)  # refuses one without the other

    @property
    def folder(self) -> Path:
        return Path(self.project) / self.name

    @property
    def is_study(self) -> bool:
        return bool(self.study or self.iou or self.insert or self.rungs or self.milliseconds)

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
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name in TRAIN and field.name not in OTHERWISE
        }
        place = {"project": str(run.folder.parent), "name": run.folder.name, "exist_ok": True}
        return TrainConfig(**own | place, cfg=variant, seed=run.seed, noplots=True, patience=0)


def prepare(
    config: Config, networks: Sequence[tuple[str, Sequence[str]]], template: str = TEMPLATE
) -> tuple[DetectionModel | None, DatasetIndex, str]:
    """Find and check all that the flags name, so that a mistake shows now and not after hours.

    Args:
        networks: each a model yaml, and what is put into it.
        template: of the page.

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
    hyp = hyperparameters(told)
    anchors = None if hyp.anchors is None else round(hyp.anchors)
    for cfg, insert in networks:
        open_teacher(told, network_of(cfg, insert, spec.nc, anchors), run=None)
    weights = load_model(find_weights(told.initial_weights)) if told.initial_weights else None
    try:
        notes = find_file(config.notes).read_text(encoding="utf-8") if config.notes else ""
    except UnicodeDecodeError as error:
        raise UserError(f"--notes: {config.notes} is not a text file in UTF-8") from error
    index = build_index(spec.val, spec.names)
    index.report.check_usable("val")
    check_page(config.page, mark_of(template), "--output", beside=(config.page.with_suffix(".png"),))
    return weights, index, notes


def network_of(cfg: str, insert: Sequence[str], nc: int, anchors: int | None = None) -> DetectionModel:
    """A network with blocks put into it, with new weights.

    Raises:
        UserError: the yaml or the words are unusable.
    """
    if not insert:
        return DetectionModel(cfg, nc=nc, anchors=anchors)
    content = load_cfg(cfg)
    validate_cfg(content, Path(cfg).name)
    return DetectionModel(insert_into(content, insert, Path(cfg).name)[0], nc=nc, anchors=anchors)


def label(variant: str) -> str:
    """The name of a variant in folders and tables."""
    return safe_name(Path(variant).name.removesuffix(".yaml"))


def check_budgets(config: Config) -> None:
    """Refuse runs in the folder that had another budget: those that are wanted, and those in the table."""
    variant, run_ = config.planned[0]
    hyp = hyperparameters(config.train_config(run_, variant))
    planned = {run_.folder: variant for variant, run_ in config.planned}
    for run_ in runs_in(config.folder):
        if run_.finished or (run_.started and run_.folder in planned):
            variant = planned.get(run_.folder) or str(settings_of(run_).get("cfg", run_.variant))
            check_budget(run_, config.train_config(run_, variant), hyp)
