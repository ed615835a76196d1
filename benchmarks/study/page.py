"""The page of a study, its plot and its table: what helped, what did not, and what is not known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pages import bare, render
from benchmarks.study.candidates import Candidate, Rung, Stage
from benchmarks.study.pairs import BETTER, CONFIDENCE, OPEN, WORSE, Result, Row, rows_of
from benchmarks.train_config import Config
from training.study_storage import shown_address
from utils.data.index import DatasetIndex
from utils.files import write_text
from utils.flags import arguments
from utils.plots.canvas import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "study.md.j2"
COLUMNS = (
    "network", "loss", "seed", "epochs", "best epoch", "precision", "recall", "mAP50", "mAP50-95",
    "difference", "parameters", "GFLOPs", "taken over", "seconds per epoch",
)  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """All that the page is made of.

    Attributes:
        plan: the rungs so far.
        timing: of the networks, as `work.py` writes it down; None where nobody has.
        index: the validation split.
    """

    config: Config
    candidates: list[Candidate]
    rungs: list[Rung]
    seeds: list[int]
    plan: list[Stage]
    results: dict[str, Result]
    timing: Any
    index: DatasetIndex
    notes: str

    @property
    def baseline(self) -> Candidate:
        return self.candidates[0]

    @property
    def chose(self) -> int:
        """How many seeds, the first ones, took part in a choice."""
        return max((rung.seeds for rung in self.rungs[:-1]), default=0)

    @property
    def final(self) -> list[Row]:
        """Those who are, or would be, trained to the end."""
        last = self.plan[-1]
        if len(self.plan) < len(self.rungs):
            return []
        return rows_of(last, last.field, self.baseline, self.seeds, self.results, self.chose)

    @property
    def stopped(self) -> list[tuple[Stage, list[Row]]]:
        """Who went no further than each rung."""
        found = []
        for stage in self.plan:
            if stage.rung is not self.rungs[-1]:
                who = stage.out if stage is not self.plan[-1] else stage.field
                rows = rows_of(stage, who, self.baseline, self.seeds, self.results, self.chose)
                found.append((stage, rows))
        return [(stage, rows) for stage, rows in found if rows]

    def told(self, verdict: str) -> list[str]:
        """Whom a verdict is about."""
        others = (row for row in self.final if row.candidate != self.baseline)
        return [str(row.candidate) for row in others if row.verdict == verdict]

    @property
    def failed(self) -> dict[Candidate, str]:
        return {
            one: " ".join(why.split())[:200].replace("|", "/")
            for stage in self.plan
            for one, why in stage.failed.items()
        }

    @property
    def missing(self) -> int:
        """Trainings of the rung under way that have no result yet."""
        return sum(task.name not in self.results for task in self.plan[-1].tasks) - len(self.plan[-1].failed)

    @property
    def milliseconds(self) -> dict[str, tuple[float, float, float]]:
        """Quartiles by network."""
        timing = self.timing if isinstance(self.timing, dict) else {}
        found = {}
        networks = timing.get("networks")
        for name, values in networks.items() if isinstance(networks, dict) else ():
            low, middle, high = (float(value) for value in values)
            found[str(name)] = (low, middle, high)
        return found


def write_everything(findings: Findings) -> None:
    """Write the page, its plot and `results.csv`."""
    config, final = findings.config, findings.final
    write_text(config.folder / "results.csv", csv_of(findings))
    plot = config.page.with_suffix(".png")
    rows = final or next((rows for _, rows in findings.stopped[::-1]), [])
    if not rows:
        return
    save_figure(picture_of(rows, findings.baseline), plot)
    shown = replace(config, study=shown_address(config.study) if config.study else "")
    command = ("python", "benchmark.py", "train", *map(bare, arguments(shown)))
    facts = [result.facts for result in findings.results.values()]
    machines = sorted({(fact["torch"], fact["device"], fact["threads"]) for fact in facts})
    page = render(
        TEMPLATE,
        f=findings,
        config=config,
        command=command,
        machines=machines,
        final=final,
        verdicts={verdict: findings.told(verdict) for verdict in (BETTER, WORSE, OPEN)},
        several=any(len(row.results) > 1 for row in final),
        plot=plot.name,
        machine=timed_on(findings.timing),
        confidence=CONFIDENCE,
        images=len(findings.index),
        labels=len(findings.index.boxes),
        notes=findings.notes,
        mean=lambda values: float(np.mean(values)),
        sd=lambda values: float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
    )
    write_text(config.page, page)


def timed_on(timing: Any) -> str:
    found = timing.get("machine") if isinstance(timing, Mapping) else None
    return " ".join(str(found).split())[:80] if found else ""


def csv_of(findings: Findings) -> str:
    """A line for each training that has a result; the difference is that to the baseline with its seed."""
    import pandas as pd

    lines = []
    for stage in findings.plan:
        for task in stage.tasks:
            if (result := findings.results.get(task.name)) is None:
                continue
            base = findings.results.get(replace(task, candidate=findings.baseline).name)
            difference = math.nan if base is None else result.map50_95 - base.map50_95
            facts, epoch = result.facts, result.epoch
            lines.append(
                (
                    task.candidate.network, task.candidate.iou or "as in hyp", task.seed, task.epochs,
                    epoch, *result.scores[epoch], difference, facts["parameters"], facts["gflops"],
                    facts["transferred"], float(np.median(result.seconds)) if result.seconds else math.nan,
                )
            )  # fmt: skip
    return pd.DataFrame(lines, columns=COLUMNS).to_csv(index=False, float_format="%.6g", lineterminator="\n")


def picture_of(rows: Sequence[Row], baseline: Candidate) -> Figure:
    """The mean difference of each candidate to the baseline, its interval, and every pair."""
    others = [row for row in rows if row.candidate != baseline][::-1] or list(rows)
    figure = new_figure(9, 1.6 + 0.32 * len(others))
    axes = figure.add_subplot()
    axes.axvline(0, color="0.5", linewidth=1)
    for place, row in enumerate(others):
        axes.plot(row.differences, [place] * len(row.differences), "o", color="0.6", markersize=4)
        error = None if math.isnan(row.margin) else row.margin
        axes.errorbar(row.difference, place, xerr=error, fmt="D", color="C0", capsize=3, markersize=5)
    axes.set_yticks(range(len(others)), [str(row.candidate) for row in others], fontsize=8)
    axes.set_xlabel(f"mAP50-95 beside {baseline} with the same seed")
    axes.set_title("Grey: a pair of equal seeds; blue: their mean and its 95 % interval", fontsize=9)
    return figure
