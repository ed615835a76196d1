"""Measure how good a detector is.

python val.py                                            # the newest best.pt on the embedded digits
python val.py --weights yolov5n.pt --data coco.yaml --imgsz 640
python val.py --weights best.pt --data coco128.yaml --task study
torchrun --nproc_per_node 2 val.py --weights best.pt --data coco.yaml
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from utils.interrupt import quiet_until_watched

if __name__ == "__main__":
    quiet_until_watched()
    # Before torch starts OpenMP: threads that wait without spinning leave the cores to decoding and matching.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor

from models.runtimes.base import Backend
from models.runtimes.config import InferenceConfig
from utils.console import LOGGER, setup_console, warn
from utils.data.dataset import DetectionDataset
from utils.data.index import build_index
from utils.data.letterbox import rounded_size
from utils.data.loader import Loader
from utils.data.spec import DataSpec, load_data_spec
from utils.distributed import (
    Process,
    broadcast,
    join_group,
    leave_group,
    main_first,
    noticing_losses,
    once_per_machine,
    this_process,
)
from utils.errors import Incomplete, UserError, run_command
from utils.evaluation.coco import CocoJson
from utils.evaluation.evaluate import Evaluation, EvaluationOptions, ImageResult, evaluate
from utils.evaluation.metrics import SUMMARY
from utils.evaluation.report import LabelFiles, plot_study, report_validation
from utils.files import increment_path
from utils.flags import DATA_HELP, IMGSZ, SHARE, SIDE, at_least, flag, parse_flags
from utils.plots.pictures import RunPictures

SQUARES = (
    "pictures are padded to one shape, as this file is run; PyTorch and files of export.py --dynamic are "
    "measured on rectangles, where mAP differs a little (docs/export.md, Accuracy)"
)
STUDY_SIZES = range(256, 1537, 128)


@dataclass(frozen=True)
class ValConfig(InferenceConfig):
    """Flags of val.py."""

    topics = {
        "what is measured": ("weights", "data", "task", "imgsz", "batch_size", "single_cls", "strict"),
        "what counts as found": ("conf_thres", "iou_thres", "max_det", "augment"),
        "what runs the network": ("device", "runtime", "half", "dnn", "threads", "workers"),
        "what is saved": (
            "save_txt", "save_conf", "save_hybrid", "save_json", "noplots", "verbose",
            "project", "name", "exist_ok",
        ),
    }  # fmt: skip

    data: str = flag("data/digits.yaml", DATA_HELP)
    batch_size: int = flag(32, "batch size", rule=at_least(1))
    imgsz: int = flag(640, "image size in pixels", *IMGSZ, rule=SIDE)
    conf_thres: float = flag(0.001, "confidence threshold", rule=SHARE)
    iou_thres: float = flag(0.6, "IoU threshold of non-maximum suppression", rule=SHARE)
    max_det: int = flag(300, "most detections an image", rule=at_least(1))
    task: Literal["train", "val", "test", "speed", "study"] = flag(
        "val", "split to validate on, or speed, or study (accuracy against image size)"
    )
    workers: int = flag(8, "data loading threads (at most one a core)", rule=at_least(0))
    single_cls: bool = flag(False, "treat all classes as one")
    verbose: bool = flag(False, "print every class whatever their number")
    save_hybrid: bool = flag(False, "save labels merged with detections")
    save_json: bool = flag(False, "save detections in COCO's json format")
    project: str = flag("runs/val", "folder that holds the run folders")
    noplots: bool = flag(False, "draw nothing")
    strict: bool = flag(False, "treat label faults as errors")


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_flags(ValConfig, argv, about=__doc__)
    process = this_process()
    setup_console(process.is_main)
    device = config.place(process)
    join_group(process, device)
    try:
        with noticing_losses("start again"):
            spec = main_first(lambda: load_data_spec(config.data, needed=(split_of(config),)), process)
            with contextlib.closing(config.open_weights(device, config.data)) as backend:
                LOGGER.info(backend.origin)
                run(config, backend, spec, process)
            leave_group(together=True)
    finally:
        leave_group()


def run(config: ValConfig, backend: Backend, spec: DataSpec, process: Process) -> None:
    """Validate, or study, a network; several processes share the images, and the main one writes."""
    check_classes(config, backend, spec)
    place = Path(config.project) / config.name
    folder = broadcast(increment_path(place, config.exist_ok) if process.is_main else place)
    if config.task == "study":
        study(config, backend, spec, folder, process)
        return
    if config.task == "speed":
        config = dataclasses.replace(config, conf_thres=0.25, iou_thres=0.45, noplots=True)
    loader = open_loader(config, backend, spec, folder, process)
    result = validate(config, backend, spec, folder, loader, process)
    if backend.dtype == torch.bfloat16 and config.task != "speed":
        LOGGER.info(price_of_half(config, backend, spec, folder, result, process))
    if process.is_main:
        conclude(config, backend, loader, result, folder)


def price_of_half(
    config: ValConfig, backend: Backend, spec: DataSpec, folder: Path, half: Evaluation, process: Process
) -> str:
    """What bf16 costs in accuracy: the same network in single precision on the same images."""
    single = dataclasses.replace(config, half=False)
    with contextlib.closing(single.open_weights(backend.device, config.data)) as other:
        loader = open_loader(single, other, spec, folder, process)
        infer = partial(other, augment=config.augment)
        found = evaluate(infer, loader, other.device, spec.classes(config.single_cls), options_of(config))
    differences = (f"{name} {a - b:+.4f}" for name, a, b in zip(SUMMARY, half.summary(), found.summary()))
    return f"bf16 compared with single precision: {', '.join(differences)}"


def conclude(
    config: ValConfig, backend: Backend, loader: Loader, result: Evaluation, folder: Path, sizes: str = ""
) -> None:
    """Say what was measured, and on how much of what was given; `sizes` are those of a study.

    Raises:
        Incomplete: images could not be used.
    """
    report, pixels = loader.dataset.index.report, sizes or loader.dataset.size
    data = f"{report.count(result.unreadable)} of {split_of(config)} in {config.data}"
    LOGGER.info(f"{data} at {pixels} px with {backend.title}; results in {folder}")
    if missing := report.shortfall(result.unreadable):
        raise Incomplete(f"{missing}; the results are those of the others")


def split_of(config: ValConfig) -> str:
    """The split that a task validates on."""
    return config.task if config.task in ("train", "test") else "val"


def check_classes(config: ValConfig, backend: Backend, spec: DataSpec) -> None:
    """Raise a UserError when weights and data cannot mean the same classes."""
    if len(backend.names) != spec.nc and not config.single_cls:
        raise UserError(
            f"the weights know {len(backend.names)} classes and {config.data} has {spec.nc}; "
            "use the data that they were trained for, or --single-cls"
        )


def validate(
    config: ValConfig, backend: Backend, spec: DataSpec, folder: Path, loader: Loader, process: Process
) -> Evaluation:
    """Validate on the images of `open_loader` and write what the flags ask for into `folder`."""
    names = spec.classes(config.single_cls)
    if not process.is_main:  # the main process writes
        config = dataclasses.replace(config, save_txt=False, save_json=False, noplots=True)
    if config.save_hybrid:
        warn(
            "--save-hybrid counts the labels among the detections: P, R and mAP say nothing about the weights"
        )
    labels = None
    if process.is_main and (config.save_txt or config.save_hybrid):
        labels = LabelFiles(folder / "labels", loader.dataset.index.paths(), config.save_conf)
    coco = CocoJson(spec.names) if config.save_json else None

    def on_image(result: ImageResult) -> None:
        if labels is not None:
            labels.write(result)
        if coco is not None:
            coco.add(result)

    def infer(images: Tensor) -> Tensor:
        predictions: Tensor = backend(images, augment=config.augment)
        if predictions.shape[2] - 5 != len(backend.names):  # which may have come from --data
            raise UserError(
                f"the weights give {predictions.shape[2] - 5} classes, and {len(backend.names)} have names; "
                "use the data that they were trained for"
            )
        return predictions

    with RunPictures(folder, names, enabled=not config.noplots) as pictures:
        result = evaluate(
            infer,
            loader,
            backend.device,
            names,
            options_of(config),
            at_once=backend.batch,
            on_image=on_image,
            on_batch=pictures.validation_batch,
        )
        if process.is_main:
            report_validation(result, folder, plots=not config.noplots, verbose=config.verbose)
    if labels is not None:
        LOGGER.info(f"{result.report['images']} label files in {folder / 'labels'}")
    if coco is not None:
        coco.write(folder)
        LOGGER.info(coco.check(folder))
    return result


def options_of(config: ValConfig) -> EvaluationOptions:
    """How detections are made and compared, as the flags say."""
    return EvaluationOptions(
        conf_thres=config.conf_thres,
        iou_thres=config.iou_thres,
        max_det=config.max_det,
        single_cls=config.single_cls,
        save_hybrid=config.save_hybrid,
    )


def open_loader(
    config: ValConfig, backend: Backend, spec: DataSpec, folder: Path, process: Process
) -> Loader:
    """The process's images of the split, in rectangular batches where the runtime takes any shape."""
    split = split_of(config)
    config.tell_size(backend, (config.imgsz, config.imgsz))
    sources, single = getattr(spec, split), config.single_cls
    index = once_per_machine(
        lambda: build_index(sources, spec.names, single_cls=single, strict=config.strict), process
    )
    LOGGER.info(f"{split}: {index.report.summary()}")
    if index.report.nothing_to_learn:
        warn(f"no labels to use in {split}, so P, R and mAP mean nothing: {index.report.nothing_to_learn}")
    if process.is_main:
        index.report.write_report(folder)
    if not backend.any_shape:
        LOGGER.info(SQUARES)
    dataset = DetectionDataset(
        index,
        image_size(config, backend),
        rect=backend.any_shape,
        batch_size=config.batch_size,
        stride=backend.stride,
        channels=backend.channels,
        pad=0.5 if backend.any_shape else 0.0,
    )
    return Loader(
        dataset,
        workers=config.workers,
        shuffle=False,
        rank=process.rank,
        world_size=process.world_size,
    )


def image_size(config: ValConfig, backend: Backend) -> int:
    """`--imgsz` as a multiple of the stride, or the one size that an exported file takes."""
    if backend.shape is None:
        return rounded_size(config.imgsz, backend.stride)
    if backend.shape[0] != backend.shape[1]:
        raise UserError(f"the weights take {backend.shape} pixels only; validation needs a square")
    return backend.shape[0]


def study(config: ValConfig, backend: Backend, spec: DataSpec, folder: Path, process: Process) -> None:
    """Accuracy and speed over image sizes: `study.csv` and `study.png`."""
    rows = []
    if backend.shape:
        raise UserError(f"--task study needs weights that take any size; these take {backend.shape} only")
    for size in STUDY_SIZES:
        at_size = dataclasses.replace(config, imgsz=size, iou_thres=0.7, noplots=True)
        loader = open_loader(at_size, backend, spec, folder, process)
        result = validate(at_size, backend, spec, folder, loader, process)
        rows.append([size, *result.summary(), *result.report["speed_ms_per_image"].values()])
    if not process.is_main:
        return
    plot_study(np.array(rows), folder)
    sizes = f"{len(rows)} sizes from {STUDY_SIZES[0]} to {STUDY_SIZES[-1]}"
    conclude(config, backend, loader, result, folder, sizes)


if __name__ == "__main__":
    run_command(main)
