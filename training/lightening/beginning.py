"""What a run begins with: how near the student is, what least squares make of it, how many steps follow."""

from __future__ import annotations

import time
from pathlib import Path

from training.lightening.config import LightenConfig
from training.lightening.course import FEW_STEPS, RECIPE, Course, average_of, steps_in
from training.lightening.fitting import first_images, fit_readers, result_of_fit
from training.lightening.material import Material, open_loader
from training.lightening.measure import agreement
from training.lightening.pictures import Pictures
from utils.console import LOGGER, warn
from utils.data.loader import Loader
from utils.distributed import Process, broadcast
from utils.evaluation.metrics import fitness
from utils.hyperparameters import Hyperparameters

FITTED = -1  # the part before the first


def begin(config: LightenConfig, course: Course, held: Loader | None, material: Material, path: Path) -> None:
    """Note what the run starts from; what counts is the main process'."""
    if held is None:
        return
    pictures = material.pictures
    course.state.lightened = {
        "recipe": RECIPE,
        "teacher": str(path),
        "source": config.source,
        "pictures": len(pictures.all),
        "fingerprint": pictures.fingerprint(),
        "agreement": {
            "ceiling": material.ceiling,
            "start": agreement(course.pair.student, held, course.device)[3],
        },
    }


def fit(
    config: LightenConfig,
    hyp: Hyperparameters,
    course: Course,
    held: Loader | None,
    process: Process,
    pictures: Pictures,
) -> None:
    """Fit what was taken over, in the main process for all, on pictures as they are learnt from."""
    pair, started, count = course.pair, time.perf_counter(), 0
    if process.is_main:
        alone = process.world_size == 1  # several see the pictures that one would
        own = course.loader if alone else open_loader(config, hyp, Process(), pictures, pair.teacher)
        batches = first_images(own, course.device)
        if not alone:
            own.close()
        count = fit_readers(pair, batches)
    pair.student.load_state_dict(broadcast(pair.student.state_dict()))
    course.state.ema = average_of(pair)
    if held is not None:
        shares = course.state.lightened["agreement"]
        metrics = agreement(pair.student, held, course.device)
        shares["fitted"] = metrics[3]
        course.state.best.update(FITTED, fitness(*metrics))
        LOGGER.info(result_of_fit(count, time.perf_counter() - started))


def settle_steps(config: LightenConfig, course: Course, process: Process) -> None:
    """Decide how many steps the run takes; several processes time them together."""
    state = course.state
    state.lightened = broadcast(state.lightened)
    steps = config.steps or steps_in(config.minutes, course.pair, course, stages=course.has_stages)
    if process.is_main and not config.steps and steps < FEW_STEPS:
        warn(
            f"--minutes {config.minutes:g} holds {steps} steps here, too few to learn much from; give more "
            "--minutes, or --steps; some hundreds do well"
        )
    state.lightened["steps"] = steps
