"""Complexity, latency and accuracy of variants on one page that needs nothing but a browser.

    python benchmark.py report --latency latency.json --accuracy runs/benchmark/bccd/results.csv

`--latency` is what `benchmark.py latency --json` wrote, `--accuracy` the table of `benchmark.py train`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from markupsafe import Markup

from benchmarks.pages import check_page, command_line, mark_of, render
from benchmarks.plots import Point, bars, scatter
from benchmarks.timings import ALLOWED, Timing, by_runtime, read_latency
from utils.errors import UserError
from utils.files import find_file, write_text
from utils.flags import CommandConfig, flag
from utils.plots.canvas import svg_of

TEMPLATE = "report.html.j2"
DEPLOYED, INT8 = "deployed", "int8"
# by variant: the means `map` of mAP50-95 and `map50` over the seeds, the sample standard deviation `spread`
# of mAP50-95, and the number of `seeds`
Accuracy: TypeAlias = dict[Any, dict[Any, Any]]


@dataclass(frozen=True)
class Config(CommandConfig):
    """Join latency and accuracy into one self-contained HTML page."""

    latency: str = flag("", "JSON file of `benchmark.py latency --json`")
    accuracy: str = flag("", "results.csv of `benchmark.py train`; without it, the page has no accuracy")
    output: str = flag("runs/report.html", "page to write")
    title: str = flag("Lighter, and faster?", "heading of the page")
    source: str = flag("", "a sentence about where the accuracy comes from")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.latency:
            raise ValueError("--latency: name the file that `benchmark.py latency --json` wrote")


def run(config: Config) -> None:
    """Write the page.

    Raises:
        UserError: a file that is missing or was not written by the other command, or no network in both.
    """
    target = Path(config.output)
    check_page(target, mark_of(TEMPLATE), "--output")
    record = read_latency(find_file(config.latency))
    timings = record["timings"]
    if not any(timing.form == DEPLOYED for timing in timings):
        raise UserError(f"{config.latency} has no timings of deployed networks")
    accuracy = read_accuracy(find_file(config.accuracy)) if config.accuracy else {}
    known = {timing.variant for timing in timings}
    if accuracy and not known & set(accuracy):
        raise UserError(f"{config.accuracy} and {config.latency} have no network in common")
    accuracy = {name: scores for name, scores in accuracy.items() if name in known}
    text = render(
        TEMPLATE,
        **record,
        title=config.title,
        source=config.source,
        own_command=shlex.join(command_line("report", config)),
        runtimes=by_runtime(timings),
        accuracy=accuracy,
        plots=plots(timings, accuracy),
        allowed=ALLOWED,
    )
    write_text(target, text)
    print(f"{target}: {len(known)} networks, {len(accuracy)} of them with accuracy")


def read_accuracy(path: Path) -> Accuracy:
    """Means over the seeds.

    Raises:
        UserError: not a results.csv of `benchmark.py train`.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str, index_col=False, keep_default_na=False)
        scores = table[["mAP50", "mAP50-95"]].astype(float)
        if table.empty or not ((scores >= 0) & (scores <= 1)).all(axis=None):  # NaN is neither
            raise ValueError("mAP must lie between 0 and 1")
        seeds = scores.groupby(table["variant"])
        columns = {"map50": seeds["mAP50"].mean(), "map": seeds["mAP50-95"].mean()}
        means = pd.DataFrame({**columns, "spread": seeds["mAP50-95"].std(), "seeds": seeds.size()})
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not a results.csv of `benchmark.py train` ({reason})") from error
    return means.to_dict("index")


def plots(timings: list[Timing], accuracy: Accuracy) -> list[tuple[str, str, Markup]]:
    """Title, note and drawing: accuracy against latency, latency against FLOPs, and size."""
    found = []
    runtimes = by_runtime(timings)
    for runtime, rows in runtimes.items() if accuracy else ():
        points = [
            Point(short(row), row.milliseconds[1], accuracy[row.variant]["map"], marked=row.is_baseline)
            for row in rows
            if row.form == DEPLOYED and row.variant in accuracy
        ]
        note = "Line: no other network is both faster and more accurate."
        drawn = scatter(points, "", "ms", "mAP50-95", frontier=True)
        found.append((f"Accuracy against latency, {runtime}", note, drawn))
    for runtime, rows in runtimes.items():
        points = [
            Point(
                short(row), row.flops_ratio, row.ratio[1], marked=row.is_baseline, hollow=row.form != DEPLOYED
            )
            for row in rows
            if row.form != INT8
        ]
        note = "Below the line: as much faster as it is lighter, or more. Hollow: public form."
        drawn = scatter(points, "", "FLOPs, ratio", "latency, ratio", diagonal=True)
        found.append((f"Latency against FLOPs, {runtime}", note, drawn))
    first = next(iter(runtimes.values()))
    sizes = {short(row): row.parameters / 1e6 for row in first if row.form == DEPLOYED}
    found.append(("Size", "Of the fused network.", bars(sizes, "", "million parameters")))
    return [(title, note, Markup(svg_of(figure, title))) for title, note, figure in found]


def short(row: Timing) -> str:
    """A variant's name without what most of them share."""
    return row.variant.removeprefix("yolov5n-")
