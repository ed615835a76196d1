"""The page of `benchmark.py report`: HTML with its style, its script and its plots inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from benchmarks.latency_page import ALLOWED, Machine, Timing, by_runtime, memory_cell
from benchmarks.report_plots import Point, bars, scatter

TEMPLATE = Path(__file__).with_name("report.html")
DEPLOYED, INT8 = "deployed", "int8"
MARK = "<!-- Written by `benchmark.py report`, which replaces it. -->"  # also in the template
WORDS = ("network", "form", "verdict")  # columns that are not numbers
NUMBER = ' class="number"'


@dataclass(frozen=True)
class Accuracy:
    """Means over the seeds; `spread` is the sample standard deviation of mAP50-95, None with one seed."""

    map50: float
    map: float
    spread: float | None
    seeds: int


@dataclass(frozen=True)
class Report:
    """What stands on the page.

    Attributes:
        source: a sentence about the accuracy.
        commands: that measured the latency, and that made the page.
        setting: of the measurement, in words.
        accuracy: by variant.
    """

    title: str
    source: str
    commands: Sequence[str]
    baseline: str
    setting: str
    machine: Machine
    timings: Sequence[Timing]
    accuracy: dict[str, Accuracy]


def html_page(report: Report) -> str:
    """The whole page."""
    versions = ", ".join(f"{name} {version}" for name, version in report.machine.versions.items())
    sections = []
    for runtime, rows in by_runtime(report.timings).items():
        sections.append(f"<h2>{escape(runtime)} {escape(report.machine.versions.get(runtime, ''))}</h2>")
        sections.append(table(rows, report))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(report.title),
        baseline=escape(report.baseline),
        summary=escape(summary(report)),
        setting=escape(
            f"{report.setting}, on {report.machine.processor} with {report.machine.cores} cores; {versions}"
        ),
        commands=escape("\n".join(report.commands)),
        source=escape(report.source),
        tables="\n".join(sections),
        plots="\n".join(plots(report)),
        allowed=ALLOWED,
    )


def summary(report: Report) -> str:
    """How many lighter networks are faster, in each runtime."""
    sentences = []
    for runtime, rows in by_runtime(report.timings).items():
        lighter = [row for row in rows if row.form == DEPLOYED and row.is_lighter and not row.is_baseline]
        faster = [row for row in lighter if row.ratio[2] < 1]
        kept = [row for row in faster if row.ratio[1] <= ALLOWED * row.flops_ratio]
        sentences.append(
            f"{runtime}: of {len(lighter)} lighter networks {len(faster)} are faster, "
            f"{len(kept)} of them by what their FLOPs promise."
        )
    return " ".join(sentences)


def table(rows: Sequence[Timing], report: Report) -> str:
    """One runtime's table; `data-value` is what a column is sorted by."""
    titles = ["network", "form", "parameters", "FLOPs", "memory", "ms", "latency", "verdict"]
    if report.accuracy:
        titles[6:6] = ["mAP50-95", "mAP50"]
    head = "".join(
        f'<th{"" if title in WORDS else NUMBER} aria-sort="none"><button type="button">{title}</button></th>'
        for title in titles
    )
    body = "\n".join(f"<tr{_class(row)}>{''.join(_cells(row, report))}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _class(row: Timing) -> str:
    return ' class="baseline"' if row.is_baseline else ""


def _cells(row: Timing, report: Report) -> list[str]:
    low, middle, high = row.milliseconds
    first, ratio, last = row.ratio
    cells = [
        _cell(row.variant, row.variant, "name"),
        _cell(row.form, row.form),
        _cell(row.parameters, f"{row.parameters:,}", "number"),
        _cell(row.flops_ratio, f"{row.flops_ratio:.3f}", "number"),
        _cell(-1 if row.memory_ratio is None else row.memory_ratio, memory_cell(row), "number"),
        _cell(middle, f"{middle:.1f}", "number", f"{low:.1f}–{high:.1f}"),
        _cell(ratio, f"{ratio:.3f}", "number", f"{first:.3f}–{last:.3f}"),
        _cell(row.verdict, row.verdict, "verdict bad" if row.verdict.isupper() else "verdict"),
    ]
    if report.accuracy:
        found = report.accuracy.get(row.variant) if row.form != INT8 else None  # measured in fp32
        spread = f"± {found.spread:.3f}" if found and found.spread is not None else ""
        cells[6:6] = [
            _cell(found.map if found else -1, f"{found.map:.3f}" if found else "–", "number", spread),
            _cell(found.map50 if found else -1, f"{found.map50:.3f}" if found else "–", "number"),
        ]
    return cells


def _cell(value: object, shown: str, kind: str = "", small: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    note = f" <small>{escape(small)}</small>" if small else ""
    return f'<td{name} data-value="{escape(str(value))}">{escape(shown)}{note}</td>'


def plots(report: Report) -> list[str]:
    """Accuracy against latency, latency against FLOPs, and size."""
    found = []
    runtimes = by_runtime(report.timings)
    if report.accuracy:
        for runtime, rows in runtimes.items():
            points = [
                Point(row.variant, row.milliseconds[1], report.accuracy[row.variant].map, row.is_baseline)
                for row in rows
                if row.form == DEPLOYED and row.variant in report.accuracy
            ]
            title = f"Accuracy against latency, {runtime}"
            note = "Line: no other network is both faster and more accurate."
            found.append(_figure(title, scatter(points, "ms", "mAP50-95", frontier=True), note))
    for runtime, rows in runtimes.items():
        points = [
            Point(row.variant, row.flops_ratio, row.ratio[1], row.is_baseline, row.form != DEPLOYED)
            for row in rows
            if row.form != INT8
        ]
        title = f"Latency against FLOPs, {runtime}"
        note = "Below the line: as much faster as it is lighter, or more. Hollow: public form."
        drawn = scatter(points, "FLOPs, ratio", "latency, ratio", diagonal=True)
        found.append(_figure(title, drawn, note))
    first = next(iter(runtimes.values()))
    sizes = {row.variant: row.parameters / 1e6 for row in first if row.form == DEPLOYED}
    found.append(_figure("Size", bars(sizes, "million parameters"), "Of the fused network."))
    return found


def _figure(title: str, drawing: str, note: str) -> str:
    caption = f"<figcaption><strong>{escape(title)}</strong> {escape(note)}</figcaption>"
    return f'<figure>{caption}<div class="wide">{drawing}</div></figure>'
