"""What a study compares, and successive halving: who is trained how long, with which seeds.

Every rung trains its whole field with the same seeds and for as many epochs, and only then the best of it
go on (Jamieson & Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016).
The asynchronous form (Li et al., 2018), which Optuna's SuccessiveHalvingPruner is, waits for nobody, but whom
it stops depends on who happened to be faster; here it does not, and all pairs have equal seeds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.evaluation.metrics import fitness
from utils.files import safe_name
from utils.losses.composition import BoxLoss

RUNG = re.compile(r"(\d{1,6})(?:x(\d{1,6}))?", re.ASCII)
KEEP = re.compile(r"\d{1,6}(?:/[1-9]\d{0,5}|\.\d{1,6})?", re.ASCII)
NAME_BYTES = 80  # of a folder's name, without its seed
PLUS = "+"  # between blocks that are put in together


@dataclass(frozen=True)
class Candidate:
    """One way to train.

    Attributes:
        cfg: the network, as it was named.
        iou: the box loss, canonical; empty for that of the hyper-parameters.
        insert: blocks to put into it, as `--insert` of train.py takes them.
    """

    cfg: str
    iou: str = ""
    insert: tuple[str, ...] = ()

    @property
    def network(self) -> str:
        """What is trained, whatever the loss."""
        return ", ".join((safe_name(Path(self.cfg).name.removesuffix(".yaml")), *self.insert))

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.network, self.iou)))

    @property
    def slug(self) -> str:
        """The beginning of its folders' names, without what a shell would want in quotes."""
        return re.sub(r"[^\w.=+-]+", "_", str(self), flags=re.ASCII).strip("_")


@dataclass(frozen=True)
class Rung:
    """A part of the training after which only the best go on; the last one has all epochs and seeds."""

    epochs: int
    seeds: int


@dataclass(frozen=True)
class Task:
    """The training of a candidate with a seed up to the end of a rung."""

    candidate: Candidate
    seed: int
    epochs: int

    @property
    def name(self) -> str:
        """By which processes know it."""
        return f"{self.candidate.slug}-seed{self.seed}@{self.epochs}"


def rung_fault(text: str) -> str:
    return "" if RUNG.fullmatch(text) else "must be EPOCHS or EPOCHSxSEEDS, such as 4 or 4x2"


def keep_fault(text: str) -> str:
    share = "must be a share such as 1/3, or a number of candidates such as 10"
    if not KEEP.fullmatch(text):
        return share
    value = Fraction(text)
    return "" if 0 < value < 1 or (value >= 1 and text.isdecimal()) else share


def rungs_of(texts: Sequence[str], epochs: int, seeds: int) -> list[Rung]:
    """All rungs, the last one too.

    Raises:
        ValueError: they do not grow.
    """
    found = []
    for text in texts:
        told = RUNG.fullmatch(text)
        assert told is not None
        found.append(Rung(int(told[1]), int(told[2] or 1)))
    found.append(Rung(epochs, seeds))
    for before, after in zip([Rung(0, 1), *found], found):
        if after.epochs <= before.epochs:
            raise ValueError(f"--rungs: the epochs must grow, to fewer than --epochs {epochs}")
        if not before.seeds <= after.seeds:
            raise ValueError(f"--rungs: the seeds must not become fewer; --seeds has {seeds}")
    return found


def candidates_of(
    cfgs: Sequence[str], losses: Sequence[str], insertions: Sequence[str], usual: str, singly: bool
) -> list[Candidate]:
    """What is compared; the first is the baseline: the first network, as it is.

    Args:
        losses: as named on the command line.
        insertions: each one of blocks, joined by `PLUS`.
        usual: the box loss of the hyper-parameters.
        singly: only one thing differs from the baseline, instead of every combination.

    Raises:
        UserError: two of them would share a folder.
    """
    own = str(BoxLoss(usual))
    ious = list(dict.fromkeys(["", *(text for text in map(_canonical, losses) if text != own)]))
    puts = list(dict.fromkeys([(), *(tuple(map(str.strip, text.split(PLUS))) for text in insertions)]))
    found = [
        Candidate(cfg, iou, put)
        for cfg in dict.fromkeys(cfgs)
        for put in puts
        for iou in ious
        if not singly or (cfg != cfgs[0]) + bool(iou) + bool(put) <= 1
    ]
    slugs: dict[str, Candidate] = {}
    for candidate in found:
        other = slugs.setdefault(candidate.slug.lower(), candidate)
        if other != candidate:
            raise UserError(f"'{other}' and '{candidate}' share the folders {candidate.slug}; rename one")
        if len(candidate.slug) > NAME_BYTES:
            raise UserError(f"'{candidate}' is too long for a folder's name; save its network as a yaml")
    return found


def _canonical(text: str) -> str:
    return str(BoxLoss(text))


def best_epoch(scores: Sequence[Sequence[float]]) -> int:
    """The fittest of epochs with their precision, recall, mAP50 and mAP50-95; the first of equals."""
    return max(range(len(scores)), key=lambda epoch: fitness(*scores[epoch]))


@dataclass(frozen=True)
class Stage:
    """One rung with its field.

    Attributes:
        tasks: seeds outside, candidates inside, so that pairs are trained at about the same time.
        out: candidates that did not go on after it; nobody while it is under way.
        failed: those that could not be trained, and why.
    """

    rung: Rung
    field: list[Candidate]
    tasks: list[Task]
    out: list[Candidate]
    failed: dict[Candidate, str]


def stages(
    candidates: Sequence[Candidate],
    rungs: Sequence[Rung],
    seeds: Sequence[int],
    keep: Sequence[str],
    results: Mapping[str, Any],
    failures: Mapping[str, str],
) -> list[Stage]:
    """The rungs so far, the one under way last. The baseline always goes on.

    Args:
        keep: after each rung but the last, a share of the others or a number of them; the last one holds
            for all that follow.
        results: of tasks by name, each with `scores`, those of every epoch.
        failures: why tasks will not be done.
    """
    field, found = list(candidates), []
    for number, rung in enumerate(rungs):
        tasks = [Task(one, seed, rung.epochs) for seed in seeds[: rung.seeds] for one in field]
        failed = {
            task.candidate: failures[task.name]
            for task in tasks
            if task.name in failures and task.name not in results
        }
        stage = Stage(rung, field, tasks, [], failed)
        found.append(stage)
        if any(task.name not in results and task.name not in failures for task in tasks):
            break
        if rung is rungs[-1]:
            break
        standing = [one for one in field if one not in failed]
        others = sorted(
            (one for one in standing if one is not candidates[0]),
            key=lambda one: -mean_fitness(one, rung, seeds, results),
        )
        going = others[: _kept(keep[min(number, len(keep) - 1)], len(others))]
        stage.out.extend(one for one in others if one not in going)
        field = [one for one in standing if one is candidates[0] or one in going]
    return found


def mean_fitness(one: Candidate, rung: Rung, seeds: Sequence[int], results: Mapping[str, Any]) -> float:
    """Fitness at the best epoch of a rung, the mean over its seeds."""
    scores = [results[Task(one, seed, rung.epochs).name]["scores"] for seed in seeds[: rung.seeds]]
    return sum(fitness(*rows[best_epoch(rows)]) for rows in scores) / len(scores)


def _kept(text: str, count: int) -> int:
    value = Fraction(text)
    return math.ceil(value * count) if value < 1 else min(int(value), count)
