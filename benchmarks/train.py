"""Train several variants under the same budget, and compare them on one page.

    python benchmark.py train --data bccd.yaml --variants yolov5n yolov5n-gsconv --seeds 0 1 2 \\
        --weights yolov5n.pt --imgsz 320 --epochs 20 --name bccd --output docs/results-bccd.md

Every run is a `train.py` of its own in `<project>/<name>/<variant>-seed<k>`: first all variants with the
first seed, then with the second. The same command again continues after an interruption; finished runs stay.
Page, plot and `results.csv` are rewritten after every run, from all finished runs of the folder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import AcquireReturnProxy, FileLock, Timeout

from benchmarks.outcome import Comparison, outcome_of, record
from benchmarks.pages import bare, render
from benchmarks.plots import Point, scatter
from benchmarks.runs import carry_out, runs_in
from benchmarks.study import work
from benchmarks.train_config import TEMPLATE, Config, check_budgets, label, prepare
from utils.console import LOGGER, setup_console
from utils.data.index import DatasetIndex
from utils.device import select_device
from utils.errors import Incomplete, UserError
from utils.files import write_text
from utils.flags import arguments
from utils.interrupt import StopRequest
from utils.plots.canvas import save_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CSV_COLUMNS = {
    "variant": "variant", "seed": "seed", "epoch": "best epoch", "precision": "precision", "recall": "recall",
    "map50": "mAP50", "map50_95": "mAP50-95", "parameters": "parameters", "gflops": "GFLOPs",
    "gflops_640": "GFLOPs at 640", "transferred": "taken over", "seconds": "seconds per epoch",
}  # fmt: skip


def run(config: Config) -> None:
    """Train what is not trained yet, and write the page.

    Raises:
        UserError: something the flags name is unusable (before any training), or a training failed.
        Incomplete: some validation images could not be used.
        SystemExit: Ctrl-C or SIGTERM came; the run under way can be continued.
    """
    setup_console()
    if config.is_study:
        work.run(config)
        return
    weights, index, notes = prepare(config, [(variant, ()) for variant in config.variants])
    check_budgets(config)
    plan = config.planned
    with alone_in(config.folder), StopRequest() as stop:
        for number, (variant, run_) in enumerate(plan, start=1):
            if stop.requested:
                LOGGER.info("stopped; the same command goes on")
                raise SystemExit(stop.exit_status)
            place = f"[{number}/{len(plan)}] {run_}"
            if run_.finished:
                LOGGER.info(f"{place}: finished before")
                continue
            LOGGER.info(f"{place}: {'goes on' if run_.started else 'starts'}, in {run_.folder}")
            carry_out(run_, config.train_config(run_, variant), stop)
            record(run_, config.imgsz, weights, select_device(config.device))
            write_everything(config, index, notes)
    write_everything(config, index, notes)
    finished = sum(run_.finished for _, run_ in plan)
    LOGGER.info(f"{finished} of {len(plan)} runs on {config.data} at {config.imgsz} px")
    LOGGER.info(f"{config.page}: the page; {config.folder}: everything else")
    if missing := index.report.shortfall():
        raise Incomplete(f"val: {missing}; the page is about the others")


def alone_in(folder: Path) -> AcquireReturnProxy:
    """A context that keeps other calls out of the folder, from now on; the lock ends with the process.

    Raises:
        UserError: another call is at work.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{folder}: another call is at work there; wait, or take another --name") from error


def write_everything(config: Config, index: DatasetIndex, notes: str) -> None:
    """Write the page, its plot and `results.csv` from all finished runs of the folder."""
    import pandas as pd

    found = pd.DataFrame([outcome_of(run_) for run_ in runs_in(config.folder) if run_.finished])
    comparison = Comparison.of(found, baseline=label(config.variants[0]))
    plot = config.page.with_suffix(".png")
    save_figure(picture_of(comparison, config.imgsz), plot)
    page = render(
        TEMPLATE,
        config=config,
        commands=_commands(comparison, config),
        machines=found[["torch", "device", "threads"]]
        .drop_duplicates()
        .sort_values(["torch", "device"])
        .itertuples(),
        comparison=comparison,
        plot=plot.name,
        images=len(index),
        labels=len(index.boxes),
        notes=notes,
    )
    write_text(config.page, page)
    found["seconds"] = found["seconds"].explode().astype(float).groupby(level=0).median()
    table = found[list(CSV_COLUMNS)].rename(columns=CSV_COLUMNS)
    csv = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write_text(config.folder / "results.csv", csv)


def picture_of(comparison: Comparison, imgsz: int) -> Figure:
    """mAP50-95, with its sd where there are several seeds, against GFLOPs."""
    points = [
        Point(
            f"{rank}  {row.map50_95:.3f}  {row.variant}", row.gflops, row.map50_95,
            spread=None if math.isnan(row.map50_95_sd) else row.map50_95_sd,
            marked=row is comparison.baseline,
        )
        for rank, row in enumerate(comparison.variants, start=1)
    ]  # fmt: skip
    titles = ("Accuracy against operations", f"GFLOPs at {imgsz} px", "mAP50-95 at the best epoch")
    return scatter(points, *titles, width=9, level=comparison.baseline.map50_95)


def _commands(comparison: Comparison, config: Config) -> list[tuple[str, ...]]:
    """The calls that lead to these runs: one for the variants of each set of seeds.

    The baseline is the first variant of the last call.
    """
    base = comparison.baseline
    others = sorted((row for row in comparison.variants if row is not base), key=lambda row: row.variant)
    groups: dict[tuple[int, ...], list[str]] = {}
    for row in (base, *others):
        groups.setdefault(row.seeds, []).append(bare(row.cfg))
    flags = list(map(bare, arguments(config, leave_out=("variants", "seeds"))))
    calls = [
        ("python", "benchmark.py", "train", "--variants", *variants, "--seeds", *map(str, seeds), *flags)
        for seeds, variants in groups.items()
    ]
    return [*calls[1:], calls[0]]
