"""What `train.py` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from models.insertion import INSERT_HELP
from training.loggers.opening import NONE, SERVICES
from training.study_storage import address_fault
from utils.flags import (
    DATA_HELP,
    DEVICE_HELP,
    IMGSZ,
    SEED,
    SHARE,
    SIDE,
    Added,
    CommandConfig,
    at_least,
    between,
    flag,
    not_empty,
    one_of,
)
from utils.losses.composition import BoxLoss


class RunConfig(CommandConfig):
    """Flags of a command whose runs can be resumed.

    Attributes:
        free: those that may differ when a run is resumed, besides the ones that are so for all.
        once: those that hold for one call: a run that is resumed does not keep them.
    """

    free: ClassVar[tuple[str, ...]] = ()
    once: ClassVar[tuple[str, ...]] = ()

    project: str
    resume: bool | str


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Flags of train.py."""

    once = ("pause",)
    topics = {
        "network": ("cfg", "weights", "nofit", "insert", "freeze", "noautoanchor", "verbose"),
        "data": (
            "data", "imgsz", "batch_size", "rect", "multi_scale", "single_cls", "image_weights", "quad",
            "cache", "workers", "strict",
        ),
        "how it learns": (
            "epochs", "patience", "optimizer", "cos_lr", "label_smoothing", "iou", "hyp", "seed",
        ),
        "a teacher": ("teacher", "teacher_weight"),
        "search for hyper-parameters": ("evolve", "evolve_population", "resume_evolve", "study"),
        "who is told": ("loggers",),
        "machine": ("device", "amp", "sync_bn", "local_rank"),
        "the run": (
            "project", "name", "exist_ok", "resume", "pause", "save_period", "nosave", "noval", "noplots",
        ),
    }  # fmt: skip

    free = ("loggers",)

    weights: str = flag("", "initial weights; default: those of --teacher, or none, from scratch")
    cfg: str = flag(
        "", "model yaml (a name is also looked up in models/); default: that of --weights, or yolov5n"
    )
    nofit: bool = flag(
        False, "leave weights that were taken over into another layout as they were; else least squares fit "
        "them to what they read there"
    )  # fmt: skip
    insert: tuple[str, ...] = flag((), INSERT_HELP, action=Added)
    teacher: str = flag(
        "", "a trained detector to learn from too, beside the labels; the file of its weights"
    )
    teacher_weight: float = flag(
        1.0, "how much the teacher counts, as a multiple of what is usual", rule=between(0.001, 1000)
    )
    data: str = flag("data/digits.yaml", DATA_HELP)
    hyp: str = flag("data/hyps/hyp.scratch-low.yaml", "hyper-parameter yaml (also looked up in data/hyps/)")
    iou: str = flag(
        "", "box loss in place of that of --hyp, such as Inner-CIoU(ratio=0.75); docs/losses.md has the names"
    )
    epochs: int = flag(100, "number of epochs", rule=at_least(1))
    batch_size: int = flag(16, "total batch size over all devices, -1 for the largest that fits the GPU")
    imgsz: int = flag(640, "training and validation image size in pixels", *IMGSZ, rule=SIDE)
    rect: bool = flag(False, "rectangular batches, images sorted by shape")
    resume: bool | str = flag(
        False, "continue the newest run, or the run of the given last.pt", nargs="?", const=True
    )
    pause: int = flag(0, "end after this many epochs of --epochs, to be resumed; 0: never", rule=at_least(0))
    nosave: bool = flag(False, "write last.pt at the end only")
    noval: bool = flag(False, "validate after the last epoch only")
    noautoanchor: bool = flag(False, "keep the anchors of the model")
    noplots: bool = flag(False, "draw nothing")
    loggers: tuple[str, ...] = flag(
        (), "services that are told of the run; default: TensorBoard's curves, where it is installed",
        choices=(*SERVICES, NONE),
        rule=one_of((*SERVICES, NONE)),
    )  # fmt: skip
    evolve: int | None = flag(None, "evolve hyper-parameters for this many generations", nargs="?", const=300)
    evolve_population: str = flag(
        "data/hyps", "folder of hyper-parameter yamls to start from", "--evolve_population"
    )
    resume_evolve: str | None = flag(
        None, "evolve.csv of an earlier evolution to continue", "--resume_evolve"
    )
    study: str = flag(
        "",
        "share the generations of --evolve with all who say the same: a file that they all see, or "
        "postgresql://USER@HOST/DATABASE",
        rule=address_fault,
    )
    cache: Literal["ram", "disk"] | None = flag(
        None, "keep decoded images in ram or on disk", nargs="?", const="ram"
    )
    image_weights: bool = flag(False, "draw images of weak classes more often")
    device: str = flag("", DEVICE_HELP)
    multi_scale: bool = flag(False, "vary the image size by ±50 %% from batch to batch")
    single_cls: bool = flag(False, "train as if there were one class")
    optimizer: Literal["SGD", "Adam", "AdamW"] = flag("SGD", "optimizer")
    sync_bn: bool = flag(False, "synchronise batch norm over processes (CUDA with torchrun)")
    workers: int = flag(
        8, "data loading processes per training process (at most one a core)", rule=at_least(0)
    )
    project: str = flag("runs/train", "folder that holds the run folders")
    name: str = flag("exp", "name of the run folder", rule=not_empty)
    exist_ok: bool = flag(False, "write into an existing run folder")
    quad: bool = flag(False, "glue four images of a batch to one of twice the size")
    cos_lr: bool = flag(False, "cosine instead of linear decay of the learning rate")
    label_smoothing: float = flag(0.0, "label smoothing epsilon", rule=SHARE)
    patience: int = flag(
        100, "stop after this many epochs without improvement; 0 never stops", rule=at_least(0)
    )
    freeze: tuple[int, ...] = flag((0,), "freeze this many layers from the first, or these layers")
    save_period: int = flag(-1, "also keep a checkpoint every this many epochs")
    seed: int = flag(0, "seed of everything random", rule=SEED)
    local_rank: int = flag(-1, "set by torchrun, not by hand", "--local_rank")
    amp: Literal["auto", "off", "fp16", "bf16"] = flag(
        "auto", "mixed precision: auto is fp16 on CUDA, off elsewhere"
    )
    strict: bool = flag(False, "treat label faults as errors")
    verbose: bool = flag(False, "report by layer and tensor what was taken over from --weights")

    @property
    def initial_weights(self) -> str:
        """The file that the network begins with; empty when it begins from scratch."""
        return self.weights or self.teacher

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1 and self.batch_size != -1:
            raise ValueError(f"--batch-size must be at least 1, or -1, found {self.batch_size}")
        if self.iou:
            try:
                BoxLoss(self.iou)
            except ValueError as error:
                raise ValueError(f"--iou: {error}") from error
        if self.teacher_weight != 1 and not (self.teacher or self.resume):
            raise ValueError("--teacher-weight is of no use without --teacher")
        if self.study and self.evolve is None:
            raise ValueError("--study is of use with --evolve; benchmark.py train --study shares trainings")
        if self.study and self.resume_evolve:
            raise ValueError("--study remembers what was done; leave --resume_evolve out")
        if self.pause and self.evolve is not None:
            raise ValueError("--pause and --evolve exclude each other: generations are trained to their end")
        if self.pause and self.nosave:
            raise ValueError("--pause needs the last.pt of its last epoch; leave --nosave out")
        if self.image_weights and self.rect:
            raise ValueError(
                "--image-weights and --rect exclude each other: rectangular batches have a fixed order"
            )
