"""Find the fastest of equal forms for a network, a runtime and this machine, by measuring.

Site by site, each in its neighbourhood: all forms of a site are timed in turns, and another form than the
usual one is taken when it is faster beyond the spread. In the end the whole network is timed in both.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from models.deploy import deploy
from models.exporting.formats import FORMATS
from models.exporting.job import Job, example
from models.exporting.network import Predictions
from models.folding.checked import fold
from models.folding.forms import KINDS, Chooser, Site, as_measured, by_rule
from models.tuning.calls import OPENERS, RUNTIMES, Call, measure
from models.tuning.places import Place, places_of
from models.yolo import DetectionModel
from utils.console import LOGGER, progress
from utils.files import temporary_folder

TUNED = ("torch", "onnx", "openvino")  # runtimes
BUDGET = 90.0  # seconds
SECONDS, ROUNDS, WARMUP = 0.6, (5, 100), 3  # that the forms of a site are timed
WHOLE_SECONDS, WHOLE_ROUNDS = 4.0, (5, 40)  # and the whole network in both
WIDE = 0.3  # between the quartiles of a ratio, of its median
QUARTILES = (25, 50, 75)
ORDER = list(KINDS)


@dataclass(frozen=True)
class Finding:
    """What the forms of a site take.

    Attributes:
        form: the one to take.
        ratios: by form, the usual one first: quartiles of its time over that of the usual in the same round.
    """

    form: str
    ratios: dict[str, tuple[float, float, float]]

    @property
    def usual(self) -> str:
        """The form that the others are compared with."""
        return next(iter(self.ratios))

    @property
    def wide(self) -> bool:
        """Whether times varied too much to say anything, as on a machine with other work."""
        return max((high - low) / middle for low, middle, high in self.ratios.values()) > WIDE

    @property
    def changes(self) -> bool:
        """Whether it is another form than the usual one."""
        return self.form != self.usual

    def __str__(self) -> str:
        low, middle, high = self.ratios[self.form]
        instead = f"{self.form} instead of {self.usual}"
        return f"{instead}, {middle:.2f} ({low:.2f}-{high:.2f}) of its time"


Findings = dict[Site, Finding]
Known = dict[tuple[Site, str], Finding]  # also by the usual form: `export.py` begins with others than `tune`


@dataclass
class Tuning:
    """What was found for a network in one runtime.

    Attributes:
        usual: the forms that it began with.
        findings: by site.
        timed: how many of them were timed now.
        left: how many sites there was no time for, as far as is known.
        whole: quartiles of the whole network's time over that of the usual forms in the same round; None when
            no other forms were found.
    """

    usual: Chooser = by_rule
    findings: Findings = field(default_factory=dict)
    timed: int = 0
    left: int = 0
    whole: tuple[float, float, float] | None = None

    @property
    def forms(self) -> dict[Site, str]:
        """The forms to take that are not usual: none unless the whole network is faster beyond the spread."""
        worth_it = self.whole is not None and self.whole[2] < 1
        return _changes(self.findings) if worth_it else {}

    @property
    def chooser(self) -> Chooser:
        """The forms to take."""
        return as_measured(self.forms, self.usual)

    def __str__(self) -> str:
        count, wide = len(self.findings), sum(found.wide for found in self.findings.values())
        known = f"{count} of {count + self.left} sites known ({self.timed} timed now)"
        known += f", {wide} of them varied too much to say anything" if wide else ""
        more = "; run it again for the rest" if self.left else ""
        if self.whole is None:
            return f"{known}, no other form is faster{more}"
        low, middle, high = self.whole
        other = _changes(self.findings)
        does = "in them" if self.forms else "in them, which is not enough"
        return f"{known}, {len(other)} are faster in another form; the whole network takes {middle:.3f} " + (
            f"({low:.3f}-{high:.3f}) of its time {does}{more}"
        )


def tune(
    model: DetectionModel,
    runtime: str,
    size: tuple[int, int],
    threads: int,
    *,
    usual: Chooser = by_rule,
    known: Known | None = None,
    keep: Callable[[Site, Finding], object] = lambda site, finding: None,
    budget: float = BUDGET,
) -> Tuning:
    """Time the forms of a network for images of (height, width), in one of `TUNED`.

    At the end of the budget in seconds no further site is timed; what was found until then counts.

    Args:
        usual: the forms to begin with, and to compare with.
        known: what was found before on this machine, and is not timed again.
        keep: is given each finding that can be relied on, as soon as there is one.
    """
    with temporary_folder(prefix="tune-") as folder, _own_threads():
        ends = time.monotonic() + budget
        bench = _Bench(runtime, threads, folder)
        tuning = Tuning(usual)
        wanted = deploy(model, size, choose=usual).sites
        bar: tqdm[Any] = progress((), "sites", total=len(wanted), unit=" sites")
        with bar:
            for place in places_of(copy.deepcopy(model).float().eval().fuse(), size):
                while sites := _sites_left(place, wanted, tuning):
                    site = sites[0]
                    found = (known or {}).get((site, usual(site, wanted[site])))
                    if found is None:
                        if time.monotonic() > ends:
                            tuning.left += len(sites)
                            break
                        found = bench.finding(place, site, wanted[site], tuning)
                        tuning.timed += 1
                        if not found.wide:
                            keep(site, found)
                        LOGGER.debug(f"{place.name}: {site}: {found.ratios}")
                    tuning.findings[site] = found
                    bar.update()
                    if found.changes:
                        LOGGER.info(f"{place.name}: {site}: {found}")
                        # it may give rise to others
                        wanted |= deploy(model, size, choose=_until_now(tuning)).sites
        if _changes(tuning.findings):
            tuning.whole = bench.whole(model, size, tuning)
    return tuning


@contextmanager
def _own_threads() -> Iterator[None]:
    """Torch has one number of threads for all; afterwards it is as it was."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _changes(findings: Mapping[Site, Finding]) -> dict[Site, str]:
    return {site: found.form for site, found in findings.items() if found.changes}


def _sites_left(place: Place, wanted: Mapping[Site, tuple[str, ...]], tuning: Tuning) -> list[Site]:
    """The sites of a place, with the forms as they are found until now, that have not been looked at."""
    sites = fold(place.network, place.shape, _until_now(tuning)).sites
    left = [site for site in sites if site in wanted and site not in tuning.findings]
    return sorted(left, key=lambda site: ORDER.index(site.kind))


class _Bench:
    """Networks as calls in one runtime, on one machine."""

    def __init__(self, runtime: str, threads: int, folder: Path) -> None:
        self.runtime, self.threads, self.folder = runtime, threads, folder
        self._written = 0

    def finding(self, place: Place, site: Site, forms: tuple[str, ...], tuning: Tuning) -> Finding:
        """The forms of a site of a place, the others being as they are found until now."""
        image, usual = torch.rand(place.shape), tuning.usual(site, forms)
        calls = {}
        for form in sorted(forms, key=lambda form: form != usual):
            folded = fold(place.network, place.shape, _until_now(tuning, {site: form}))
            calls[form] = self.call(folded.network, image)
        rounds = _rounds(calls, SECONDS, ROUNDS)
        for more in (1, 2):
            ratios = _ratios(calls, more * rounds)
            quickest = min(ratios, key=lambda form: ratios[form][1])
            found = Finding(quickest if ratios[quickest][2] < 1 else usual, ratios)
            if not found.wide:
                return found
        return Finding(usual, ratios)

    def whole(
        self, model: DetectionModel, size: tuple[int, int], tuning: Tuning
    ) -> tuple[float, float, float]:
        """The whole network in the forms that were found, relative to the usual ones."""
        image = example(size, 1, model.channels)
        choices = {"usual": tuning.usual, "found": _until_now(tuning)}
        networks = {name: deploy(model, size, choose=choose) for name, choose in choices.items()}
        calls = {name: self.call(Predictions(network), image) for name, network in networks.items()}
        return _ratios(calls, _rounds(calls, WHOLE_SECONDS, WHOLE_ROUNDS))["found"]

    def call(self, network: nn.Module, image: torch.Tensor) -> Call:
        form = FORMATS[RUNTIMES[self.runtime]]
        target = self.folder / f"{self._written}{form.suffix}"
        self._written += 1
        told = {"stride": "32", "names": "{}", "dynamic": "false"}
        form.exporter(Job(network.float().eval(), image, target, told))
        return OPENERS[self.runtime](target, image.numpy(), self.threads)


def _rounds(calls: Mapping[str, Callable[[], object]], seconds: float, limits: tuple[int, int]) -> int:
    """How many rounds of calls fit into so many seconds, within limits."""
    for call in calls.values():
        call()  # the first one takes longer
    started = time.perf_counter()
    for call in calls.values():
        call()
    least, most = limits
    return min(max(int(seconds / (time.perf_counter() - started)), least), most)


def _until_now(tuning: Tuning, more: Mapping[Site, str] | None = None) -> Chooser:
    return as_measured({**_changes(tuning.findings), **(more or {})}, tuning.usual)


def _ratios(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, tuple[float, float, float]]:
    """Quartiles of the time of each call over that of the first in the same round."""
    times = {name: np.array(found) for name, found in measure(calls, rounds, WARMUP).items()}
    base = next(iter(times.values()))
    found = {}
    for name, own in times.items():
        low, middle, high = np.percentile(own / base, QUARTILES).round(4).tolist()
        found[name] = (low, middle, high)
    return found
