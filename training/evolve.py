"""Evolution of hyper-parameters: train, keep the record, mutate one of the best, train again.

Every generation is one training. What generation k tries depends only on the seed, on k and on the results
before it, so that an evolution that was stopped continues as if it had not been.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from training.hyp_yaml import checked, load_hyperparameters
from training.run_folder import RESULT_COLUMNS
from utils.errors import UserError
from utils.evaluation.metrics import fitness
from utils.files import write_text
from utils.hyperparameters import FIELDS, Evolution, Hyperparameters
from utils.plots.canvas import new_figure, save_figure
from utils.reading import read_bytes
from utils.seeding import generator_for

METRICS = RESULT_COLUMNS[4:11]  # precision to mAP50-95, and the losses of validation
MOST_BYTES = 64 << 20  # of an evolve.csv
PARENTS = 5  # how many of the best may have offspring
PROBABILITY, SIGMA = 0.8, 0.2  # of a change, for each hyper-parameter; and its relative size
DIGITS = 5  # significant digits of a mutated value
ATTEMPTS = 100
# what may be changed, and how
EVOLUTIONS: dict[str, Evolution] = {
    name: field.metadata["evolution"] for name, field in FIELDS.items() if field.metadata.get("evolution")
}


TrainOnce = Callable[[Hyperparameters, int], Sequence[float]]


@dataclass(frozen=True)
class Trial:
    """One generation: what was tried, and the seven `METRICS` that came of it."""

    metrics: tuple[float, ...]
    hyp: Hyperparameters

    @property
    def fitness(self) -> float:
        """0.1 mAP50 + 0.9 mAP50-95; 0 for a training that diverged."""
        value = fitness(*self.metrics[:4])
        return value if math.isfinite(value) else 0.0


def evolve(
    train_once: TrainOnce,
    base: Hyperparameters,
    generations: int,
    folder: Path,
    *,
    seed: int = 0,
    population: Sequence[Hyperparameters] = (),
    resume: Path | None = None,
) -> Hyperparameters:
    """Run an evolution until there are `generations` results in all, and return the best hyper-parameters.

    Writes `evolve.csv` and `hyp_evolve.yaml` into `folder` after each generation, `evolve.png` at the end.

    Args:
        train_once: trains with the given hyper-parameters as generation k and returns the `METRICS`.
        base: what generation 0 tries, unchanged.
        population: what the generations after it try, unchanged, before mutation begins.
        resume: an `evolve.csv` whose results count as done.

    Raises:
        UserError: no generations, or an unusable file to resume.
    """
    if generations < 1:
        raise UserError(f"--evolve {generations}: at least one generation is needed")
    trials = load_trials(resume) if resume is not None else []
    first = (base, *population)
    if trials:
        save_trials(folder, trials)
    while len(trials) < generations:
        generation = len(trials)
        hyp = first[generation] if generation < len(first) else offspring(trials, seed, generation)
        trials.append(tried(train_once, hyp, generation))
        save_trials(folder, trials)
    plot_trials(trials, folder / "evolve.png")
    return best(trials).hyp


def tried(train_once: TrainOnce, hyp: Hyperparameters, generation: int) -> Trial:
    """One generation."""
    metrics = tuple(map(float, train_once(hyp, generation)))
    if len(metrics) != len(METRICS):
        raise ValueError(f"train_once returned {len(metrics)} numbers; it must return {METRICS}")
    return Trial(metrics, hyp)


def best(trials: Sequence[Trial]) -> Trial:
    """The fittest trial, the earliest of equals."""
    return max(trials, key=lambda trial: trial.fitness)


def offspring(trials: Sequence[Trial], seed: int, generation: int) -> Hyperparameters:
    """What a generation after `trials` tries: one of the best, mutated."""
    rng = generator_for(seed, generation)
    return mutate(choose_parent(trials, rng), rng)


def choose_parent(trials: Sequence[Trial], rng: np.random.Generator) -> Hyperparameters:
    """One of the `PARENTS` fittest, drawn with a weight of its lead over the least fit of them."""
    fittest = sorted(trials, key=lambda trial: trial.fitness, reverse=True)[:PARENTS]
    lead = np.array([trial.fitness for trial in fittest])
    weights = lead - lead.min() + 1e-6  # equals have equal chances, and the last one has some
    return fittest[rng.choice(len(fittest), p=weights / weights.sum())].hyp


def mutate(hyp: Hyperparameters, rng: np.random.Generator) -> Hyperparameters:
    """Scale most values by a normal factor around 1, as `EVOLUTIONS` allow. A 0 means off and stays off.

    The result differs from `hyp` unless nothing can change.
    """
    values = {key: getattr(hyp, key) for key in EVOLUTIONS}
    for _ in range(ATTEMPTS):
        changed: dict[str, Any] = {
            key: _mutated(value, EVOLUTIONS[key], rng) for key, value in values.items() if value
        }
        child = dataclasses.replace(hyp, **changed)
        if child != hyp:
            return child
    return hyp


def _mutated(value: float, allowed: Evolution, rng: np.random.Generator) -> float:
    draw, step = rng.random(), rng.normal()  # always two draws: no key depends on what happened to another
    if draw >= PROBABILITY or allowed.gain == 0:
        return value
    factor = max(1 + allowed.gain * SIGMA * step, 0.1)
    return float(f"{min(max(value * factor, allowed.low), allowed.high):.{DIGITS}g}")


def load_population(folder: Path) -> list[Hyperparameters]:
    """The hyper-parameters in the yamls of a folder, in the order of their names.

    Raises:
        UserError: no yaml there, or an unusable one.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise UserError(f"--evolve_population {folder}: no hyper-parameter yaml in this folder")
    return [load_hyperparameters(file) for file in files]


def load_trials(path: Path) -> list[Trial]:
    """Read an `evolve.csv`.

    Raises:
        UserError: missing, or not as `save_trials` writes it.
    """
    if not path.is_file():
        raise UserError(f"--resume_evolve {path}: no such file")
    try:
        text = read_bytes(path, MOST_BYTES).decode()
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not an evolve.csv: {' '.join(str(error).split())[:150]}") from error
    if not rows or rows[0] != [*METRICS, *FIELDS]:
        raise UserError(f"{path}: not an evolve.csv of this version; its first line names other columns")
    trials = []
    for line, row in enumerate(rows[1:], start=2):
        place = f"{path}: line {line}"
        if len(row) != len(rows[0]):
            raise UserError(f"{place}: {len(row)} columns instead of {len(rows[0])}")
        try:
            metrics = tuple(map(float, row[: len(METRICS)]))
        except ValueError as error:
            raise UserError(f"{place}: {error}") from error
        values = dict(zip(FIELDS, map(_value, row[len(METRICS) :])))
        trials.append(Trial(metrics, as_hyp(place, values)))
    return trials


def as_hyp(place: str, values: Mapping[str, Any]) -> Hyperparameters:
    """Hyper-parameters from values that were saved.

    Raises:
        UserError: an unusable one; the message begins with `place`.
    """
    return Hyperparameters(**{key: checked(place, key, value) for key, value in values.items()})


def _value(text: str) -> float | str | None:
    """What a hyper-parameter's cell holds: a number, a word, or nothing for None."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def save_trials(folder: Path, trials: Sequence[Trial]) -> None:
    """Write all of `evolve.csv`, with every digit, and the best so far as `hyp_evolve.yaml`."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")  # it quotes the name of a loss that has commas
    rows.writerow((*METRICS, *FIELDS))
    for trial in trials:
        rows.writerow((*trial.metrics, *dataclasses.asdict(trial.hyp).values()))
    write_text(folder / "evolve.csv", table.getvalue())
    winner = best(trials)
    shown = ", ".join(f"{name.split('/')[1]} {value:.4g}" for name, value in zip(METRICS, winner.metrics))
    head = f"# best of {len(trials)} generations, fitness {winner.fitness:.4g}\n# {shown}\n"
    body = yaml.safe_dump(dataclasses.asdict(winner.hyp), sort_keys=False)
    write_text(folder / "hyp_evolve.yaml", head + body)


def plot_trials(trials: Sequence[Trial], path: Path) -> None:
    """Draw fitness against each hyper-parameter that is not off throughout; a cross marks the best."""
    keys = [key for key in EVOLUTIONS if any(getattr(trial.hyp, key) for trial in trials)]
    columns = 6
    rows = math.ceil(len(keys) / columns)
    # placed by hand: an automatic layout of thirty small plots takes seconds
    figure = new_figure(2.3 * columns, 2.0 * rows, automatic=False)
    figure.subplots_adjust(0.04, 0.04, 0.99, 0.96, wspace=0.35, hspace=0.5)
    winner, scores = best(trials), [trial.fitness for trial in trials]
    for place, key in enumerate(keys, start=1):
        axes = figure.add_subplot(rows, columns, place)
        value = getattr(winner.hyp, key) or 0.0
        axes.plot([getattr(trial.hyp, key) or 0.0 for trial in trials], scores, ".", alpha=0.6)
        axes.plot(value, winner.fitness, "k+", markersize=14)
        axes.set_title(f"{key} {value:.4g}", fontsize=8)
        axes.tick_params(labelsize=6)
    save_figure(figure, path)
