"""`--evolve` with `--study`: generations that processes on any number of machines do together."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from training.config import TrainConfig
from training.evolve import (
    METRICS,
    TrainOnce,
    Trial,
    as_hyp,
    best,
    offspring,
    plot_trials,
    save_trials,
    tried,
)
from training.study import Job, Study, Taken, unusual
from utils.console import LOGGER
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters

GENERATION = "generation"  # and its number: the name of a job
POLL = 3.0  # seconds between two looks at what others have done
# flags of train.py that may differ between those who take part
OWN = {
    "project", "name", "exist_ok", "device", "workers", "cache", "noplots", "verbose", "evolve", "study",
    "evolve_population", "local_rank",
}  # fmt: skip
FILES = ("cfg", "weights", "teacher", "data", "hyp")  # which may lie elsewhere


def evolving(config: TrainConfig) -> Callable[..., Hyperparameters]:
    """`training.evolve.evolve` for the study that the flags name."""
    settings = {
        f"--{name.replace('_', '-')}": Path(str(value)).name if name in FILES else value
        for name, value in unusual(config).items()
        if name not in OWN
    }
    return partial(evolve_together, address=config.study, name=config.name, settings=settings)


def evolve_together(
    train_once: TrainOnce,
    base: Hyperparameters,
    generations: int,
    folder: Path,
    *,
    seed: int = 0,
    population: Sequence[Hyperparameters] = (),
    resume: None = None,
    address: str,
    name: str,
    settings: dict[str, Any],
) -> Hyperparameters:
    """As `evolve`, but a generation follows from those that are done, by whomever, when it begins.

    One process alone does what it would do without a study. A generation whose process was lost is done
    again with the same hyper-parameters.

    Args:
        address, name, settings: of the study, see `training.study.Study`.

    Raises:
        UserError: no generations, or see `Study`; or every generation has lost its process.
    """
    if generations < 1:
        raise UserError(f"--evolve {generations}: at least one generation is needed")
    first = (base, *population)
    begun = json.dumps([dataclasses.asdict(hyp) for hyp in first], sort_keys=True).encode()
    settings = {**settings, "hyper-parameters to start from": hashlib.sha256(begun).hexdigest()[:16]}
    with Study(address, f"evolve {name}", settings, folder, instead="take another --name") as study:
        waiting = False
        while True:
            failures, results = study.failures(), study.results()
            trials = trials_of(study, results)
            if trials:
                save_trials(folder, list(trials.values()))
            settled = {*results, *failures}
            names = [f"{GENERATION}{number}" for number in range(generations)]
            left = [one for one in names if one not in settled]
            if not left:
                break
            job = study.claim(left)
            if job is not None:
                _share(study, job, _hyp(study, job, first, trials, seed), train_once)
            elif not waiting:
                LOGGER.info(f"{len(left)} generations under way elsewhere; waiting")
            waiting = job is None
            time.sleep(POLL if waiting else 0)
        if not trials:
            raise UserError(f"{study}: every generation has lost its process; see what the others say")
    plot_trials(list(trials.values()), folder / "evolve.png")
    return best(list(trials.values())).hyp


def _hyp(
    study: Study, job: Job, first: Sequence[Hyperparameters], trials: dict[int, Trial], seed: int
) -> Hyperparameters:
    """What a generation tries."""
    number = int(job.name.removeprefix(GENERATION))
    if job.notes:
        return as_hyp(f"{study}: {job.name}", job.notes)
    if number < len(first):
        return first[number]
    # nothing is done yet where there are more processes than hyper-parameters to start from
    before = list(trials.values()) or [Trial((0.0,) * len(METRICS), first[0])]
    return offspring(before, seed, number)


def _share(study: Study, job: Job, hyp: Hyperparameters, train_once: TrainOnce) -> None:
    """Do one generation."""
    study.note(job, dataclasses.asdict(hyp))
    with study.working(job):
        try:
            trial = tried(train_once, hyp, int(job.name.removeprefix(GENERATION)))
            study.done(job, trial.fitness, {"metrics": trial.metrics, "hyp": dataclasses.asdict(hyp)})
        except Taken:
            LOGGER.warning(f"{job.name} was given to another process, as this one did not answer")
        except (KeyboardInterrupt, SystemExit):
            study.end(job, "stopped", "")
            raise
        except BaseException as error:
            study.end(job, "lost", " ".join(str(error).split())[:300])
            raise


def trials_of(study: Study, results: Mapping[str, Any]) -> dict[int, Trial]:
    """What came of the generations that are done, by their numbers, in order.

    Args:
        results: of the study.

    Raises:
        UserError: it is not what `evolve_together` writes.
    """
    found = {}
    for name, result in results.items():
        number = name.removeprefix(GENERATION)
        try:
            metrics = tuple(map(float, result["metrics"]))
            values = dict(result["hyp"])
            if len(metrics) != len(METRICS) or not number.isdecimal():
                raise ValueError(name)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{study}: the result of {name} is damaged; take another --name") from error
        found[int(number)] = Trial(metrics, as_hyp(f"{study}: {name}", values))
    return dict(sorted(found.items()))
