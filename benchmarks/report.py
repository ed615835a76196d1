"""Complexity, latency and accuracy of variants on one page that needs nothing but a browser.

    python benchmark.py report --latency latency.json --accuracy runs/benchmark/bccd/results.csv

`--latency` is what `benchmark.py latency --json` wrote, `--accuracy` the table of `benchmark.py train`.
"""

from __future__ import annotations

import csv
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.latency_page import Machine, Timing
from benchmarks.pages import check_page
from benchmarks.report_page import DEPLOYED, MARK, Accuracy, Report, html_page
from benchmarks.results_page import bare
from benchmarks.runs import arguments
from utils.errors import UserError
from utils.files import find_file
from utils.flags import CommandConfig, flag


@dataclass(frozen=True)
class Config(CommandConfig):
    """Join latency and accuracy into one self-contained HTML page."""

    latency: str = flag("", "JSON file of `benchmark.py latency --json`")
    accuracy: str = flag("", "results.csv of `benchmark.py train`; without it, the page has no accuracy")
    output: str = flag("docs/report.html", "page to write")
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
    check_page(target, MARK, "--output")
    record, timings, machine = read_latency(find_file(config.latency))
    accuracy = read_accuracy(find_file(config.accuracy)) if config.accuracy else {}
    known = {timing.variant for timing in timings}
    if accuracy and not known & set(accuracy):
        raise UserError(f"{config.accuracy} and {config.latency} have no network in common")
    report = Report(
        title=config.title,
        source=config.source,
        commands=(
            str(record["command"]),
            shlex.join(("python", "benchmark.py", "report", *map(bare, arguments(config)))),
        ),
        baseline=str(record["baseline"]),
        setting=setting_of(record),
        machine=machine,
        timings=timings,
        accuracy={name: value for name, value in accuracy.items() if name in known},
    )
    target.write_text(html_page(report), encoding="utf-8")
    print(f"{target}: {len(known)} networks, {len(report.accuracy)} of them with accuracy")


def setting_of(record: dict[str, Any]) -> str:
    """How the latency was measured, in words."""
    return "{imgsz} px, batch {batch}, {threads} threads, {date}".format(**record)


def read_latency(path: Path) -> tuple[dict[str, Any], list[Timing], Machine]:
    """The record, its timings and the machine.

    Raises:
        UserError: not a file of `benchmark.py latency --json`.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        timings = [Timing.read(row) for row in record["timings"]]
        machine = Machine(**record["machine"])
        machine.versions.items()
        for name in ("command", "date", "baseline", "imgsz", "batch", "threads"):
            record[name]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not what `benchmark.py latency --json` writes ({error})") from error
    if not any(timing.form == DEPLOYED for timing in timings):
        raise UserError(f"{path} has no timings of deployed networks")
    return record, timings, machine


def read_accuracy(path: Path) -> dict[str, Accuracy]:
    """Means over the seeds by variant.

    Raises:
        UserError: not a results.csv of `benchmark.py train`.
    """
    scores: dict[str, list[tuple[float, float]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            for row in csv.DictReader(stream):
                pair = float(row["mAP50"]), float(row["mAP50-95"])
                if not all(0 <= score <= 1 for score in pair):  # NaN is not
                    raise ValueError(f"mAP of {row['variant']} must lie between 0 and 1")
                scores.setdefault(row["variant"], []).append(pair)
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is not a results.csv of `benchmark.py train` ({error})") from error
    if not scores:
        raise UserError(f"{path} is not a results.csv of `benchmark.py train` (it has no rows)")
    return {
        name: Accuracy(
            map50=mean(first for first, _ in rows),
            map=mean(second for _, second in rows),
            spread=stdev(second for _, second in rows) if len(rows) > 1 else None,
            seeds=len(rows),
        )
        for name, rows in scores.items()
    }
