"""Turn a trained detector into a lighter one that knows what it knows, from photographs without labels.

    python lighten.py --weights best.pt --cfg yolov5n-slimneck.yaml --source photographs/
    python lighten.py --weights best.pt --cfg yolov5n-csppc.yaml --source a.txt --minutes 60 --data bccd.yaml
    python lighten.py --resume                               # the newest run, from its last checkpoint

The lighter network takes over what its layers can hold, is fitted stage by stage, then learns as a whole. How
much it kept is measured on pictures that are held out: its detections against the confident ones of its
teacher.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from models.summary import layer_costs, summary_line
from models.transfer import inherit
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from training.lightening.config import LightenConfig
from training.lightening.course import Course, average_of, build_optimizer, plan, steps_in
from training.lightening.pair import Pair
from training.lightening.pictures import as_seen_by, check_variety, held_loader, open_pictures
from training.resume import resumed
from training.run_folder import RunFolder, write_results
from training.state import TrainingState
from utils.checkpoints.files import inference_state, read_checkpoint, write_checkpoint
from utils.console import LOGGER, setup_console
from utils.data.dataset import DetectionDataset
from utils.data.index import build_index
from utils.data.letterbox import rounded_size
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.data.workers import start_server
from utils.device import amp_dtype, memory_format, select_device
from utils.distributed import this_process
from utils.errors import UserError, run_command
from utils.evaluation.evaluate import evaluate
from utils.evaluation.metrics import fitness
from utils.files import ROOT, find_file
from utils.flags import parse_flags
from utils.hyperparameters import Hyperparameters, load_hyperparameters
from utils.interrupt import StopRequest

COLUMNS = (
    "part", "step", "stage_error", "output_error", "loss", "agreement/precision", "agreement/recall",
    "agreement/mAP_0.5", "agreement/mAP_0.5:0.95", "lr", "seconds",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Lightening:
    """A run that is set up."""

    config: LightenConfig
    run: RunFolder
    course: Course
    held: Loader
    teacher: Path

    @property
    def state(self) -> TrainingState:
        return self.course.state

    def agreement(self, model: DetectionModel) -> list[float]:
        """Precision, recall, mAP50 and mAP50-95 against the teacher's confident boxes."""
        return evaluate(model.eval(), self.held, self.course.device, model.names).summary()


def main(argv: Sequence[str] | None = None) -> None:
    config, process = parse_flags(LightenConfig, argv), this_process()
    setup_console()
    if process.world_size > 1:
        raise UserError("lighten.py runs in one process; start it without torchrun")
    if config.resume:
        config, hyp, run, checkpoint = resumed(config, process)
        lighten(config, hyp, run, checkpoint)
    else:
        check_flags(config)
        hyp = load_hyperparameters(find_file(config.hyp, (ROOT, ROOT / "data" / "hyps"), ("", ".yaml")))
        lighten(config, hyp)


def lighten(
    config: LightenConfig,
    hyp: Hyperparameters,
    run: RunFolder | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> Lightening:
    """The whole recipe.

    Args:
        run, checkpoint: the folder of an earlier part of this run, and the content of its last.pt.

    Raises:
        UserError: weights, yaml or pictures are unusable, or an error became non-finite.
    """
    torch.manual_seed(config.seed)
    if config.workers:
        start_server()
    lightening = set_up(config, hyp, run, checkpoint)
    run, course, state = lightening.run, lightening.course, lightening.state
    with StopRequest() as stop, closing(course.loader):
        batches = course.batches()
        while not state.finished:
            started = time.perf_counter()
            complete = course.learn(batches, stop)
            if complete:
                finish_part(lightening, time.perf_counter() - started)
            save(lightening, complete)
            if not complete:
                LOGGER.info(f"stopped; continue with: python lighten.py --resume {run.last}")
                sys.exit(stop.exit_status)
    conclude(lightening)
    return lightening


def set_up(
    config: LightenConfig, hyp: Hyperparameters, run: RunFolder | None, checkpoint: Mapping[str, Any] | None
) -> Lightening:
    """Teacher, student, pictures and state, new or as the checkpoint left them."""
    device = select_device(config.device)
    path = run.last.with_name("teacher.pt") if run else find_weights(config.weights)
    teacher = load_model(path, device).to(memory_format=memory_format(device))
    student = build_student(config, teacher, path).to(device).to(memory_format=memory_format(device))
    pair = Pair(student, teacher)
    imgsz = rounded_size(config.imgsz, teacher.multiple)
    folder = run or RunFolder.create(config.project, config.name, config.exist_ok)
    pictures = open_pictures(
        config.source, folder.root / "pictures", vid_stride=config.vid_stride, seed=config.seed
    )
    if run is None:
        check_variety(pictures.train)
    seen = as_seen_by(teacher, pictures.held, imgsz, config.batch_size, config.workers)
    held = held_loader(seen, imgsz, teacher.multiple, config.batch_size, config.workers)
    dataset = DetectionDataset(
        pictures.train, imgsz, hyp=hyp, augment=True, batch_size=config.batch_size, seed=config.seed
    )
    loader = Loader(dataset, workers=config.workers, shuffle=True, seed=config.seed)
    dtype = amp_dtype(config.amp, device)
    state = TrainingState(
        model=student,
        ema=average_of(pair),
        optimizer=build_optimizer(pair),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype is torch.float16),
        hyp=hyp,
        train_args=dataclasses.asdict(config),
        loss_sum=torch.zeros(3, device=device),
    )
    course = Course(pair, loader, state, [], device, dtype)
    lightening = Lightening(config, folder, course, held, path)
    if checkpoint is not None:
        state.restore(checkpoint)
        LOGGER.info("resuming" if not state.finished else "the run is finished, nothing is left to learn")
    else:
        begin(lightening, pictures_in_all=len(pictures.train) + len(pictures.held))
    course.parts = plan(state.lightened["steps"])
    return lightening


def build_student(config: LightenConfig, teacher: DetectionModel, path: Path) -> DetectionModel:
    """The lighter network with what it can hold of the teacher.

    Raises:
        UserError: its yaml is faulty, or it is the teacher's own.
    """
    student = DetectionModel(config.cfg, ch=teacher.yaml["ch"], nc=teacher.nc)
    student.names = teacher.names
    if student.head.anchors.shape != teacher.head.anchors.shape:
        raise UserError(f"{config.cfg}: its head has other levels or anchors than the teacher's")
    report = inherit(student, teacher, exclude=())
    student.yaml["anchors"] = teacher.yaml["anchors"]
    LOGGER.info(f"{path}: {report}")
    if config.verbose:
        LOGGER.info("\n".join((report.table(), *report.details())))
    return student


def begin(lightening: Lightening, pictures_in_all: int) -> None:
    """Say and note where the run starts from; decide how many steps it takes."""
    config, course, state, run = lightening.config, lightening.course, lightening.state, lightening.run
    pair = course.pair
    if not pair.new:
        raise UserError(f"{config.cfg} describes the teacher's own network; name a lighter one with --cfg")
    steps = config.steps or steps_in(config.minutes, pair, course)
    before = lightening.agreement(pair.student)
    itself = lightening.agreement(pair.teacher)
    state.lightened = {
        "teacher": str(lightening.teacher), "source": config.source, "pictures": pictures_in_all,
        "steps": steps, "agreement": {"teacher": itself[3], "start": before[3]},
    }  # fmt: skip
    save_teacher(lightening, run.last.with_name("teacher.pt"))
    run.write_yaml("opt.yaml", dataclasses.asdict(config))
    run.write_yaml("hyp.yaml", dataclasses.asdict(state.hyp))
    imgsz, ch = course.loader.dataset.size, pair.teacher.yaml["ch"]
    for name, model in (("teacher", pair.teacher), ("student", pair.student)):
        costs = layer_costs(model.model, model.layers, ch, imgsz)
        LOGGER.info(f"{name}: {summary_line(model, costs, ch, imgsz)}")
    LOGGER.info(
        f"{steps} steps of {config.batch_size} pictures at {imgsz} px on {course.device}, "
        f"{pair.shared} of {len(pair.student.layers)} layers are the teacher's; results in {run.root}"
    )
    LOGGER.info(f"agreement (mAP50-95): teacher with itself {itself[3]:.3f}, at the start {before[3]:.3f}")


def save_teacher(lightening: Lightening, path: Path) -> None:
    """Keep the teacher with the run, so that it can be resumed whatever becomes of the file."""
    content = read_checkpoint(lightening.teacher)
    write_checkpoint(path, {**content, "model": inference_state(content), "ema": None, "optimizer": None})


def finish_part(lightening: Lightening, seconds: float) -> None:
    """Measure the averaged student, add a row of results and move on to the next part."""
    course, state = lightening.course, lightening.state
    part, steps = course.parts[state.epoch], state.batch
    metrics = lightening.agreement(state.ema.model)
    errors = (state.loss_sum / max(steps, 1)).tolist()
    rate = state.optimizer.param_groups[0]["lr"]
    state.results.append([state.epoch, part.steps[1], *errors, *metrics, rate, seconds])
    state.best.update(state.epoch, fitness(*metrics))
    state.lightened["agreement"][f"{part.phase} {part.steps[1]}"] = metrics[3]
    LOGGER.info(
        f"{part.phase} {part.steps[1]}/{part.length}  stage error {errors[0]:.3f}  "
        f"agreement P {metrics[0]:.3f} R {metrics[1]:.3f} mAP50 {metrics[2]:.3f} mAP50-95 {metrics[3]:.3f}"
        f"  {seconds:.0f} s"
    )
    state.epoch, state.batch = state.epoch + 1, 0
    state.loss_sum.zero_()
    state.finished = state.epoch == len(course.parts)


def save(lightening: Lightening, complete: bool) -> None:
    """Write what a resume needs, the results so far, and the best weights when this part made them.

    Raises:
        UserError: the weights are not finite; the files of the part before stay as they are.
    """
    state, run = lightening.state, lightening.run
    if not state.is_finite():
        raise UserError(f"a weight became non-finite; the last finite checkpoint is {run.last}")
    if complete and state.best.epoch == state.epoch - 1:
        state.save_weights(run.best)
    state.save(run.last)
    write_results(run.results, state.results, COLUMNS)


def conclude(lightening: Lightening) -> None:
    """Say how much was kept, and where everything is."""
    config, run, state = lightening.config, lightening.run, lightening.state
    agreement = state.lightened["agreement"]
    best = max(row[8] for row in state.results)
    LOGGER.info(
        f"agreement (mAP50-95): {agreement['start']:.3f} at the start, {best:.3f} at the best, of "
        f"{agreement['teacher']:.3f} that the teacher has with itself: {best / agreement['teacher']:.1%}"
    )
    if config.data:
        true = [true_map(config, path) for path in (run.last.with_name("teacher.pt"), run.best)]
        LOGGER.info(
            f"mAP50-95 on {config.data}: teacher {true[0]:.3f}, student {true[1]:.3f}: "
            f"{true[1] / max(true[0], 1e-9):.1%}"
        )
    LOGGER.info(f"weights in {run.last.parent}, everything else in {run.root}")


def true_map(config: LightenConfig, path: Path) -> float:
    """mAP50-95 of a checkpoint on the validation split of --data, at the run's size."""
    spec, device = load_data_spec(config.data, needed=("val",)), select_device(config.device)
    model = load_model(path, device)
    if model.nc != spec.nc:
        raise UserError(f"the weights know {model.nc} classes and {config.data} has {spec.nc}")
    imgsz = rounded_size(config.imgsz, model.multiple)
    index = build_index(spec.val, spec.names)
    loader = held_loader(index, imgsz, model.multiple, config.batch_size, config.workers)
    return evaluate(model, loader, device, spec.names).summary()[3]


def check_flags(config: LightenConfig) -> None:
    """Raise a UserError when a flag that has no default is missing."""
    for name, example in (("cfg", "yolov5n-slimneck.yaml"), ("source", "photographs/")):
        if not getattr(config, name):
            raise UserError(f"--{name} is missing; as in --{name} {example}")
    if config.minutes <= 0 and config.steps is None:
        raise UserError(f"--minutes must be above 0, found {config.minutes}")


if __name__ == "__main__":
    run_command(main)
