"""How much a student has kept: measured on pictures held out, or with labels where there are some."""

from __future__ import annotations

import reprlib
from pathlib import Path

import numpy as np
import torch

from models.weights import load_model
from models.yolo import DetectionModel
from training.lightening.config import LightenConfig
from utils.boxes import xyxy_to_xywh
from utils.console import LOGGER, warn
from utils.data.dataset import DetectionDataset
from utils.data.index import DatasetIndex, build_index
from utils.data.letterbox import rounded_size
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.device import select_device
from utils.errors import UserError
from utils.evaluation.evaluate import EvaluationOptions, ImageResult, evaluate

FEW_BOXES = 50
CONFIDENT = EvaluationOptions(conf_thres=0.25, iou_thres=0.45)  # as detect.py


def agreement(model: DetectionModel, held: Loader, device: torch.device) -> list[float]:
    """Precision, recall, mAP50 and mAP50-95 against the teacher's confident boxes."""
    return evaluate(model.eval(), held, device, model.names).summary()


def as_seen_by(
    teacher: DetectionModel, index: DatasetIndex, imgsz: int, batch_size: int, workers: int
) -> DatasetIndex:
    """The same pictures with the teacher's confident boxes as labels.

    Raises:
        UserError: it sees nothing on any of them.
    """
    seen: dict[str, np.ndarray] = {}

    def note(result: ImageResult) -> None:
        height, width = result.shape
        found = result.detections.numpy()
        boxes = xyxy_to_xywh(torch.from_numpy(found[:, :4].clip(0, [width, height, width, height])))
        normalised = boxes.numpy() / np.array([width, height, width, height], np.float32)
        seen[result.path] = np.concatenate((found[:, 5:6], normalised), axis=1).astype(np.float32)

    loader = held_loader(teacher, index, imgsz, batch_size, workers)
    device = teacher.stride.device
    evaluate(teacher.eval(), loader, device, teacher.names, CONFIDENT, on_image=note)
    gone = next((path for path in index.paths() if path not in seen), None)
    if gone is not None:
        raise UserError(f"{gone}: cannot be read any more; put it back, or take it out and start anew")
    rows = [seen[path] for path in index.paths()]
    empty = sum(not len(boxes) for boxes in rows)
    if empty == len(rows):
        known = reprlib.repr([*teacher.names.values()])
        raise UserError(
            f"the teacher sees nothing on the {len(rows)} pictures held out, at {imgsz} px and confidence "
            f"{CONFIDENT.conf_thres}; --source must show what it knows: {known}; "
            "or it has not learnt enough, which val.py tells"
        )
    if empty > len(rows) / 2:
        warn(f"the teacher sees nothing on {empty} of the {len(rows)} pictures held out")
    boxes = sum(map(len, rows))
    LOGGER.info(f"held out: {len(rows)} pictures with {boxes} confident boxes of the teacher")
    if boxes < FEW_BOXES:
        warn(f"{boxes} boxes are few to measure by; agreement will be rough")
    return index.with_boxes(rows)


def held_loader(
    model: DetectionModel, index: DatasetIndex, imgsz: int, batch_size: int, workers: int
) -> Loader:
    """Validation batches of pictures for a network, each once."""
    dataset = DetectionDataset(
        index,
        imgsz,
        rect=True,
        pad=0.5,
        batch_size=batch_size,
        stride=model.multiple,
        channels=model.channels,
    )
    return Loader(dataset, workers=workers, shuffle=False)


def check_classes(config: LightenConfig, teacher: DetectionModel) -> None:
    """Compare the teacher's classes with those of --data, before all the learning.

    Raises:
        UserError: there are more or fewer.
    """
    if not config.data:
        return
    spec = load_data_spec(config.data, needed=("val",))
    if teacher.nc != spec.nc:
        raise UserError(f"the teacher knows {teacher.nc} classes and {config.data} has {spec.nc}")
    if teacher.names != spec.names:
        known, has = (reprlib.repr([*names.values()]) for names in (teacher.names, spec.names))
        warn(f"{config.data} names its classes {has}, the teacher {known}: they are compared by number")


def true_map(config: LightenConfig, path: Path) -> float:
    """mAP50-95 of a checkpoint on the validation split of --data, at the run's size."""
    spec, device = load_data_spec(config.data, needed=("val",)), select_device(config.device)
    model = load_model(path, device)
    if model.nc != spec.nc:
        raise UserError(f"the weights know {model.nc} classes and {config.data} has {spec.nc}")
    imgsz = rounded_size(config.imgsz or 640, model.multiple)
    index = build_index(spec.val, spec.names)
    loader = held_loader(model, index, imgsz, config.batch_size, config.workers)
    return evaluate(model, loader, device, spec.names).summary()[3]
