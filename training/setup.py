"""Putting a training run together: model, data and state, as the flags ask."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.insertion import inserted
from models.weights import find_weights
from models.yolo import DetectionModel
from training.anchors import check_anchors
from training.autobatch import largest_batch
from training.config import TrainConfig
from training.ema import ModelEma
from training.hyp_yaml import checked, load_hyperparameters
from training.inheritance import Inherited, take_over
from training.loggers.opening import Loggers, open_loggers
from training.optim import Schedule, build_optimizer
from training.run_folder import RunFolder
from training.state import TrainingState
from training.teacher import Teacher, Trained, load_teacher
from utils.checkpoints.files import read_checkpoint
from utils.console import LOGGER
from utils.data.dataset import DetectionDataset
from utils.data.index import DatasetIndex, build_index
from utils.data.letterbox import rounded_size
from utils.data.loader import Loader
from utils.data.spec import DataSpec
from utils.device import amp_dtype
from utils.distributed import Process, once_per_machine
from utils.errors import UserError
from utils.files import ROOT, find_file
from utils.hyperparameters import Hyperparameters

DEFAULT_CFG = "yolov5n.yaml"


def build_model(
    config: TrainConfig, hyp: Hyperparameters, spec: DataSpec, checkpoint: Mapping[str, Any] | None
) -> tuple[DetectionModel, Inherited | None]:
    """The model to train: of the resumed run, of `--cfg`, or of `--weights`, with weights taken over.

    Returns:
        The model, and the network whose weights it took over by structure, if it did.

    Raises:
        UserError: the yaml or the weights are unusable, or `--freeze` names a layer that is not there.
    """
    names, inherited = spec.classes(config.single_cls), None
    if checkpoint is not None:
        if (before := checkpoint["names"]) != names:
            has, had = (f"{len(n)} classes, {reprlib.repr([*n.values()])}" for n in (names, before))
            raise UserError(
                f"--resume: {config.data} has {has}; the run was started with {had}; take that list back, or "
                "start a new run with --weights"
            )
        model = DetectionModel(checkpoint["yaml"], nc=len(names))
    else:
        weights = config.initial_weights
        source = read_checkpoint(find_weights(weights)) if weights else None
        cfg = config.cfg or (source["yaml"] if source else DEFAULT_CFG)
        anchors = None if hyp.anchors is None else round(hyp.anchors)
        if config.insert:
            cfg = inserted(cfg, config.insert)
        model = DetectionModel(cfg, nc=len(names), anchors=anchors)
        if source is not None:
            # a yaml or hyper-parameters that were named bring their own anchors
            exclude = ("anchor",) if config.cfg or hyp.anchors else ()
            report, inherited = take_over(model, weights, source, exclude)
            origin = inherited.source.origin if inherited else ""
            LOGGER.info("; ".join(filter(None, (f"{weights}: {report}", origin))))
            for line in report.warnings():
                LOGGER.warning(f"{weights}: {line}")
            if config.verbose:
                LOGGER.info("\n".join((report.table(), *report.details())))
    model.names = names
    freeze_layers(model, config.freeze)
    return model, inherited


def open_teacher(config: TrainConfig, model: DetectionModel, run: RunFolder | None) -> Trained | None:
    """The detector of `--teacher` for one that trains; of a run that is resumed, the one that it kept.

    Raises:
        UserError: it is unusable, or cannot see what `model` sees.
    """
    if not config.teacher:
        return None
    path = find_weights(config.teacher) if run is None else run.teacher
    if run is not None and not path.is_file():
        raise UserError(f"{path} is missing, the teacher of this run; put it back, or start a new run")
    with torch.random.fork_rng(devices=[]):  # its initial weights are no part of this run
        return load_teacher(path, model)


def build_teacher(
    config: TrainConfig, hyp: Hyperparameters, trained: Trained, model: DetectionModel
) -> Teacher:
    """What there is to learn from it for a model that has its final anchors.

    Raises:
        UserError: nothing.
    """
    teacher = Teacher(
        trained,
        model,
        weight=config.teacher_weight,
        any_class=config.single_cls,
        anchor_t=hyp.anchor_t,
    )
    LOGGER.info(f"{trained.path} teaches {teacher}")
    if not (config.cfg or config.weights):
        LOGGER.info(
            "the network that trains is the teacher's own; --cfg names another, such as a lighter one"
        )
    return teacher


def freeze_layers(model: DetectionModel, layers: tuple[int, ...]) -> None:
    """Keep the weights of the first n layers as they are when one number n is given, else of those layers.

    Raises:
        UserError: a layer that the model does not have, or nothing is left to train.
    """
    count = len(model.model)
    frozen = range(layers[0]) if len(layers) == 1 else layers
    if any(not 0 <= layer < count for layer in frozen):
        raise UserError(f"--freeze {' '.join(map(str, layers))}: the model has layers 0 to {count - 1}")
    for layer in frozen:
        model.model[layer].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            f"--freeze {' '.join(map(str, layers))} leaves nothing to train; 0 to {count - 2} may be frozen"
        )
    if len(frozen):
        LOGGER.info(f"frozen layers: {', '.join(map(str, frozen))}")


def total_batch_size(
    config: TrainConfig,
    model: DetectionModel,
    process: Process,
    device: torch.device,
    trained: Trained | None = None,
) -> int:
    """Images a step over all processes; with `--batch-size -1` as many as the device holds.

    Args:
        trained: a teacher that runs beside the model.

    Raises:
        UserError: a batch that the processes cannot share.
    """
    if config.batch_size == -1:
        if process.world_size > 1:
            raise UserError("--batch-size -1 works in one process; with torchrun, give the total batch size")
        imgsz = rounded_size(config.imgsz, model.multiple)
        teacher = None if trained is None else trained.model
        return largest_batch(model, imgsz, device, amp_dtype(config.amp, device), teacher=teacher)
    if config.batch_size % process.world_size:
        raise UserError(
            f"--batch-size {config.batch_size} must be a multiple of the {process.world_size} processes"
        )
    return config.batch_size


def open_training_data(
    config: TrainConfig, hyp: Hyperparameters, spec: DataSpec, model: DetectionModel, process: Process
) -> tuple[Loader, Loader | None]:
    """Scan the images and labels of the training and validation split and open their loaders.

    Returns:
        The loader of the training split, and on the main process that of the validation split.

    Raises:
        UserError: no usable images, a split without usable labels, or label faults with `--strict`.
    """
    share = config.batch_size // process.world_size

    def open_split(split: str, batch_size: int, **more: Any) -> DetectionDataset:
        sources = getattr(spec, split)
        index = build_index(sources, spec.names, single_cls=config.single_cls, strict=config.strict)
        LOGGER.info(f"{split}: {index.report.summary()}")
        index.report.check_usable(split)
        if process.world_size > 1:
            index.share()  # before it goes to the other processes of this machine
        stride, cache = model.multiple, config.cache
        more |= {"batch_size": batch_size, "stride": stride, "cache": cache, "channels": model.channels}
        return DetectionDataset(index, rounded_size(config.imgsz, stride), **more)

    train_set = once_per_machine(
        lambda: open_split("train", share, hyp=hyp, augment=True, rect=config.rect, seed=config.seed), process
    )
    loader = Loader(
        train_set,
        workers=config.workers,
        shuffle=True,
        seed=config.seed,
        rank=process.rank,
        world_size=process.world_size,
        quad=config.quad,
    )
    if not process.is_main:
        return loader, None
    val_set = open_split("val", share * 2, rect=True, pad=0.5)
    return loader, Loader(val_set, workers=config.workers, shuffle=False)


def build_state(
    config: TrainConfig,
    model: DetectionModel,
    loader: Loader,
    schedule: Schedule,
    process: Process,
    device: torch.device,
    checkpoint: Mapping[str, Any] | None,
) -> TrainingState:
    """The state at the start of training, or as the checkpoint left it."""
    hyp = schedule.hyp
    if checkpoint is None and not config.noautoanchor:
        imgsz = loader.dataset.size
        sizes = label_sizes(loader.dataset.index, imgsz)
        LOGGER.info(str(check_anchors(model.head, sizes, hyp.anchor_t, imgsz)))
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(config.amp, device) is torch.float16)
    state = TrainingState(
        model=model,
        ema=ModelEma(model),
        optimizer=build_optimizer(model, config.optimizer, hyp, schedule.weight_decay),
        scaler=scaler,
        hyp=hyp,
        train_args=asdict(config),
        processes=process.world_size,
        loss_sum=torch.zeros(4 if config.teacher else 3, device=device),
        maps=[0.0] * model.nc,
    )
    if checkpoint is not None:
        state.restore(checkpoint)
        place = f"resuming at epoch {state.epoch}, batch {state.batch}"
        finished = "the run is finished, nothing is left to train; its best weights are validated again"
        LOGGER.info(finished if state.finished else place)
    return state


def begin_logging(
    config: TrainConfig, hyp: Hyperparameters, process: Process, run: RunFolder, epoch: int | None
) -> Loggers:
    """The services of `--loggers`, which the main process tells of the run.

    Args:
        epoch: with which a run goes on; None for a new one, whose settings are told.

    Raises:
        UserError: a service refuses a new run.
    """
    if not process.is_main:
        return Loggers()
    loggers = open_loggers(config.loggers, run.root, Path(config.project), epoch)
    if epoch is None:
        hyps = {f"hyp.{name}": value for name, value in asdict(hyp).items()}
        loggers.settings({**asdict(config), **hyps})
    return loggers


def label_sizes(index: DatasetIndex, imgsz: int) -> NDArray[np.float32]:
    """(M, 2) widths and heights of all labels in pixels, on images whose long side is `imgsz`."""
    sides = index.shapes[:, ::-1] / index.shapes.max(axis=1, keepdims=True) * imgsz  # (N, 2) width, height
    return (index.boxes[:, 3:5] * sides.repeat(np.diff(index.offsets), axis=0)).astype(np.float32)


def class_counts(index: DatasetIndex, nc: int) -> Tensor:
    """(nc,) labels of each class, float64."""
    return torch.from_numpy(np.bincount(index.boxes[:, 0].astype(np.int64), minlength=nc)).double()


def image_weights(index: DatasetIndex, maps: Sequence[float]) -> NDArray[np.float64]:
    """Probability of each image: the sum over its labels of (rarity of the class) * (1 - mAP of the class)^2.

    Args:
        maps: mAP50-95 of each class, 0 where unknown.

    Returns:
        (N,) probabilities; images without labels share the smallest weight of the others.
    """
    classes = index.boxes[:, 0].astype(np.int64)
    counts = np.bincount(classes, minlength=len(maps))
    class_weights = (1 - np.array(maps)) ** 2 / np.maximum(counts, 1)
    running = np.concatenate([[0.0], np.cumsum(class_weights[classes])])
    weights = running[index.offsets[1:]] - running[index.offsets[:-1]]
    positive = weights[weights > 0]
    weights = np.maximum(weights, positive.min() if len(positive) else 1.0)
    return weights / weights.sum()


def hyperparameters(config: TrainConfig) -> Hyperparameters:
    """The hyper-parameters that the flags ask for."""
    hyp = load_hyperparameters(find_file(config.hyp, (ROOT, ROOT / "data" / "hyps"), ("", ".yaml")))
    return replace(
        hyp,
        label_smoothing=config.label_smoothing or hyp.label_smoothing,
        iou=checked("--iou", "iou", config.iou) if config.iou else hyp.iou,
    )
