"""What timings mean, in words and in tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from benchmarks.pages import aligned, escaped
from benchmarks.results_page import shell

MARK = "<!-- Written by `benchmark.py latency`, which replaces it. -->"
ALLOWED = 1.15  # times the ratio of the FLOPs, beyond which the time falls short of what they promise


@dataclass(frozen=True)
class Machine:
    """Where it was measured; `versions` by runtime."""

    processor: str
    cores: int
    versions: dict[str, str]


@dataclass(frozen=True)
class Timing:
    """One network in one runtime.

    Attributes:
        form: "deployed", "public" where only BatchNorm is folded, or "int8".
        flops_ratio: of the published count, to the baseline.
        memory_ratio: of the bytes that the layers of this form read and write, to the baseline; None for
            eight-bit integers, which nobody counts.
        milliseconds, ratio: lower quartile, median, upper quartile over the rounds; `ratio` to the baseline
            in the same round.
        rounds: milliseconds.
    """

    runtime: str
    variant: str
    form: str
    is_baseline: bool
    parameters: int
    flops_ratio: float
    memory_ratio: float | None
    milliseconds: tuple[float, float, float]
    ratio: tuple[float, float, float]
    rounds: list[float]

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Timing:
        """From what `dataclasses.asdict` made, with every value checked.

        Raises:
            ValueError, TypeError, KeyError: a value is missing or cannot be.
        """
        values = {field.name: row[field.name] for field in fields(cls)}
        for name in ("runtime", "variant", "form"):
            if not isinstance(values[name], str):
                raise TypeError(f"{name} must be a text")
        low, middle, high = (_number(value, "milliseconds") for value in values["milliseconds"])
        first, ratio, last = (_number(value, "ratio") for value in values["ratio"])
        memory = values["memory_ratio"]
        return replace(
            cls(**values),
            is_baseline=bool(values["is_baseline"]),
            parameters=int(_number(values["parameters"], "parameters")),
            flops_ratio=_number(values["flops_ratio"], "flops_ratio"),
            memory_ratio=None if memory is None else _number(memory, "memory_ratio"),
            milliseconds=(low, middle, high),
            ratio=(first, ratio, last),
        )

    @property
    def is_lighter(self) -> bool:
        """By more than the rounding of three places."""
        return self.flops_ratio < 0.9995

    @property
    def verdict(self) -> str:
        """Whether fewer FLOPs became fewer milliseconds; only what the quartiles support."""
        if self.is_baseline:
            return "baseline"
        low, middle, high = self.ratio
        lighter = self.is_lighter
        if high < 1:
            if middle <= ALLOWED * self.flops_ratio:
                return "faster" if lighter else "faster at no fewer FLOPs"
            return "faster, by less than its FLOPs promise"
        if low > 1:
            return "SLOWER ALTHOUGH LIGHTER" if lighter else "slower"
        return "lighter and no faster" if lighter else "no difference"


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number, found {str(value)[:40]}")
    return float(value)


TITLES = (
    "network", "form", "parameters", "FLOPs", "memory access", "ms (quartiles)", "latency (quartiles)",
    "verdict",
)  # fmt: skip


def cells(timing: Timing) -> tuple[str, ...]:
    """A row under `TITLES`; FLOPs, memory access and latency are ratios to the baseline."""
    low, middle, high = timing.milliseconds
    first, ratio, last = timing.ratio
    return (
        timing.variant,
        timing.form,
        f"{timing.parameters:,}",
        f"{timing.flops_ratio:.3f}",
        memory_cell(timing),
        f"{middle:.1f} ({low:.1f}–{high:.1f})",
        f"{ratio:.3f} ({first:.3f}–{last:.3f})",
        timing.verdict,
    )


def memory_cell(timing: Timing) -> str:
    return "not counted" if timing.memory_ratio is None else f"{timing.memory_ratio:.3f}"


def by_runtime(timings: Sequence[Timing]) -> dict[str, list[Timing]]:
    """The rows of each runtime, in the order of measurement."""
    runtimes = dict.fromkeys(timing.runtime for timing in timings)
    return {name: [timing for timing in timings if timing.runtime == name] for name in runtimes}


def text(timings: Sequence[Timing]) -> str:
    """The tables for a console."""
    lines: list[str] = []
    for runtime, rows in by_runtime(timings).items():
        lines += ["", runtime, *aligned([TITLES, *map(cells, rows)])]
    return "\n".join(lines[1:])


def page(timings: Sequence[Timing], machine: Machine, command: Sequence[str]) -> str:
    """The tables as Markdown, with the command and the machine."""
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    parts = [
        MARK,
        "# Latency",
        f"```\n{shell(command)}\n```",
        f"{machine.processor}, {machine.cores} cores; {versions}. Networks of a runtime run in turns in one "
        f"process; {len(timings[0].rounds)} rounds. Every ratio is to the baseline: FLOPs as published for "
        "the fused network, memory access of the form that runs, latency within the same round (median, "
        "quartiles). The verdict says faster or slower where both quartiles agree, and measures against "
        f"{ALLOWED} times the ratio of the FLOPs.",
    ]
    for runtime, rows in by_runtime(timings).items():
        lines = [f"| {' | '.join(TITLES)} |", "| :--- | :--- |" + " ---: |" * 5 + " :--- |"]
        lines += [f"| {' | '.join(escaped(cells(row)))} |" for row in rows]
        parts += [f"## {runtime} {machine.versions[runtime]}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"
