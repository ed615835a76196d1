"""Train a detector.

python train.py                                                # yolov5n on the embedded digits
python train.py --cfg yolov5n-gsconv.yaml --data coco128.yaml --weights yolov5n.pt
python train.py --resume                                       # continue the newest run
torchrun --nproc_per_node 2 train.py --data coco.yaml --batch-size 64
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NoReturn

from utils.interrupt import Stopped, StopRequest, quiet_until_watched

if __name__ == "__main__":
    quiet_until_watched()
    # Before torch starts OpenMP: by default its threads spin for a millisecond at every barrier and take the
    # cores that the data loader and other processes need; not spinning at all costs time on a quiet machine.
    # This is a short spin. Compare with: GOMP_SPINCOUNT=300000 python benchmarks/overhead.py train
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import torch

from models.insertion import written
from models.runtimes.opening import load_backend
from training.config import TrainConfig
from training.engine import NonFiniteLoss, Training, losses_line, train_one_epoch, validate_average
from training.evolve import evolve, load_population
from training.inheritance import fit_inherited
from training.loggers.opening import check_services
from training.optim import Schedule
from training.resume import restarted, resumed
from training.run_folder import RESULT_COLUMNS, RunFolder, write_results
from training.setup import (
    begin_logging,
    build_model,
    build_state,
    build_teacher,
    class_counts,
    hyperparameters,
    image_weights,
    open_teacher,
    open_training_data,
    total_batch_size,
)
from training.shared_evolution import evolving
from training.state import TrainingState
from utils.console import LOGGER, setup_console, warn
from utils.data.images import ImageError
from utils.data.index import DatasetIndex
from utils.data.spec import load_data_spec
from utils.data.workers import start_server
from utils.device import memory_format, select_device
from utils.distributed import (
    Process,
    broadcast,
    join_group,
    leave_group,
    main_first,
    mean_over_processes,
    noticing_losses,
    this_process,
    wrap,
)
from utils.errors import Incomplete, UserError, run_command
from utils.evaluation.evaluate import evaluate
from utils.evaluation.metrics import fitness
from utils.evaluation.report import report_validation
from utils.files import from_root, write_text
from utils.flags import parse_flags
from utils.hyperparameters import Hyperparameters
from utils.losses.detection import DetectionLoss
from utils.plots.pictures import RunPictures
from utils.plots.progress import plot_results


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_flags(TrainConfig, argv, about=__doc__)
    process = this_process()
    setup_console(process.is_main)
    device = select_device(config.device, process.local_rank, process.world_size)
    join_group(process, device)
    try:
        with noticing_losses():
            config = restarted(config, process)
            if config.evolve is not None:
                run_evolution(config, process, device)
            elif config.resume:
                config, hyp, run, checkpoint = resumed(config, process)
                conclude(train(config, hyp, process, device, run, checkpoint))
            else:
                conclude(train(config, hyperparameters(config), process, device))
            leave_group(together=True)
    finally:
        leave_group()


def train(
    config: TrainConfig,
    hyp: Hyperparameters,
    process: Process,
    device: torch.device,
    run: RunFolder | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> Training:
    """Train, validate and save; the whole recipe.

    Args:
        hyp: as in the yaml, gains not scaled.
        run: the folder of an earlier part of this run; a new one is made once model and data are known to be
            usable.
        checkpoint: the content of a `last.pt` to continue from.

    Raises:
        UserError: data, model or weights are unusable, or the loss became non-finite.
    """
    torch.manual_seed(config.seed)
    check_services(config.loggers)
    if config.workers:
        start_server()  # it loads its packages while the model is built and the labels are read
    spec = main_first(lambda: load_data_spec(config.data), process)  # it may have to be generated
    model, inherited = build_model(config, hyp, spec, checkpoint)
    model.to(device).to(memory_format=memory_format(device))
    trained = open_teacher(config, model, run if checkpoint else None)
    config = dataclasses.replace(config, batch_size=total_batch_size(config, model, process, device, trained))
    loader, val_loader = open_training_data(config, hyp, spec, model, process)
    index, imgsz = loader.dataset.index, loader.dataset.size
    if inherited is not None and not config.nofit:
        fit_inherited(inherited, model, loader, process)
    del inherited  # a whole network, which would stay on the device
    schedule = Schedule(hyp, config.epochs, len(loader), config.batch_size, config.cos_lr)
    state = build_state(config, model, loader, schedule, process, device, checkpoint)
    teacher = None if trained is None else build_teacher(config, hyp, trained, model)
    criterion = criterion_of(state, hyp, index, imgsz)
    run = run or open_run(config, process)
    log = begin_logging(config, hyp, process, run, state.epoch if checkpoint else None)
    training = Training(
        config, process, device, loader, val_loader, schedule, criterion, run, state, teacher, log
    )
    parallel = wrap(model if teacher is None else teacher.watch(), process, device, config.sync_bn)
    pictures = RunPictures(run.root, model.names, enabled=process.is_main and not config.noplots)
    pictures.labels(index.boxes)
    if process.is_main:
        write_settings(training)
        write_results(run.results, state.results, training.columns)
    announce(training)
    with StopRequest() as stop, closing(loader), log.unless_done(), pictures:
        while not (state.finished or training.paused):
            started = time.perf_counter()
            loader.set_epoch(state.epoch, start_batch=state.batch)
            if config.image_weights:
                loader.set_weights(image_weights(index, state.maps))
            try:
                complete = train_one_epoch(training, parallel, stop, pictures.training_batch)
                complete = complete and finish_epoch(training, started, stop)
            except NonFiniteLoss as error:
                raise stopped_by(error, run) from None
            except ImageError as error:
                raise UserError(f"{error}; {go_on(run)}") from None
            if process.is_main:
                save(training, complete)
            if not complete:
                leave(stop, run, process)
            log.epoch(training.columns, state.results[-1])
    if stop.requested:  # while the last epoch was saved and its pictures drawn
        log.close("stopped")
        leave(stop, run, process)
    return training


def announce(training: Training) -> None:
    """Say what is about to be trained, and where to find it."""
    config, loader, warmup = training.config, training.loader, training.schedule.warmup_batches
    if training.state.finished:
        return
    LOGGER.info(
        f"training {config.epochs} epochs at {loader.dataset.size} px on {training.device}, "
        f"{len(loader.dataset.index)} images, batch {config.batch_size}, results in {training.run.root}"
    )
    if training.schedule.is_all_warmup:
        LOGGER.info(
            f"{config.epochs * len(loader)} batches in all, of {warmup} of warm-up: little will be learnt; "
            "more --epochs, a smaller --batch-size, or warmup_epochs: 0 in --hyp"
        )


def criterion_of(
    state: TrainingState, hyp: Hyperparameters, index: DatasetIndex, imgsz: int
) -> DetectionLoss:
    """The loss of the labels of `index`, for images of `imgsz` pixels."""
    model = state.model
    return DetectionLoss(
        model.head.anchors,
        model.nc,
        hyp.scaled(nl=model.head.nl, nc=model.nc, imgsz=imgsz),
        strides=model.stride,
        class_counts=class_counts(index, model.nc),
        running=state.iou_loss,
        average=mean_over_processes,
    )


def finish_epoch(training: Training, started: float, stop: StopRequest) -> bool:
    """Validate the averaged model, add a row of results and move on to the next epoch.

    Returns:
        False when a stop was requested meanwhile: then nothing has changed, and a resumed run validates.
    """
    config, state = training.config, training.state
    last = state.epoch >= config.epochs - 1
    validated = last or not config.noval
    state.loss_sum = mean_over_processes(state.loss_sum)
    try:
        unknown = [0.0] * 7, state.maps, True
        scores, maps, confident = validate_average(training, stop) if validated else unknown
    except Stopped:
        with suppress(RuntimeError):  # of processes that are gone already
            broadcast(None)
        return False
    rates = [group["lr"] for group in state.optimizer.param_groups]
    losses = (state.loss_sum / state.batch).tolist()
    # the teacher's error comes last, so that the others have the places that they always have
    results = broadcast(([state.epoch, *losses[:3], *scores, *rates, *losses[3:]], maps))
    if results is None:
        return False
    row, state.maps = results
    state.results.append(row)
    if validated:
        state.best.update(state.epoch, fitness(*row[4:8]))
    LOGGER.info(epoch_line(config, row, time.perf_counter() - started, confident))
    impatient = validated and 0 < config.patience <= state.best.waiting(state.epoch)
    state.finished = last or impatient
    if impatient and not last:
        LOGGER.info(f"no epoch as good as the best in the last {config.patience} (--patience): stopping")
    state.epoch, state.batch = state.epoch + 1, 0
    state.loss_sum.zero_()
    return True


def epoch_line(config: TrainConfig, row: list[float], seconds: float, confident: bool = True) -> str:
    """One line about an epoch.

    Args:
        row: of the results.
        confident: whether any detection is; else P and R are those of thousands of boxes that nobody would
            look at, such as 0.005 and 1.000, and are not shown.
    """
    epoch, precision, recall, map50, map_ = row[0], *row[4:8]
    losses = losses_line([*row[1:4], *row[len(RESULT_COLUMNS) :]])
    line = f"epoch {int(epoch)}/{config.epochs - 1}  {losses}"
    if any((precision, recall, map50, map_)):
        line += f"  P {precision:.3f} R {recall:.3f}" if confident else "  no confident detection yet,"
        line += f" mAP50 {map50:.3f} mAP50-95 {map_:.3f}"
    return f"{line}  {seconds:.1f} s"


def save(training: Training, complete: bool) -> None:
    """Write what a resume needs, the results so far, and the best weights when this epoch made them.

    Raises:
        UserError: the weights are not finite; the files of the previous epoch stay as they are.
    """
    config, state, run = training.config, training.state, training.run
    if not state.is_finite():
        raise stopped_by(
            NonFiniteLoss(
                f"a weight became non-finite, or too large for half precision, in epoch {state.epoch}"
            ),
            run,
        )
    if complete:
        epoch = state.epoch - 1
        if state.best.epoch == epoch:
            state.save_weights(run.best)
        if config.save_period > 0 and epoch % config.save_period == 0:
            state.save_weights(run.last.with_name(f"epoch{epoch}.pt"))
    if not complete or state.finished or not config.nosave:
        state.save(run.last)
    write_results(run.results, state.results, training.columns)


def go_on(run: RunFolder) -> str:
    """What to do after an image that the scan of heads took for whole."""
    again = f"go on with: python train.py --resume {run.last}" if run.last.is_file() else "start again"
    return f"repair or remove it, then {again}"


def stopped_by(error: NonFiniteLoss, run: RunFolder) -> NonFiniteLoss:
    """The same error with what is left and what to try."""
    kept = (
        f"the last finite checkpoint is {run.last}" if run.last.is_file() else "no epoch was finished before"
    )
    return NonFiniteLoss(f"{error}; {kept}; try a lower lr0 in --hyp, or --amp off")


def leave(stop: StopRequest, run: RunFolder, process: Process) -> NoReturn:
    """End the process after a stop request, which may have come to another process; everything is saved."""
    if process.is_main:
        LOGGER.info(f"stopped; continue with: python train.py --resume {run.last}")
    leave_group()
    sys.exit(stop.exit_status)


def conclude(training: Training) -> None:
    """Validate the best weights with the full report and say where everything is."""
    if training.paused:
        training.loggers.close("stopped")
        done = f"{training.state.epoch} of {training.config.epochs} epochs"
        LOGGER.info(f"paused after {done}; continue with: python train.py --resume {training.run.last}")
        return
    with training.loggers:
        validate_best(training)


def validate_best(training: Training) -> None:
    """The full report of the best weights."""
    loader, run, plots = training.val_loader, training.run, not training.config.noplots
    if loader is None:
        return
    names = training.state.model.names
    with RunPictures(run.root, names, enabled=plots) as pictures:
        best = load_backend(run.best, training.device)
        result = evaluate(best, loader, training.device, names, on_batch=pictures.validation_batch)
        report_validation(result, run.root, plots=plots)
    if training.teacher is not None:
        training.teacher.compare(loader, result.summary()[3])
    if plots:
        plot_results(run.results, run.root / "results.png")
    training.loggers.pictures(training.state.epoch)
    training.loggers.final(result.summary(), training.state.best.epoch)
    seen, judged = (split.dataset.index.report for split in (training.loader, loader))
    config, size = training.config, training.loader.dataset.size
    work = f"{training.state.epoch} of {config.epochs} epochs on {seen.count()} of {config.data}"
    LOGGER.info(f"{work} at {size} px on {training.device}, {judged.count(result.unreadable)} of val")
    if result.unreadable:
        warn(f"val: {judged.shortfall(result.unreadable)}; the results are those of the others")
    LOGGER.info(
        f"best epoch {training.state.best.epoch}; weights in {run.last.parent}, everything else in {run.root}"
    )


def write_settings(training: Training) -> None:
    """Write what the run was started with, its teacher too, and what was wrong with its labels."""
    training.run.write_yaml("opt.yaml", dataclasses.asdict(training.config))
    training.run.write_yaml("hyp.yaml", dataclasses.asdict(training.state.hyp))
    if training.config.insert:
        write_text(training.run.model, written(training.state.model.yaml))
    if training.teacher is not None:
        training.teacher.keep(training.run.teacher)
    for split, loader in (("train", training.loader), ("val", training.val_loader)):
        if loader is not None:
            loader.dataset.index.report.write_report(training.run.root, f"label_report_{split}.csv")


def open_run(config: TrainConfig, process: Process) -> RunFolder:
    """A new run folder, made by the main process and known to all."""
    if process.is_main:
        return broadcast(RunFolder.create(config.project, config.name, config.exist_ok, process.job))
    return broadcast(RunFolder(Path()))


def run_evolution(config: TrainConfig, process: Process, device: torch.device) -> None:
    """Evolve hyper-parameters: each generation is one short training whose fitness decides what survives."""
    if process.world_size > 1:
        raise UserError("--evolve runs in one process; start it without torchrun")
    assert config.evolve is not None
    project = "runs/evolve" if config.project == TrainConfig.project else config.project
    folder = RunFolder.create(project, config.name, config.exist_ok)
    given = dataclasses.replace(config, evolve=None, study="", project=project)
    quiet = dataclasses.replace(given, noval=True, nosave=True, noplots=True)
    diverged: list[int] = []

    def train_once(hyp: Hyperparameters, generation: int) -> list[float]:
        run = RunFolder.create(str(folder.root), f"generation{generation}", exist_ok=True)
        try:
            training = train(quiet, hyp, process, device, run)
            training.loggers.close("finished")
            return training.state.results[-1][4:11]
        except NonFiniteLoss as error:
            LOGGER.warning(f"generation {generation}: {error}; it scores 0, and evolution goes on")
            diverged.append(generation)
            return [0.0] * 4 + [math.nan] * 3

    with folder.unless_refused():
        best = (evolving(config) if config.study else evolve)(
            train_once,
            hyperparameters(config),
            config.evolve,
            folder.root,
            seed=config.seed,
            population=load_population(from_root(config.evolve_population)),
            resume=Path(config.resume_evolve) if config.resume_evolve else None,
        )
    LOGGER.info(f"best hyper-parameters, in {folder.root / 'hyp_evolve.yaml'}: {best}")
    work = f"{config.evolve} generations of {config.epochs} epochs, {len(diverged)} of which diverged,"
    LOGGER.info(f"{work} on {config.data} at {config.imgsz} px on {device}")
    if len(diverged) == config.evolve:
        raise Incomplete("every generation diverged, so that nothing is known of any hyper-parameters")


if __name__ == "__main__":
    run_command(main)
