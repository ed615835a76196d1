"""Runs of several variants put side by side: means, the spread over seeds, and what lies beyond it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95  # of the statement that a difference is more than the choice of the seeds


@dataclass(frozen=True)
class Comparison:
    """Variants compared with one of them.

    Attributes:
        variants: a row each, by falling mAP50-95: `variant`; `runs`, a number, and their `seeds`; the means
            `map50` and `map50_95` with their sample standard deviations `map50_sd` and `map50_95_sd` (NaN of
            one run); `difference` of map50_95 to the baseline's; `seconds`, the median over all epochs of all
            runs (NaN when none was timed); of the first run what `benchmarks.outcome` says of the network.
        baseline: the row of the one that the others are compared with.
        sd: standard deviation of mAP50-95 over seeds, pooled over the variants of n > 1 runs:
            sqrt(sum (n - 1) sd^2 / sum (n - 1)). NaN when there are none.
        freedom: the degrees of freedom of `sd`.
    """

    variants: list[Any]
    baseline: Any
    sd: float
    freedom: int

    @classmethod
    def of(cls, outcomes: pd.DataFrame, baseline: str) -> Comparison:
        """Put rows of `benchmarks.outcome.outcomes` together by variant; `baseline` is the name of one."""
        groups = outcomes.sort_values(["variant", "seed"]).groupby("variant")
        table = groups.agg(
            runs=("seed", "size"), seeds=("seed", tuple), map50=("map50", "mean"), map50_sd=("map50", "std"),
            map50_95=("map50_95", "mean"), map50_95_sd=("map50_95", "std"),
        )  # fmt: skip
        table = table.join(groups[["cfg", "parameters", "gflops", "gflops_640", "transferred"]].first())
        table["difference"] = table["map50_95"] - table["map50_95"][baseline]
        seconds = outcomes.set_index("variant")["seconds"].explode().astype(float)
        table["seconds"] = seconds.groupby("variant").median()
        weights = table["runs"] - 1
        freedom, squares = int(weights.sum()), (weights * table["map50_95_sd"] ** 2).sum()
        table = table.sort_values("map50_95", ascending=False, kind="stable").reset_index()
        rows = list(table.itertuples())
        own = next(row for row in rows if row.variant == baseline)
        return cls(rows, own, math.sqrt(squares / freedom) if freedom else math.nan, freedom)

    def limit(self, a: int, b: int) -> float:
        """The difference between means over `a` and over `b` runs that chance exceeds one time in twenty.

        Half the width of Student's confidence interval, for the sd is itself an estimate.
        """
        from scipy.special import stdtrit  # a dependency of scikit-learn; costs most of a second

        quantile = float(stdtrit(self.freedom, (1 + CONFIDENCE) / 2))
        return quantile * self.sd * math.sqrt(1 / a + 1 / b)

    def told(self, verdict: str) -> list[str]:
        """Names of the variants "above", "below" or "within" what chance explains beside the baseline."""
        found: dict[str, list[str]] = {"above": [], "below": [], "within": []}
        for row in self.variants:
            if row is not self.baseline:
                limit = self.limit(row.runs, self.baseline.runs)
                within = abs(row.difference) <= limit
                found["within" if within else "above" if row.difference > 0 else "below"].append(row.variant)
        return found[verdict]
