"""Turn a trained detector into a lighter one that knows what it knows, from photographs without labels.

    python lighten.py --weights best.pt --cfg yolov5n-slimneck.yaml --source photographs/
    python lighten.py --weights best.pt --cfg yolov5n-csppc.yaml --source a.txt --minutes 60 --data bccd.yaml
    python lighten.py --weights best.pt --width 0.75 --source photographs/    # the same network, but narrower
    python lighten.py --weights best.pt --source photographs/ --faster 0.85 --runtime onnx    # search for one
    python lighten.py --resume                               # the newest run, from its last checkpoint

The lighter network takes over what its layers can hold, is fitted stage by stage, then learns as a whole. How
much it kept is measured on pictures that are held out: its detections against the confident ones of its
teacher.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from utils.interrupt import Stopped, StopRequest, on_cut_off, quiet_until_watched

if __name__ == "__main__":
    quiet_until_watched()

import torch

from benchmarks.latency import compare
from benchmarks.lightening.page import TEACHER, compare_pictures, record_of, variant_of, write_page
from benchmarks.lightening.search import find
from benchmarks.lightening.state import FULL, SHORT, STATE, Search, begun, continued, to_continue
from benchmarks.networks import check_packages
from models.weights import load_model
from training.hyp_yaml import load_hyperparameters
from training.lightening.config import LightenConfig
from training.lightening.course import FEW_STEPS
from training.lightening.material import Material
from training.lightening.measure import agreement, true_map
from training.lightening.setup import Lightening, set_up
from training.resume import restarted, resumed
from training.run_folder import RunFolder
from utils.console import LOGGER, setup_console
from utils.data.images import ImageError
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
from utils.hyperparameters import Hyperparameters

ROUNDS = 60  # of latency


def main(argv: Sequence[str] | None = None) -> None:
    config, process = parse_flags(LightenConfig, argv, about=__doc__), this_process()
    setup_console(process.is_main)
    device = select_device(config.device, process.local_rank, process.world_size)
    join_group(process, device)
    try:
        with noticing_losses():
            config = restarted(config, process)
            go_on(config, process) if config.resume else start_anew(config, process)
            leave_group(together=True)
    finally:
        leave_group()


def start_anew(config: LightenConfig, process: Process) -> None:
    """A new run, or a search."""
    check_flags(config, process)
    hyp = load_hyperparameters(find_file(config.hyp, (ROOT, ROOT / "data" / "hyps"), ("", ".yaml")))
    if config.searches:
        search_on(begun(config, hyp), new=True)
    else:
        conclude(lighten(config, hyp, process))


def go_on(config: LightenConfig, process: Process) -> None:
    """The rest of the run, or of the search, that --resume names."""
    if state := to_continue(config):
        alone(process)
        search_on(continued(config, state), new=False)
        return
    config, hyp, run, checkpoint = resumed(config, process)
    check_runtime(config)
    conclude(lighten(config, hyp, process, run, checkpoint))


def search_on(search: Search, *, new: bool) -> None:
    """Find the network that keeps most within a budget; a search that is refused leaves no folder behind."""
    check_runtime(search.config)
    root = search.run.root
    LOGGER.info(f"searching in {root}; when it is stopped: python lighten.py --resume {root / STATE}")
    try:
        page = find(search, lighten)
    except UserError:
        learnt = (root / SHORT).exists() or (root / FULL).exists()
        if new and not learnt and not search.config.exist_ok:
            shutil.rmtree(root, ignore_errors=True)
        raise
    source, imgsz, device = search.config.source, search.config.imgsz, select_device(search.config.device)
    LOGGER.info(f"searched on {source} at {imgsz} px on {device}; weights in {search.run.best}")
    LOGGER.info(f"all networks side by side: {page}")


def lighten(
    config: LightenConfig,
    hyp: Hyperparameters,
    process: Process,
    run: RunFolder | None = None,
    checkpoint: Mapping[str, Any] | None = None,
    material: Material | None = None,
) -> Lightening:
    """The whole recipe.

    Args:
        run, checkpoint: the folder of an earlier part of this run, and the content of its last.pt.
        material: pictures and what the teacher sees on them, where a search knows it already.

    Raises:
        UserError: weights, yaml or pictures are unusable, or an error became non-finite.
    """
    torch.manual_seed(config.seed)
    if config.workers:
        start_server()
    lightening = set_up(config, hyp, process, run, checkpoint, material)
    run, course, state = lightening.run, lightening.course, lightening.state

    def tell() -> None:
        LOGGER.info(f"the last finished part is kept; continue with: python lighten.py --resume {run.last}")

    with on_cut_off(tell), StopRequest() as stop, closing(course.loader):
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
    """Say how much was kept, and where everything is; the main process does."""
    if not lightening.process.is_main:
        return
    config, run, state = lightening.config, lightening.run, lightening.state
    shares = state.lightened["agreement"]
    fitted = f", {shares['fitted']:.3f} after the fit" if "fitted" in shares else ""
    LOGGER.info(
        f"agreement (mAP50-95 against the teacher's boxes): {shares['start']:.3f} at the start{fitted}, "
        f"{lightening.agreed:.3f} at its best, {lightening.best_after}; the teacher itself with rounded "
        f"weights {shares['ceiling']:.3f}"
    )
    files = {TEACHER: run.teacher, config.network: run.best}
    true = [true_map(config, path) for path in files.values()] if config.data else []
    if true:
        LOGGER.info(
            f"mAP50-95 on {config.data}: teacher {true[0]:.3f}, student {true[1]:.3f}: "
            f"{true[1] / max(true[0], 1e-9):.1%}"
        )
    LOGGER.info(
        f"{state.lightened['steps']} steps on {lightening.pictures.all.report.count()} of {config.source} at "
        f"{lightening.course.loader.dataset.size} px on {lightening.course.device}; weights in "
        f"{run.last.parent}, everything else in {run.root}"
    )
    LOGGER.info(f"both side by side: {describe(lightening, files, true)}")


def describe(lightening: Lightening, files: Mapping[str, Path], true: Sequence[float]) -> Path:
    """Write the page of a run and return it.

    Args:
        files: weights of teacher and student, by name.
        true: mAP50-95 of each against labels; empty where there are none.
    """
    assert lightening.held is not None  # in the main process
    config, run, known = lightening.config, lightening.run, lightening.state.lightened
    imgsz, held = lightening.course.loader.dataset.size, lightening.held.dataset.index
    models = {name: load_model(path) for name, path in files.items()}
    teacher, student = (
        replace(variant_of(name, "student" if name != TEACHER else "teacher", model, imgsz), true_map=value)
        for (name, model), value in zip(models.items(), true or (None, None))
    )
    shares = known["agreement"]
    student = replace(student, start=shares["start"], fitted=shares.get("fitted"), end=lightening.agreed)
    if known["steps"] < FEW_STEPS:
        student = replace(student, note=f"{known['steps']} steps: too few to learn much from")
    if config.runtime:
        teacher, student = (
            variant.timed(timing)
            for variant, timing in zip((teacher, student), compare(config.runtime, models, imgsz, ROUNDS))
        )
    record = record_of(config, known, len(held), imgsz, (teacher, student))
    pictures = compare_pictures([*models.values()], held, imgsz)
    return write_page(run.root, record, {student.name: run.results}, pictures)


def check_flags(config: LightenConfig, process: Process) -> None:
    """Raise a UserError when a flag that has no default is missing, or a batch cannot be shared."""
    if not config.cfg and config.width == 1 and not config.searches:
        if config.insert:
            raise UserError(
                "--insert alone gives what the teacher gives, and leaves nothing to learn from it; name a "
                "lighter network with --cfg or --width, or learn from labels: train.py --weights … --insert …"
            )
        raise UserError(
            "--cfg is missing; as in --cfg yolov5n-slimneck.yaml, or --width 0.75; --smaller 0.8 searches"
        )
    if not config.source:
        raise UserError("--source is missing; as in --source photographs/")
    if config.batch_size % process.world_size:
        raise UserError(
            f"--batch-size {config.batch_size} must be a multiple of the {process.world_size} processes"
        )
    if config.searches:
        alone(process)
    check_runtime(config)


def alone(process: Process) -> None:
    """Raise a UserError when there are other processes."""
    if process.world_size > 1:
        raise UserError("a search runs in one process; start it without torchrun")


def check_runtime(config: LightenConfig) -> None:
    """Raise a UserError when a package that --runtime needs is not installed."""
    if config.timed_in:
        check_packages([config.timed_in])


if __name__ == "__main__":
    run_command(main)
