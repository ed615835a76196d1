"""A lightening run before its first step: teacher, student, pictures, and the plan."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from models.cfg import load_cfg, validate_cfg
from models.insertion import inserted, written
from models.summary import layer_costs, summary_line
from models.transfer import TransferReport, inherit, with_batch_norms
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from training.engine import NonFiniteLoss
from training.lightening.beginning import begin, fit, settle_steps
from training.lightening.config import LightenConfig
from training.lightening.course import RECIPE, Course, average_of, build_optimizer, plan
from training.lightening.material import (
    Material,
    check_pictures,
    files_of,
    kept_list,
    open_loader,
    open_material,
    settled,
    side_of,
)
from training.lightening.measure import check_classes, held_loader
from training.lightening.pair import Pair
from training.lightening.pictures import Pictures, write_list
from training.run_folder import RunFolder, write_results
from training.state import TrainingState
from training.teacher import save_teacher
from utils.console import LOGGER, warn
from utils.counting.measure import count_parameters
from utils.data.augment.window import whole_count
from utils.data.loader import Loader
from utils.device import amp_dtype, memory_format, select_device
from utils.distributed import Process, broadcast, share_statistics
from utils.errors import UserError
from utils.files import write_text
from utils.hyperparameters import Hyperparameters

LITTLE = 0.05  # of the parameters
FAINT = 0.1  # of what a student can agree at most

COLUMNS = (
    "part", "step", "stage_error", "output_error", "loss", "agreement/precision", "agreement/recall",
    "agreement/mAP_0.5", "agreement/mAP_0.5:0.95", "lr",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Lightening:
    """A run that is set up.

    Attributes:
        held: on the main process only, which measures and writes.
    """

    config: LightenConfig
    process: Process
    run: RunFolder
    course: Course
    held: Loader | None
    pictures: Pictures
    teacher: Path

    @property
    def state(self) -> TrainingState:
        return self.course.state

    @property
    def agreed(self) -> float:
        """Agreement of the best weights: of a part's, or of what the fit made when no part was better."""
        best, shares = self.state.best.epoch, self.state.lightened["agreement"]
        return float(shares["fitted"] if best < 0 else self.state.results[best][8])

    @property
    def best_after(self) -> str:
        """After what the weights were best."""
        best = self.state.best.epoch
        if best < 0:
            return "after the fit"
        done = sum(b - a for a, b in (part.steps for part in self.course.parts[: best + 1]))
        return f"after {done} of {self.state.lightened['steps']} steps"

    def save(self, complete: bool) -> None:
        """Write what a resume needs, the results so far, and the best weights when this part made them.

        Raises:
            NonFiniteLoss: the weights are not finite; the files of the part before stay as they are.
        """
        state, run = self.state, self.run
        if not state.is_finite():
            raise NonFiniteLoss(
                "a weight became non-finite, or too large for half precision; the last finite checkpoint is "
                f"{run.last}"
            )
        if complete and state.best.epoch == state.epoch - 1:
            state.save_weights(run.best)
        state.save(run.last)
        write_results(run.results, state.results, COLUMNS)


def set_up(
    config: LightenConfig,
    hyp: Hyperparameters,
    process: Process,
    run: RunFolder | None,
    checkpoint: Mapping[str, Any] | None,
    material: Material | None = None,
) -> Lightening:
    """Teacher, student, pictures and state, new or as the checkpoint left them.

    Args:
        material: when it is known already.

    A run that is refused leaves no folder behind.
    """
    made: list[RunFolder] = []

    def folder() -> RunFolder:
        if not made:
            made.append(run or RunFolder.create(config.project, config.name, config.exist_ok, process.job))
        return made[0]

    try:
        return _set_up(config, hyp, process, run, checkpoint, folder, material)
    except BaseException:
        if made and run is None and not config.exist_ok and not made[0].last.is_file():
            shutil.rmtree(made[0].root, ignore_errors=True)
        raise


def _set_up(
    config: LightenConfig,
    hyp: Hyperparameters,
    process: Process,
    run: RunFolder | None,
    checkpoint: Mapping[str, Any] | None,
    folder: Callable[[], RunFolder],
    material: Material | None,
) -> Lightening:
    device = select_device(config.device, process.local_rank, process.world_size)
    path = run.teacher if run else find_weights(config.weights)
    teacher = with_batch_norms(load_model(path, device)).to(memory_format=memory_format(device))
    if teacher.origin and material is None:
        LOGGER.info(f"teacher {path}: {teacher.origin}")
    if checkpoint is None:
        config = settled(config, path, device)
    check_classes(config, teacher)
    alone = material is None  # it is no fit of a search, which says for all what is the same
    files = files_of(config, run, folder) if process.is_main and alone else []
    pair = build_pair(config, teacher, path, checkpoint, process)
    if material is None:
        ceiling = 0.0 if checkpoint else None  # a run that goes on has noted it
        material = open_material(config, teacher, broadcast(files), ceiling, process)
    held = None
    if material.seen is not None:
        imgsz = side_of(config, teacher)
        held = held_loader(teacher, material.seen, imgsz, config.batch_size, config.workers)
    course = build_course(config, hyp, process, material.pictures, pair)
    state = course.state
    if checkpoint is not None and run is not None:
        state.restore(checkpoint)
        check_pictures(material.pictures, state.lightened["fingerprint"], run)
        done = f"resuming in part {state.epoch + 1}, after {state.batch} steps of it"
        LOGGER.info("the run is finished, nothing is left to learn" if state.finished else done)
        if not state.finished and state.lightened.get("recipe") != RECIPE:
            LOGGER.info("this run was begun by an earlier recipe; the rest of it follows the present one")
        if not (state.finished or state.optimizer.param_groups[0]["muon"]):
            LOGGER.info("this run was begun with AdamW and goes on with it; new runs learn faster, by Muon")
    else:
        begin(config, course, held, material, path)
        fit(config, hyp, course, held, process, material.pictures)
        settle_steps(config, course, process)
    state.lightened = broadcast(state.lightened)
    run = broadcast(folder() if process.is_main else None) or folder()
    lightening = Lightening(config, process, run, course, held, material.pictures, path)
    course.parts = plan(state.lightened["steps"], stages=course.has_stages, measures=config.measures)
    if checkpoint is None and process.is_main:
        announce(lightening, costs=alone)
        lightening.save(complete=True)  # what the fit made is the best, until a part is better
    return lightening


def build_pair(
    config: LightenConfig,
    teacher: DetectionModel,
    path: Path,
    checkpoint: Mapping[str, Any] | None,
    process: Process,
) -> Pair:
    """Teacher and student, on the teacher's device; of a new run it is said what the student begins with.

    Args:
        path: of the teacher's file.

    Raises:
        UserError: the student is the teacher's own network, or cannot stand for it.
    """
    device = teacher.stride.device
    student, report = build_student(config, teacher, checkpoint)
    student = student.to(device).to(memory_format=memory_format(device))
    pair = Pair(student, teacher, report)
    if process.world_size > 1:
        share_statistics(
            student
        )  # of BatchNorms that are of another kind from then on: the two are compared before
    if not pair.new:
        raise UserError(
            f"{config.student} is the teacher's own network; name a lighter one with --cfg or --width"
        )
    if checkpoint is None:
        tell_what_it_begins_with(config, pair, report, path)
    return pair


def build_course(
    config: LightenConfig, hyp: Hyperparameters, process: Process, pictures: Pictures, pair: Pair
) -> Course:
    """The student at the beginning of its way; the plan is still missing."""
    device = pair.teacher.stride.device
    dtype = amp_dtype(config.amp, device)
    state = TrainingState(
        model=pair.student,
        ema=average_of(pair),
        optimizer=build_optimizer(pair),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),
        hyp=hyp,
        train_args=dataclasses.asdict(config),
        loss_sum=torch.zeros(3, device=device),
        processes=process.world_size,
        aside=pair.adapters,
    )
    return Course(pair, open_loader(config, hyp, process, pictures, pair.teacher), state, [], device, dtype)


def tell_what_it_begins_with(config: LightenConfig, pair: Pair, report: TransferReport, path: Path) -> None:
    """Say what the student has of the teacher, and when that is next to nothing, or it is no lighter."""
    share = f"{report.share:.1%} of its {report.total.all_parameters:,} parameters"
    LOGGER.info(f"{config.student} begins with {share} from {path}")
    if config.verbose:
        LOGGER.info("\n".join((report.table(), *report.details())))
    for line in report.warnings():
        warn(line)
    own, its = count_parameters(pair.student), count_parameters(pair.teacher)
    if own >= its:
        warn(f"{config.student} is not lighter: {own:,} parameters, the teacher has {its:,}")
    if report.share < LITTLE:
        warn(
            f"{config.student} can hold next to nothing of the teacher's weights (other widths?): it begins "
            "from scratch, and needs far more time and pictures"
        )


def build_student(
    config: LightenConfig, teacher: DetectionModel, checkpoint: Mapping[str, Any] | None = None
) -> tuple[DetectionModel, TransferReport]:
    """The lighter network with what it can hold of the teacher.

    Args:
        checkpoint: of a run that goes on, which has the yaml as it was.

    Raises:
        UserError: its yaml is faulty, or it cannot stand for the teacher.
    """
    cfg = checkpoint["yaml"] if checkpoint else description(config, teacher)
    student = DetectionModel(cfg, ch=teacher.yaml["ch"], nc=teacher.nc)
    student.names = teacher.names
    if student.channels != teacher.channels:
        raise UserError(
            f"{config.student} takes pictures of {student.channels} channels, the teacher of "
            f"{teacher.channels}"
        )
    if student.head.anchors.shape != teacher.head.anchors.shape:
        raise UserError(f"{config.student}: its head has other levels or anchors than the teacher's")
    report = inherit(student, teacher, exclude=())
    student.yaml["anchors"] = teacher.yaml["anchors"]
    return student, report


def description(config: LightenConfig, teacher: DetectionModel) -> str | dict[str, Any]:
    """The yaml of the student, by name, or its content where that is not as in the file."""
    if config.width == 1 and not config.insert:
        return config.cfg
    content = load_cfg(config.cfg) if config.cfg else teacher.yaml
    validate_cfg(content, config.cfg)
    if config.insert:
        content = inserted(content, config.insert)
    return content | {"width_multiple": content["width_multiple"] * config.width}


def announce(lightening: Lightening, *, costs: bool) -> None:
    """Write and say what the run starts with; `costs`: of both networks, too."""
    config, course, run = lightening.config, lightening.course, lightening.run
    pair, imgsz = course.pair, course.loader.dataset.size
    save_teacher(lightening.teacher, run.teacher)
    write_list(kept_list(run), lightening.pictures)
    run.write_yaml("opt.yaml", dataclasses.asdict(config))
    run.write_yaml("hyp.yaml", dataclasses.asdict(lightening.state.hyp))
    if config.insert:
        write_text(run.model, written(pair.student.yaml))
    for name, model in (("teacher", pair.teacher), ("student", pair.student)) if costs else ():
        layers = layer_costs(model.model, model.layers, model.yaml["ch"], imgsz)
        LOGGER.info(f"{name}: {summary_line(model, layers, model.yaml['ch'], imgsz)}")
    known, batch = lightening.state.lightened, min(config.batch_size, len(course.loader.dataset))
    how = "" if course.dtype is None else f" in {str(course.dtype).removeprefix('torch.')}"
    window, mine = course.loader.dataset.window, batch // lightening.process.world_size
    some = "two of three in" if whole_count(mine, window, imgsz) else "in"
    parts = f", {some} windows of {window} px," if window < imgsz else ""
    LOGGER.info(
        f"{known['steps']} steps of {batch} pictures at {imgsz} px{parts} on {course.device}{how}, "
        f"{pair.shared} of {len(pair.student.layers)} layers are the teacher's; results in {run.root}"
    )
    start, ceiling = (known["agreement"][name] for name in ("start", "ceiling"))
    new = "new layers between the others" if lightening.config.width == 1 else "so few of the channels"
    why = f", as {new} let hardly anything through" if start < FAINT * ceiling else ""
    fitted = f"{known['agreement']['fitted']:.3f} after the fit"
    LOGGER.info(
        f"agreement (mAP50-95): {start:.3f} at the start{why}; {fitted}; "
        f"teacher with rounded weights {ceiling:.3f}"
    )
