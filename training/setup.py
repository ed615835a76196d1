"""Putting a training run together: model, data and state, as the flags ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.weights import find_weights, transfer
from models.yolo import DetectionModel
from training.anchors import check_anchors
from training.autobatch import largest_batch
from training.config import TrainConfig
from training.ema import ModelEma
from training.optim import Schedule, build_optimizer
from training.state import TrainingState
from utils.checkpoints.files import inference_state, read_checkpoint
from utils.console import LOGGER
from utils.data.dataset import DetectionDataset
from utils.data.index import DatasetIndex, build_index
from utils.data.letterbox import rounded_size
from utils.data.loader import Loader
from utils.data.report import LabelReport
from utils.data.spec import DataSpec
from utils.device import amp_dtype
from utils.distributed import Process
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters

DEFAULT_CFG = "yolov5n.yaml"


@dataclass(frozen=True)
class TrainingData:
    """What is trained and validated on.

    Attributes:
        names: class index -> name, one class with `--single-cls`.
        index: the training images and their labels.
        val_loader: on the main process only.
        reports: label faults by split.
        batch_size: images a step over all processes.
        imgsz: a multiple of the model's stride.
    """

    names: dict[int, str]
    index: DatasetIndex
    loader: Loader
    val_loader: Loader | None
    reports: dict[str, LabelReport]
    batch_size: int
    imgsz: int

    def weights(self, maps: list[float]) -> NDArray[np.float64]:
        """(N,) probability of each training image with `--image-weights`, from the mAP of each class."""
        return image_weights(self.index.boxes[:, 0], self.index.offsets, np.array(maps))


def build_model(
    config: TrainConfig, hyp: Hyperparameters, spec: DataSpec, checkpoint: Mapping[str, Any] | None
) -> DetectionModel:
    """The model to train: of the resumed run, of `--cfg`, or of `--weights`, with weights taken over.

    Raises:
        UserError: the yaml or the weights are unusable, or `--freeze` names a layer that is not there.
    """
    names = spec.classes(config.single_cls)
    if checkpoint is not None:
        model = DetectionModel(checkpoint["yaml"], nc=len(names))
    else:
        source = read_checkpoint(find_weights(config.weights)) if config.weights else None
        cfg = config.cfg or (source["yaml"] if source else DEFAULT_CFG)
        anchors = None if hyp.anchors is None else round(hyp.anchors)
        model = DetectionModel(cfg, nc=len(names), anchors=anchors)
        if source is not None:
            # a yaml or hyper-parameters that were named bring their own anchors
            exclude = ("anchor",) if config.cfg or hyp.anchors else ()
            report = transfer(model, inference_state(source), exclude=exclude)
            LOGGER.info(f"{config.weights}: {report}")
            if config.verbose:
                LOGGER.info("\n".join((report.table(), *report.details())))
    model.names = names
    freeze_layers(model, config.freeze)
    return model


def freeze_layers(model: DetectionModel, layers: tuple[int, ...]) -> None:
    """Keep the weights of the first n layers as they are when one number n is given, else of those layers.

    Raises:
        UserError: a layer that the model does not have.
    """
    count = len(model.model)
    frozen = range(layers[0]) if len(layers) == 1 else layers
    if any(not 0 <= layer < count for layer in frozen):
        raise UserError(f"--freeze {' '.join(map(str, layers))}: the model has layers 0 to {count - 1}")
    for layer in frozen:
        model.model[layer].requires_grad_(False)
    if len(frozen):
        LOGGER.info(f"frozen layers: {', '.join(map(str, frozen))}")


def open_training_data(
    config: TrainConfig,
    hyp: Hyperparameters,
    spec: DataSpec,
    model: DetectionModel,
    process: Process,
    device: torch.device,
) -> TrainingData:
    """Scan the images and labels of the training and validation split and open their loaders.

    Raises:
        UserError: no usable images, label faults with `--strict`, or a batch that the processes cannot share.
    """
    stride = model.multiple
    imgsz = rounded_size(config.imgsz, stride)
    batch_size = config.batch_size
    if batch_size == -1 and process.world_size > 1:
        raise UserError("--batch-size -1 works in one process; with torchrun, give the total batch size")
    if batch_size == -1:
        batch_size = largest_batch(model, imgsz, device, amp_dtype(config.amp, device))
    if batch_size % process.world_size:
        raise UserError(f"--batch-size {batch_size} must be a multiple of the {process.world_size} processes")
    share = batch_size // process.world_size

    def open_split(split: str, batch_size: int, **more: Any) -> DetectionDataset:
        sources = getattr(spec, split)
        index = build_index(sources, spec.names, single_cls=config.single_cls, strict=config.strict)
        LOGGER.info(f"{split}: {index.report.summary()}")
        return DetectionDataset(
            index, imgsz, batch_size=batch_size, stride=stride, cache=config.cache, **more
        )

    train_set = open_split("train", share, hyp=hyp, augment=True, rect=config.rect, seed=config.seed)
    reports = {"train": train_set.index.report}
    loader = Loader(
        train_set,
        workers=config.workers,
        shuffle=True,
        seed=config.seed,
        rank=process.rank,
        world_size=process.world_size,
        quad=config.quad,
    )
    val_loader = None
    if process.is_main:
        val_set = open_split("val", share * 2, rect=True, pad=0.5)
        reports["val"] = val_set.index.report
        val_loader = Loader(val_set, workers=config.workers, shuffle=False)
    return TrainingData(
        spec.classes(config.single_cls), train_set.index, loader, val_loader, reports, batch_size, imgsz
    )


def build_state(
    config: TrainConfig,
    model: DetectionModel,
    data: TrainingData,
    schedule: Schedule,
    process: Process,
    device: torch.device,
    checkpoint: Mapping[str, Any] | None,
) -> TrainingState:
    """The state at the start of training, or as the checkpoint left it."""
    hyp = schedule.hyp
    if checkpoint is None and not config.noautoanchor:
        sizes = label_sizes(data.index, data.imgsz)
        LOGGER.info(str(check_anchors(model.head, sizes, hyp.anchor_t, data.imgsz)))
    scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(config.amp, device) is torch.float16)
    state = TrainingState(
        model=model,
        ema=ModelEma(model),
        optimizer=build_optimizer(model, config.optimizer, hyp, schedule.weight_decay),
        scaler=scaler,
        hyp=hyp,
        train_args=asdict(config),
        processes=process.world_size,
        loss_sum=torch.zeros(3, device=device),
        maps=[0.0] * model.nc,
    )
    if checkpoint is not None:
        state.restore(checkpoint)
        LOGGER.info(f"resuming at epoch {state.epoch}, batch {state.batch}")
    return state


def label_sizes(index: DatasetIndex, imgsz: int) -> NDArray[np.float32]:
    """(M, 2) widths and heights of all labels in pixels, on images whose long side is `imgsz`."""
    sides = index.shapes[:, ::-1] / index.shapes.max(axis=1, keepdims=True) * imgsz  # (N, 2) width, height
    return (index.boxes[:, 3:5] * sides.repeat(np.diff(index.offsets), axis=0)).astype(np.float32)


def image_weights(
    classes: NDArray[np.floating], offsets: NDArray[np.integer], maps: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Probability of each image: the sum over its labels of (rarity of the class) * (1 - mAP of the class)^2.

    Args:
        classes: (M,) class of each label.
        offsets: (N + 1,) the labels of image i are rows offsets[i]:offsets[i + 1].
        maps: (nc,) mAP50-95 of each class, 0 where unknown.

    Returns:
        (N,) probabilities; images without labels share the smallest weight of the others.
    """
    counts = np.bincount(classes.astype(np.int64), minlength=len(maps))
    class_weights = (1 - maps) ** 2 / np.maximum(counts, 1)
    running = np.concatenate([[0.0], np.cumsum(class_weights[classes.astype(np.int64)])])
    weights = running[offsets[1:]] - running[offsets[:-1]]
    positive = weights[weights > 0]
    weights = np.maximum(weights, positive.min() if len(positive) else 1.0)
    return weights / weights.sum()
