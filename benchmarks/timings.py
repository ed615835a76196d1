"""What `benchmark.py latency` measured, as its json file has it, and what the numbers mean."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import UserError
from utils.reading import read_bytes

MOST_BYTES = 16 << 20  # of a record
ALLOWED = 1.15  # times the ratio of the FLOPs, beyond which the time falls short of what they promise
MARK = "benchmark.py latency --json"  # what the file says of itself
RECORD = ("command", "date", "machine", "baseline", "imgsz", "batch", "threads", "runs", "timings")
TITLES = (
    "network", "form", "parameters", "FLOPs", "memory access", "ms (quartiles)", "latency (quartiles)",
    "verdict",
)  # fmt: skip
ALIGN = "llrrrrrl"


@dataclass(frozen=True)
class Timing:
    """One network in one runtime.

    Attributes:
        form: "deployed", "rule" or "tuned" where equal forms were chosen otherwise, "public" where only
            BatchNorm is folded, or "int8".
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

    @property
    def is_lighter(self) -> bool:
        """By more than the rounding of three places."""
        return self.flops_ratio < 0.9995

    @property
    def is_faster(self) -> bool:
        """Both quartiles say so."""
        return self.ratio[2] < 1

    @property
    def keeps_promise(self) -> bool:
        """Whether it is as much faster as it is lighter, or nearly."""
        return self.ratio[1] <= ALLOWED * self.flops_ratio

    @property
    def verdict(self) -> str:
        """Whether fewer FLOPs became fewer milliseconds; only what the quartiles support."""
        if self.is_baseline:
            return "baseline"
        if self.is_faster and not self.keeps_promise:
            return "faster, by less than its FLOPs promise"
        if self.is_faster:
            return "faster" if self.is_lighter else "faster at no fewer FLOPs"
        if self.ratio[0] > 1:
            return "SLOWER ALTHOUGH LIGHTER" if self.is_lighter else "slower"
        return "lighter and no faster" if self.is_lighter else "no difference"

    @property
    def memory(self) -> str:
        return "not counted" if self.memory_ratio is None else f"{self.memory_ratio:.3f}"

    @property
    def cells(self) -> tuple[str, ...]:
        """A row under `TITLES`; FLOPs, memory access and latency are ratios to the baseline."""
        low, middle, high = self.milliseconds
        first, ratio, last = self.ratio
        return (
            self.variant,
            self.form,
            f"{self.parameters:,}",
            f"{self.flops_ratio:.3f}",
            self.memory,
            f"{middle:.1f} ({low:.1f}–{high:.1f})",
            f"{ratio:.3f} ({first:.3f}–{last:.3f})",
            self.verdict,
        )


def by_runtime(timings: Sequence[Timing]) -> dict[str, list[Timing]]:
    """The rows of each runtime, in the order of measurement."""
    runtimes = dict.fromkeys(timing.runtime for timing in timings)
    return {name: [timing for timing in timings if timing.runtime == name] for name in runtimes}


def tables(timings: Sequence[Timing]) -> dict[str, list[tuple[str, ...]]]:
    return {runtime: [TITLES, *(row.cells for row in rows)] for runtime, rows in by_runtime(timings).items()}


def read_latency(path: Path) -> dict[str, Any]:
    """The record that `benchmark.py latency --json` wrote; its timings are `Timing`, every value checked.

    Raises:
        UserError: another file, or a damaged one.
    """
    try:
        record = json.loads(read_bytes(path, MOST_BYTES))
        read = {name: record[name] for name in RECORD}
        read["machine"]["versions"].items()
        read["timings"] = [_timing(row) for row in record["timings"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not what `benchmark.py latency --json` writes ({error})") from error
    return read


def _timing(row: Mapping[str, Any]) -> Timing:
    values = {field.name: row[field.name] for field in fields(Timing)}
    for name in ("runtime", "variant", "form"):
        if not isinstance(values[name], str):
            raise TypeError(f"{name} must be a text")
    shapes = {"parameters": (), "flops_ratio": (), "memory_ratio": (), "milliseconds": (3,), "ratio": (3,)}
    for name, shape in shapes.items():
        if values[name] is None and name == "memory_ratio":
            continue
        numbers = np.array(values[name], dtype=float)
        if numbers.shape != shape or not (np.isfinite(numbers) & (numbers >= 0)).all():
            raise ValueError(f"{name} must be made of numbers, found {str(values[name])[:40]}")
        values[name] = int(numbers) if name == "parameters" else numbers.tolist()
    return Timing(**values)
