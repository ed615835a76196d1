"""Runs of several variants put side by side: means, the spread over seeds, and what lies beyond it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.outcome import Facts, Outcome

CONFIDENCE = 0.95  # of the statement that a difference is more than the choice of the seeds


@dataclass(frozen=True)
class Score:
    """Mean and sample standard deviation over seeds; of one seed there is no deviation."""

    mean: float
    sd: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Score:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Variant:
    """All finished runs of one variant, in the order of their seeds."""

    name: str
    runs: tuple[Outcome, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def map50(self) -> Score:
        return Score.of([run.map50 for run in self.runs])

    @property
    def map50_95(self) -> Score:
        return Score.of([run.map50_95 for run in self.runs])

    @property
    def facts(self) -> Facts:
        return self.runs[0].facts

    @property
    def seconds(self) -> float | None:
        """Median over all epochs of all runs; None when no epoch was timed."""
        found = [seconds for run in self.runs for seconds in run.seconds]
        return statistics.median(found) if found else None


@dataclass(frozen=True)
class Spread:
    """Standard deviation of mAP50-95 over seeds, pooled over variants, and its degrees of freedom."""

    sd: float
    freedom: int

    def limit(self, a: int, b: int) -> float:
        """The difference between means over `a` and over `b` seeds that chance exceeds one time in twenty.

        Half the width of Student's confidence interval, for the sd is itself an estimate.
        """
        from scipy.special import stdtrit  # a dependency of scikit-learn; costs most of a second

        quantile = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2))
        return quantile * self.sd * math.sqrt(1 / a + 1 / b)


@dataclass(frozen=True)
class Comparison:
    """Variants by falling mAP50-95, one of which is what the others are compared with."""

    variants: tuple[Variant, ...]
    baseline: Variant

    @classmethod
    def of(cls, runs: Sequence[Outcome], baseline: str) -> Comparison:
        """Put runs together by variant; `baseline` is the name of one of them."""
        names = sorted({run.variant for run in runs})
        variants = [
            Variant(name, tuple(sorted((r for r in runs if r.variant == name), key=lambda run: run.seed)))
            for name in names
        ]
        variants.sort(key=lambda variant: -variant.map50_95.mean)
        return cls(tuple(variants), next(v for v in variants if v.name == baseline))

    @property
    def repeated(self) -> tuple[Variant, ...]:
        """Those with several seeds."""
        return tuple(variant for variant in self.variants if len(variant.runs) > 1)

    @property
    def spread(self) -> Spread | None:
        """The pooled spread: sqrt(sum (n - 1) sd^2 / sum (n - 1)) over variants of n > 1 seeds."""
        if not self.repeated:
            return None
        freedom = sum(len(variant.runs) - 1 for variant in self.repeated)
        squares = sum((len(v.runs) - 1) * (v.map50_95.sd or 0.0) ** 2 for v in self.repeated)
        return Spread(math.sqrt(squares / freedom), freedom)

    def difference(self, variant: Variant) -> float:
        """Mean mAP50-95 of a variant minus that of the baseline."""
        return variant.map50_95.mean - self.baseline.map50_95.mean
