"""Turn a trained detector into a lighter one that knows what it knows, from photographs without labels.

    python lighten.py --weights best.pt --cfg yolov5n-slimneck.yaml --source photographs/
    python lighten.py --weights best.pt --cfg yolov5n-csppc.yaml --source a.txt --minutes 60 --data bccd.yaml
    python lighten.py --weights best.pt --width 0.75 --source photographs/    # the same network, but narrower
    python lighten.py --resume                               # the newest run, from its last checkpoint

The lighter network takes over what its layers can hold, is fitted stage by stage, then learns as a whole. How
much it kept is measured on pictures that are held out: its detections against the confident ones of its
teacher.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any, NoReturn

from utils.interrupt import Stopped, StopRequest, quiet_until_watched

if __name__ == "__main__":
    quiet_until_watched()

import torch

from training.lightening.config import LightenConfig
from training.lightening.measure import agreement, true_map
from training.lightening.setup import Lightening, set_up
from training.resume import resumed
from training.run_folder import RunFolder
from utils.console import LOGGER, setup_console
from utils.data.images import ImageError
from utils.data.spec import load_data_spec
from utils.data.workers import start_server
from utils.device import select_device
from utils.distributed import (
    Process,
    broadcast,
    join_group,
    leave_group,
    mean_over_processes,
    noticing_losses,
    this_process,
)
from utils.errors import UserError, run_command
from utils.evaluation.metrics import fitness
from utils.files import ROOT, find_file
from utils.flags import parse_flags
from utils.hyperparameters import Hyperparameters, load_hyperparameters


def main(argv: Sequence[str] | None = None) -> None:
    config, process = parse_flags(LightenConfig, argv), this_process()
    setup_console(process.is_main)
    device = select_device(config.device, process.local_rank, process.world_size)
    join_group(process, device)
    try:
        with noticing_losses():
            if config.resume:
                config, hyp, run, checkpoint = resumed(config, process)
                lighten(config, hyp, process, run, checkpoint)
            else:
                check_flags(config, process)
                hyp = load_hyperparameters(
                    find_file(config.hyp, (ROOT, ROOT / "data" / "hyps"), ("", ".yaml"))
                )
                lighten(config, hyp, process)
            leave_group(together=True)
    finally:
        leave_group()


def lighten(
    config: LightenConfig,
    hyp: Hyperparameters,
    process: Process,
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
    lightening = set_up(config, hyp, process, run, checkpoint)
    run, course, state = lightening.run, lightening.course, lightening.state
    with StopRequest() as stop, closing(course.loader):
        batches = course.batches()
        while not state.finished:
            started = time.perf_counter()
            try:
                complete = course.learn(batches, stop)
                complete = complete and finish_part(lightening, stop, started)
            except Stopped:  # nothing has changed since: a resumed run goes on from here
                complete = False
            except ImageError as error:
                if process.is_main:
                    lightening.save(complete=False)
                raise UserError(
                    f"{error}; put it back as it was and go on with: python lighten.py --resume {run.last}"
                ) from None
            if process.is_main:
                lightening.save(complete)
            if not complete:
                leave(stop, run, process)
    if stop.requested:  # while the last part was saved
        leave(stop, run, process)
    if process.is_main:
        conclude(lightening)
    return lightening


def finish_part(lightening: Lightening, stop: StopRequest, started: float) -> bool:
    """Measure the averaged student, add a row of results and move on to the next part.

    Returns:
        False when a stop was requested meanwhile: then nothing has changed, and a resumed run measures.
    """
    course, state = lightening.course, lightening.state
    part, steps = course.parts[state.epoch], state.batch
    state.loss_sum = mean_over_processes(state.loss_sum)
    metrics: list[float] | None = []
    try:
        if lightening.held is not None:
            with stop.raising():
                metrics = agreement(state.ema.model, lightening.held, course.device)
    except Stopped:
        metrics = None
    metrics = broadcast(metrics)
    if metrics is None:
        return False
    errors = (state.loss_sum / max(steps, 1)).tolist()
    rate = state.optimizer.param_groups[0]["lr"]
    state.results.append([state.epoch, part.steps[1], *errors, *metrics, rate])
    # of students that are equally good the last one has learnt most
    state.best.update(state.epoch, fitness(*metrics) + 1e-9 * state.epoch)
    state.lightened["agreement"][f"{part.phase} {part.steps[1]}"] = metrics[3]
    LOGGER.info(
        f"{part.phase} {part.steps[1]}/{part.length}  stage error {errors[0]:.3f}  "
        f"agreement P {metrics[0]:.3f} R {metrics[1]:.3f} mAP50 {metrics[2]:.3f} mAP50-95 {metrics[3]:.3f}"
        f"  {time.perf_counter() - started:.0f} s"
    )
    state.epoch, state.batch = state.epoch + 1, 0
    state.loss_sum.zero_()
    state.finished = state.epoch == len(course.parts)
    return True


def leave(stop: StopRequest, run: RunFolder, process: Process) -> NoReturn:
    """End the process after a stop request, which may have come to another process; everything is saved."""
    if process.is_main:
        LOGGER.info(f"stopped; continue with: python lighten.py --resume {run.last}")
    leave_group()
    sys.exit(stop.exit_status)


def conclude(lightening: Lightening) -> None:
    """Say how much was kept, and where everything is."""
    config, run, state = lightening.config, lightening.run, lightening.state
    shares, best = state.lightened["agreement"], state.results[state.best.epoch][8]
    LOGGER.info(
        f"agreement (mAP50-95 against the teacher's boxes): {shares['start']:.3f} at the start, "
        f"{best:.3f} at the end; the teacher itself with rounded weights {shares['ceiling']:.3f}"
    )
    if config.data:
        true = [true_map(config, path) for path in (run.teacher, run.best)]
        LOGGER.info(
            f"mAP50-95 on {config.data}: teacher {true[0]:.3f}, student {true[1]:.3f}: "
            f"{true[1] / max(true[0], 1e-9):.1%}"
        )
    LOGGER.info(
        f"{state.lightened['steps']} steps on {lightening.pictures.all.report.count()} of {config.source} at "
        f"{lightening.course.loader.dataset.size} px on {lightening.course.device}; weights in "
        f"{run.last.parent}, everything else in {run.root}"
    )


def check_flags(config: LightenConfig, process: Process) -> None:
    """Raise a UserError when a flag that has no default is missing, or a batch cannot be shared."""
    if not config.cfg and config.width == 1:
        raise UserError("--cfg is missing; as in --cfg yolov5n-slimneck.yaml, or --width 0.75")
    if not config.source:
        raise UserError("--source is missing; as in --source photographs/")
    if config.batch_size % process.world_size:
        raise UserError(
            f"--batch-size {config.batch_size} must be a multiple of the {process.world_size} processes"
        )
    if config.data:
        load_data_spec(config.data, needed=("val",))  # not after all the learning


if __name__ == "__main__":
    run_command(main)
