"""Candidates beside the baseline, seed by seed: differences of pairs, their mean, and how sure that is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.outcome import FACTS
from benchmarks.study.candidates import Candidate, Stage, Task, best_epoch
from utils.errors import UserError

CONFIDENCE = 0.95
BETTER, WORSE, OPEN = "better", "worse", "not told apart"


@dataclass(frozen=True)
class Result:
    """What came of a task.

    Attributes:
        scores: precision, recall, mAP50 and mAP50-95 of every epoch.
        seconds: of each epoch that was timed as a whole.
        facts: see `benchmarks.outcome.FACTS`.
    """

    scores: list[list[float]]
    seconds: list[float]
    facts: dict[str, Any]

    @property
    def epoch(self) -> int:
        return best_epoch(self.scores)

    @property
    def map50(self) -> float:
        return self.scores[self.epoch][2]

    @property
    def map50_95(self) -> float:
        return self.scores[self.epoch][3]


def read_results(found: Mapping[str, Any], study: object) -> dict[str, Result]:
    """What a study says came of its tasks, every value checked: others may have written it.

    Raises:
        UserError: it is not what `work.py` writes.
    """
    results = {}
    for name, values in found.items():
        if "@" not in name:
            continue
        try:
            scores = np.array(values["scores"], dtype=float)
            seconds = np.array(values["seconds"], dtype=float)
            if scores.ndim != 2 or scores.shape[1] != 4 or not len(scores) or not np.isfinite(scores).all():
                raise ValueError("scores")
            facts = {key: kind(values["facts"][key]) for key, kind in FACTS.items()}
            if not (np.isfinite(seconds).all() and math.isfinite(facts["gflops"] + facts["gflops_640"])):
                raise ValueError("costs")
            for key in ("torch", "device"):
                facts[key] = re.sub(r"[^\w .+()-]", "_", facts[key])[:60]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise UserError(f"{study}: what it says of {name} is damaged; begin another --name") from error
        results[name] = Result(scores.tolist(), seconds.ravel().tolist(), facts)
    return results


@dataclass(frozen=True)
class Row:
    """A candidate with the results of some seeds, beside the baseline with the same.

    Attributes:
        map50, map50_95: of each seed at its best epoch.
        differences: of mAP50-95 to the baseline with the same seed.
        chose: how many of the seeds, the first ones, have taken part in the choice of who goes on.
    """

    candidate: Candidate
    results: list[Result]
    differences: list[float]
    chose: int

    @property
    def map50(self) -> list[float]:
        return [result.map50 for result in self.results]

    @property
    def map50_95(self) -> list[float]:
        return [result.map50_95 for result in self.results]

    @property
    def facts(self) -> dict[str, Any]:
        return self.results[0].facts

    @property
    def difference(self) -> float:
        return float(np.mean(self.differences))

    @property
    def fresh(self) -> float:
        """The difference by the seeds that chose nobody; NaN without any."""
        others = self.differences[self.chose :]
        return float(np.mean(others)) if others else math.nan

    @property
    def margin(self) -> float:
        """Half of Student's interval of the mean difference; NaN of one pair, which has no spread."""
        from scipy.special import stdtrit  # a dependency of scikit-learn; costs most of a second

        count = len(self.differences)
        if count < 2:
            return math.nan
        quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
        return quantile * float(np.std(self.differences, ddof=1)) / math.sqrt(count)

    @property
    def verdict(self) -> str:
        if not abs(self.difference) > self.margin:  # of one pair, neither is true
            return OPEN
        return BETTER if self.difference > 0 else WORSE


def rows_of(
    stage: Stage, who: Sequence[Candidate], baseline: Candidate, seeds: Sequence[int],
    results: Mapping[str, Result], chose: int,
) -> list[Row]:  # fmt: skip
    """Those of `who` with results of a stage, by falling mAP50-95. Seeds count that the baseline has, too."""
    rows = []
    for one in who:
        pairs = [
            (results[task], results[base])
            for seed in seeds[: stage.rung.seeds]
            if (task := Task(one, seed, stage.rung.epochs).name) in results
            and (base := Task(baseline, seed, stage.rung.epochs).name) in results
        ]
        if pairs:
            differences = [own.map50_95 - its.map50_95 for own, its in pairs]
            rows.append(Row(one, [own for own, _ in pairs], differences, chose))
    return sorted(rows, key=lambda row: -float(np.mean(row.map50_95)))
