"""What was measured before: by us, in `data/forms/cpu.yaml`, and on this machine, in the user's cache."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from models.folding.forms import Chooser, Site, by_rule
from models.runtimes.machine import Machine, instruction_set
from models.tuning.tune import BUDGET, Finding, Known, Tuning, tune
from models.yolo import DetectionModel
from utils.console import LOGGER, warn
from utils.errors import UserError
from utils.files import ROOT, user_cache, write_text
from utils.reading import read_bytes, read_yaml

TABLE = ROOT / "data" / "forms" / "cpu.yaml"
MOST_BYTES = 16 << 20  # of the cache
OVER = " over "  # in the cache, between a site and the form that its others are compared with
FAR = 2.0  # doublings of channels and of the map's sides in all, beyond which a measurement says nothing


# ---- by us ----


def usual(runtime: str, instructions: str | None = None) -> Chooser:
    """The forms for a runtime as they were measured on this kind of CPU, or by rule where none were.

    Args:
        instructions: of another kind of CPU; see `Machine`.
    """
    known = _entry(runtime, instructions or instruction_set()).get("forms", {})
    return functools.partial(_nearest, {Site.parse(text): form for text, form in known.items()})


def is_measured(runtime: str, instructions: str) -> bool:
    """Whether the table has anything for a runtime on a kind of CPU."""
    return bool(_entry(runtime, instructions))


def _entry(runtime: str, instructions: str) -> dict[str, Any]:
    return next((e for e in table() if (e["runtime"], e["instructions"]) == (runtime, instructions)), {})


@functools.cache
def table() -> list[dict[str, Any]]:
    """The entries of `data/forms/cpu.yaml`: runtime, instructions, machine, and forms by site.

    Raises:
        UserError: it is damaged.
    """
    entries = read_yaml(TABLE)
    try:
        for entry in entries:
            if not all(isinstance(entry[key], str) for key in ("runtime", "instructions", "machine")):
                raise TypeError("an entry has no runtime, instructions and machine")
            for text, form in entry["forms"].items():
                Site.parse(text)
                if not isinstance(form, str):
                    raise TypeError(f"the form of '{text}' is no text")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{TABLE}: {error}; `python benchmark.py tune --table` writes it") from error
    return list(entries)


def _nearest(known: Mapping[Site, str], site: Site, forms: Any) -> str:
    like = [other for other in known if _distance(site, other) <= FAR]
    found = min(like, key=lambda other: _distance(site, other), default=None)
    form = by_rule(site, forms) if found is None else known[found]
    return form if form in forms else by_rule(site, forms)


def _distance(site: Site, other: Site) -> float:
    """How different two sites are, in doublings; infinite for sites of different kinds."""
    kinds = [(s.kind, s.kernel, s.stride, s.pieces) for s in (site, other)]
    if kinds[0] != kinds[1]:
        return math.inf
    sizes = [(s.inputs, s.outputs, math.prod(s.side) ** 0.5) for s in (site, other)]
    return sum(abs(math.log2(a / b)) for a, b in zip(*sizes))


# ---- on this machine ----


def tune_here(
    model: DetectionModel,
    runtime: str,
    size: tuple[int, int],
    threads: int,
    *,
    usual: Chooser = by_rule,
    budget: float = BUDGET,
) -> Tuning:
    """`tune` with what is known of this machine, which what is found is added to; says what it does."""
    machine = Machine.here(runtime, threads)
    LOGGER.info(
        f"timing equal forms in {machine}, {size[0]}x{size[1]} px, up to {budget:g} s; "
        "what is timed is kept, also after Ctrl-C"
    )
    started = time.perf_counter()
    keep = functools.partial(remember, machine)
    tuning = tune(
        model, runtime, size, threads, usual=usual, known=remembered(machine), keep=keep, budget=budget
    )
    LOGGER.info(f"{tuning}, found in {time.perf_counter() - started:.0f} s")
    return tuning


def cache_file() -> Path:
    """Where this machine's findings are kept."""
    return user_cache() / "forms.json"


def remembered(machine: Machine) -> Known:
    """What was found on a machine before; as much as can be read of it."""
    found: Known = {}
    for text, entry in _content().get(str(machine), {}).items():
        try:
            site = Site.parse(text.partition(OVER)[0])
            ratios = {str(form): tuple(map(float, three)) for form, three in entry["ratios"].items()}
            if entry["form"] in ratios and all(len(three) == 3 for three in ratios.values()):
                one = Finding(entry["form"], ratios)  # type: ignore[arg-type]
                found[site, one.usual] = one
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            LOGGER.debug(f"'{text}' is damaged: {error}")
    return found


def remember(machine: Machine, site: Site, finding: Finding) -> None:
    """Keep a finding for the next time, beside those of the site that were compared with other forms.

    A folder that cannot be written to costs no more than that time.
    """
    try:
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(file.with_suffix(".lock")):  # another command may have findings of its own
            content = _content()
            content.setdefault(str(machine), {})[f"{site}{OVER}{finding.usual}"] = asdict(finding)
            write_text(file, json.dumps(content), durable=False)
    except OSError as error:
        _warn_once(f"what was measured cannot be kept for the next time: {error}")


@functools.cache
def _warn_once(text: str) -> None:
    warn(text)


def _content() -> dict[str, dict[str, Any]]:
    """By machine, what is in the file; nothing of a damaged one, which is only a loss of time."""
    try:
        content = json.loads(read_bytes(cache_file(), MOST_BYTES))
    except (OSError, UserError, ValueError, RecursionError) as error:
        LOGGER.debug(f"no findings: {error}")
        return {}
    known = content.items() if isinstance(content, dict) else ()
    return {name: entries for name, entries in known if isinstance(entries, dict)}
