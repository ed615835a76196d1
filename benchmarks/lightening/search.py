"""The search of `lighten.py`: the network that keeps most of a teacher within a budget.

Candidates are measured, those that meet the budget learn a little, and the best two to the end, each as a run
of its own in `short/` or `full/`. What is known stands in `search.json` at once (`state.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.lightening.candidates import (
    MEANING,
    Choice,
    candidates_for,
    nothing_meets,
    over,
    ratios,
    timed,
)
from benchmarks.lightening.page import (
    TEACHER,
    Variant,
    compare_pictures,
    record_of,
    variant_of,
    write_page,
)
from benchmarks.lightening.state import FULL, SHORT, Fit, Search
from models.transfer import with_batch_norms
from models.weights import load_model
from models.yolo import DetectionModel
from training.engine import NonFiniteLoss
from training.lightening.config import LightenConfig
from training.lightening.material import Material, check_pictures, files_of, kept_list, look, side_of
from training.lightening.measure import check_classes, true_map
from training.lightening.pictures import open_pictures, write_list
from training.lightening.setup import Lightening
from training.resume import resumed
from training.run_folder import RunFolder
from utils.console import LOGGER, warn
from utils.device import select_device
from utils.distributed import Process, this_process
from utils.errors import UserError
from utils.files import atomic_write
from utils.hyperparameters import Hyperparameters

SHORT_SHARE = 0.4  # of the time, for all short fits together
FINALISTS = 2
LEAST_FULL = 0.3  # of the time, whatever the short fits took
FEW_MEASURES = 2

# lighten.py's recipe for one student
Teach = Callable[
    [LightenConfig, Hyperparameters, Process, RunFolder | None, Mapping[str, Any] | None, Material | None],
    Lightening,
]


def find(search: Search, teach: Teach) -> Path:
    """The whole recipe; returns the page.

    Args:
        teach: teaches one student, or goes on with it.

    Raises:
        UserError: pictures or candidates cannot be used, none meets the budget, or none can be taught.
    """
    config = search.config
    teacher = with_batch_norms(load_model(search.teacher))
    check_classes(config, teacher)
    imgsz = side_of(config, teacher)
    material = open_material(search)
    own = variant_of(TEACHER, "teacher", teacher, imgsz)
    choices, left_out = candidates_for(config, teacher, imgsz)
    LOGGER.info(f"search: {len(choices)} candidates, {len(left_out)} other networks left out")
    own, choices = measured(search, choices, own, teacher, imgsz)
    chosen = [one for one in choices if not over(one.variant, own, config.budget)]
    if not chosen:
        raise nothing_meets([one.variant for one in choices], own, config.budget)
    plan = describe_plan(search, choices, chosen)
    LOGGER.info(plan)
    finalists = short_fits(search, chosen, material, teach) if len(chosen) > FINALISTS else chosen
    full_fits(search, finalists, material, teach)
    ranked = sorted(finalists, key=lambda one: -search.fits[FULL][one.name].end)
    if search.fits[FULL][ranked[0].name].failed:
        raise UserError(f"none can be taught: {search.fits[FULL][ranked[0].name].failed}")
    keep(search, ranked[0])
    return page_of(search, material, own, choices, ranked, left_out, plan)


def open_material(search: Search) -> Material:
    """The pictures of a search and what its teacher sees on them.

    Raises:
        UserError: they cannot be used, or are not those that the search was started with.
    """
    config, run = search.config, search.run
    goes_on = run if search.fingerprint else None
    pictures = open_pictures(files_of(config, goes_on, lambda: run), config.seed)
    if search.fingerprint:
        check_pictures(pictures, search.fingerprint, run)
    teacher = with_batch_norms(load_model(search.teacher, select_device(config.device)))
    material = look(config, teacher, pictures, search.ceiling)
    write_list(kept_list(run), pictures)
    search.fingerprint, search.ceiling = pictures.fingerprint(), material.ceiling
    search.save()
    return material


def measured(
    search: Search, choices: Sequence[Choice], own: Variant, teacher: DetectionModel, imgsz: int
) -> tuple[Variant, list[Choice]]:
    """Teacher and candidates with their times, where these are asked for and the other budgets are met."""
    config, times = search.config, search.timings
    if config.timed_in:
        possible = [one for one in choices if not over(one.variant, own, config.budget)]
        waiting = [one for one in possible if one.name not in times]
        if waiting:
            LOGGER.info(f"measuring {len(waiting)} of them in {config.timed_in}, in turns with the teacher")
        for timings in timed(waiting, config, teacher, imgsz):
            for name, timing in timings.items():
                times.setdefault(name, {"milliseconds": timing.milliseconds, "ratio": timing.ratio})
            search.save()
            told = (f"{name} {timing.ratio[1]:.3f}" for name, timing in timings.items() if name != TEACHER)
            LOGGER.info(f"{config.timed_in}, ratio to the teacher: {', '.join(told)}")
    return with_time(own, times), [replace(one, variant=with_time(one.variant, times)) for one in choices]


def with_time(variant: Variant, timings: Mapping[str, Mapping[str, Any]]) -> Variant:
    if variant.name not in timings:
        return variant
    low, middle, high = timings[variant.name]["milliseconds"]
    first, ratio, last = timings[variant.name]["ratio"]
    return replace(variant, milliseconds=(low, middle, high), ratio=(first, ratio, last))


def describe_plan(search: Search, choices: Sequence[Choice], chosen: Sequence[Choice]) -> str:
    """What is going to be done, in a sentence or two."""
    config = search.config
    wanted = ", ".join(f"--{name} {most:g}" for name, most in config.budget.items())
    wanted += f" in {config.timed_in}" if config.faster else ""
    meets = "meets" if len(chosen) == 1 else "meet"
    names = ", ".join(one.name for one in chosen)
    length = f"{config.steps} steps" if config.steps else f"about {config.minutes:g} minutes"
    how = f"a short fit of each, then the best {FINALISTS} from the beginning: "
    return (
        f"{len(choices)} candidates, {len(chosen)} {meets} the budget ({wanted}): {names}; "
        f"{how if len(chosen) > FINALISTS else ''}{length} in all"
    )


def short_fits(search: Search, chosen: Sequence[Choice], material: Material, teach: Teach) -> list[Choice]:
    """Teach each for as many steps, and return the best.

    Raises:
        UserError: none can be taught.
    """
    config, fits = search.config, search.fits[SHORT]
    minutes = config.minutes * SHORT_SHARE / len(chosen)
    for number, one in enumerate(chosen, 1):
        steps = max(round(config.steps * SHORT_SHARE / len(chosen)), 2) if config.steps else steps_of(fits)
        title = f"short fit {number} of {len(chosen)}"
        fit(search, SHORT, one, title, material, teach, steps, minutes)
    good = [one for one in chosen if not fits[one.name].failed]
    if not good:
        raise UserError(f"none can be taught: {fits[chosen[0].name].failed}")
    return sorted(good, key=lambda one: -fits[one.name].end)[:FINALISTS]


def full_fits(search: Search, finalists: Sequence[Choice], material: Material, teach: Teach) -> None:
    """Teach each of the best, from the beginning, for what is left of the time."""
    config, done, count = search.config, search.fits[SHORT].values(), len(finalists)
    rest = config.minutes - sum(fit.seconds for fit in done) / 60
    minutes = max(rest, LEAST_FULL * config.minutes) / count
    for number, one in enumerate(finalists, 1):
        steps = steps_of(search.fits[FULL])
        if config.steps:
            steps = max((config.steps - sum(fit.steps for fit in done)) // count, 2)
        fit(search, FULL, one, f"full fit {number} of {count}", material, teach, steps, minutes)


def steps_of(fits: Mapping[str, Fit]) -> int | None:
    """How many steps those have taken that have not failed; all take as many."""
    return next((fit.steps for fit in fits.values() if fit.steps), None)


def fit(
    search: Search,
    kind: str,
    one: Choice,
    title: str,
    material: Material,
    teach: Teach,
    steps: int | None,
    minutes: float,
) -> None:
    """Teach a candidate, or go on with it, unless that is done."""
    config, done, process = search.config, search.fits[kind], this_process()
    if one.name in done:
        return
    LOGGER.info(f"{title}: {one.name}{time_left(search)}")
    run = search.run_of(kind, one.name)
    started = time.monotonic()
    try:
        if run.last.is_file():
            again = LightenConfig(resume=str(run.last), device=config.device, workers=config.workers)
            settings, hyp, kept, checkpoint = resumed(again, process)
            lightening = teach(settings, hyp, process, kept, checkpoint, material)
        else:
            own = replace(
                one.asked(config),
                weights=str(search.teacher),
                project=str(run.root.parent),
                name=run.root.name,
                exist_ok=True,
                steps=steps,
                minutes=max(minutes, 0.001),
                measures=FEW_MEASURES if kind == SHORT else config.measures,
            )
            lightening = teach(own, search.hyp, process, None, None, material)
    except NonFiniteLoss as error:
        warn(f"{one.name} is given up: {error}")
        done[one.name] = Fit(failed=str(error))
    else:
        state = lightening.state
        shares, seconds = state.lightened["agreement"], time.monotonic() - started
        done[one.name] = Fit(
            state.lightened["steps"],
            seconds,
            start=shares["start"],
            fitted=shares.get("fitted"),
            end=lightening.agreed,
        )
    search.save()


def time_left(search: Search) -> str:
    """How long the fits will go on, as far as that is known."""
    config, spent = search.config, search.spent
    done = sum(fit.steps for some in search.fits.values() for fit in some.values())
    if config.steps:
        seconds = spent / done * max(config.steps - done, 0) if done else None
    else:
        seconds = max(config.minutes * 60 - spent, 0)
    return "" if seconds is None or seconds < 30 else f"; about {seconds / 60:.0f} minutes left"


def keep(search: Search, one: Choice) -> None:
    """Put the weights of the best into the search's own folder."""
    best = search.run_of(FULL, one.name).best
    with atomic_write(search.run.best) as file:
        file.write(best.read_bytes())


def page_of(
    search: Search,
    material: Material,
    own: Variant,
    choices: Sequence[Choice],
    ranked: Sequence[Choice],
    left_out: list[tuple[str, str]],
    plan: str,
) -> Path:
    """Write the page of a search, and say what came out."""
    config, runs = search.config, {one.name: search.run_of(FULL, one.name) for one in ranked}
    ranked = [one for one in ranked if not search.fits[FULL][one.name].failed]
    truths = {
        name: true_map(config, path)
        for name, path in ((TEACHER, search.teacher), *((one.name, runs[one.name].best) for one in ranked))
        if config.data
    }
    students = [
        replace(as_fitted(search, one.variant, own), role="student", true_map=truths.get(one.name))
        for one in ranked
    ]
    others = [as_fitted(search, one.variant, own) for one in choices if one not in ranked]
    others.sort(key=lambda variant: (variant.short is None, -(variant.short or 0)))
    known = {"pictures": len(material.pictures.all), "agreement": {"ceiling": material.ceiling}}
    models = [load_model(search.teacher), load_model(search.run.best)]
    imgsz = side_of(config, models[0])
    assert material.seen is not None  # in the main process
    record = record_of(
        config,
        known,
        len(material.seen),
        imgsz,
        [replace(own, true_map=truths.get(TEACHER)), *students, *others],
    )
    pictures = compare_pictures(models, material.seen, imgsz)
    courses = {one.name: runs[one.name].results for one in ranked}
    for variant in students:
        true = (
            "" if variant.true_map is None else f", mAP50-95 {variant.true_map:.3f} of {truths[TEACHER]:.3f}"
        )
        taken = ", ".join(
            f"{much:.3f} {MEANING[name]}" for name, much in ratios(variant, own, config.budget).items()
        )
        LOGGER.info(f"{variant.name}: agreement {variant.end:.3f}{true}; {taken}")
    LOGGER.info(f"kept: {students[0].name}")
    return write_page(search.run.root, replace(record, plan=f"{plan}.", left_out=left_out), courses, pictures)


def as_fitted(search: Search, variant: Variant, own: Variant) -> Variant:
    """A network with its agreement, and a note where the search has left it."""
    short, full = (search.fits[kind].get(variant.name, Fit()) for kind in (SHORT, FULL))
    learnt = full if full.steps else short
    return replace(
        variant,
        start=learnt.start if learnt.steps else None,
        fitted=learnt.fitted,
        short=short.end if short.steps else None,
        end=full.end if full.steps else None,
        note=full.failed or short.failed or over(variant, own, search.config.budget),
    )
