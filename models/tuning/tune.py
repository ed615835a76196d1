"""Find the fastest of equal forms for a network, a runtime and this machine, by measuring.

Site by site, each in its neighbourhood: all forms of a site are timed in turns, and another form than the
usual one is taken when it is faster beyond the spread. In the end the whole network is timed in both.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.deploy import deploy
from models.exporting.formats import FORMATS
from models.exporting.job import Job, example
from models.exporting.network import Predictions
from models.folding.checked import fold
from models.folding.forms import KINDS, Chooser, Site, as_measured, by_rule
from models.tuning.calls import OPENERS, Call, measure
from models.tuning.places import Place, places_of
from models.yolo import DetectionModel
from utils.console import LOGGER
from utils.files import temporary_folder
from utils.interrupt import StopRequest

# runtimes, and the format in which each reads a network here
TUNED = {"torch": "torchscript", "onnx": "onnx", "openvino": "onnx"}
BUDGET = 90.0  # seconds
SECONDS, ROUNDS, WARMUP = 0.6, (15, 100), 3  # that the forms of a site are timed
WHOLE_ROUNDS = 40
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
    def changes(self) -> bool:
        """Whether it is another form than the usual one."""
        return self.form != next(iter(self.ratios))

    def __str__(self) -> str:
        low, middle, high = self.ratios[self.form]
        instead = f"{self.form} instead of {next(iter(self.ratios))}"
        return f"{instead}, {middle:.2f} ({low:.2f}-{high:.2f}) of its time"


Findings = dict[Site, Finding]


@dataclass
class Tuning:
    """What was found for a network in one runtime.

    Attributes:
        usual: the forms that it began with.
        findings: by site.
        whole: quartiles of the whole network's time over that of the usual forms in the same round; None when
            no other forms were found.
        complete: whether there was time for every site.
    """

    usual: Chooser = by_rule
    findings: Findings = field(default_factory=dict)
    whole: tuple[float, float, float] | None = None
    complete: bool = True

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
        timed = f"{len(self.findings)} sites timed" + ("" if self.complete else ", others not")
        if self.whole is None:
            return f"{timed}, the usual forms are best"
        low, middle, high = self.whole
        kept = f"{len(self.forms)} take another form" if self.forms else "the usual forms stay"
        return f"{timed}, {kept}: {middle:.3f} ({low:.3f}-{high:.3f}) of the time"


def tune(
    model: DetectionModel,
    runtime: str,
    size: tuple[int, int],
    threads: int,
    *,
    usual: Chooser = by_rule,
    known: Mapping[Site, Finding] | None = None,
    budget: float = BUDGET,
) -> Tuning:
    """Time the forms of a network for images of (height, width), in one of `TUNED`.

    A signal to stop, or the end of the budget in seconds, ends the search; what was found until then counts.

    Args:
        usual: the forms to begin with, and to compare with.
        known: what was found before on this machine, and is not timed again.
    """
    with StopRequest() as stop, temporary_folder(prefix="tune-") as folder:
        ends = time.monotonic() + budget
        bench = _Bench(runtime, threads, folder)
        tuning = Tuning(usual)
        wanted = deploy(model, size, choose=usual).sites
        for place in places_of(copy.deepcopy(model).float().eval().fuse(), size):
            while site := _next_site(place, wanted, tuning):
                found = (known or {}).get(site)
                if found is None or next(iter(found.ratios)) != usual(site, wanted[site]):
                    if stop.requested or time.monotonic() > ends:
                        tuning.complete = False
                        break
                    found = bench.finding(place, site, wanted[site], tuning)
                    LOGGER.debug(f"{place.name}: {site}: {found.ratios}")
                tuning.findings[site] = found
                if found.changes:
                    LOGGER.info(f"{place.name}: {site}: {found}")
                    wanted |= deploy(
                        model, size, choose=_until_now(tuning)
                    ).sites  # it may give rise to others
        if _changes(tuning.findings):
            tuning.whole = bench.whole(model, size, tuning)
    return tuning


def _changes(findings: Mapping[Site, Finding]) -> dict[Site, str]:
    return {site: found.form for site, found in findings.items() if found.changes}


def _next_site(place: Place, wanted: Mapping[Site, tuple[str, ...]], tuning: Tuning) -> Site | None:
    """A site of a place, with the forms as they are found until now, that has not been looked at."""
    sites = fold(place.network, place.shape, _until_now(tuning)).sites
    left = [site for site in sites if site in wanted and site not in tuning.findings]
    return min(left, key=lambda site: ORDER.index(site.kind), default=None)


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
        for call in calls.values():
            call()
        started = time.perf_counter()
        for call in calls.values():
            call()
        least, most = ROUNDS
        rounds = min(max(int(SECONDS / (time.perf_counter() - started)), least), most)
        ratios = _ratios(calls, rounds)
        quickest = min(ratios, key=lambda form: ratios[form][1])
        return Finding(quickest if ratios[quickest][2] < 1 else usual, ratios)

    def whole(
        self, model: DetectionModel, size: tuple[int, int], tuning: Tuning
    ) -> tuple[float, float, float]:
        """The whole network in the forms that were found, relative to the usual ones."""
        image = example(size, 1, model.channels)
        choices = {"usual": tuning.usual, "found": _until_now(tuning)}
        networks = {name: deploy(model, size, choose=choose) for name, choose in choices.items()}
        calls = {name: self.call(Predictions(network), image) for name, network in networks.items()}
        return _ratios(calls, WHOLE_ROUNDS)["found"]

    def call(self, network: nn.Module, image: torch.Tensor) -> Call:
        form = FORMATS[TUNED[self.runtime]]
        target = self.folder / f"{self._written}{form.suffix}"
        self._written += 1
        told = {"stride": "32", "names": "{}", "dynamic": "false"}
        form.exporter(Job(network.float().eval(), image, target, told))
        return OPENERS[self.runtime](target, image.numpy(), self.threads)


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
