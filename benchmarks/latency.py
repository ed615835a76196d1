"""How long networks take in the runtimes that people deploy, relative to a baseline of the same run.

    python benchmark.py latency --cfg yolov5n yolov5n-gsconv --runtimes onnx openvino
    python benchmark.py latency --weights runs/benchmark/mydata/*-seed0/weights/best.pt --json latency.json
    python benchmark.py latency --weights best.pt other.pt --threads 4 --public
    python benchmark.py latency --cfg yolov5n --runtimes onnx openvino --int8 coco128.yaml

All networks of a runtime are timed in turns in one process. What counts is the ratio within a round: a busy
machine changes the milliseconds and hardly the ratios.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import DEVNULL
from typing import Any

import numpy as np

from benchmarks.complexity import check_side
from benchmarks.networks import (
    FORMS,
    Candidate,
    NetworkConfig,
    candidates_of,
    check_packages,
    describe_machine,
    models_of,
)
from benchmarks.pages import check_page, command_line, console_table, mark_of, render
from benchmarks.timings import ALIGN, ALLOWED, MARK, Timing, tables
from models.exporting.formats import INT8_FORMATS
from models.exporting.int8 import Calibration, quantise
from models.exporting.job import example
from models.tuning.calls import RUNTIMES
from models.tuning.tune import TUNED
from models.yolo import DetectionModel
from utils.console import setup_console
from utils.counting.meter import Cost
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.files import ROOT, temporary_folder, write_text
from utils.flags import at_least, flag, one_of
from utils.interrupt import run_child

TEMPLATE = "latency.md.j2"


@dataclass(frozen=True)
class Config(NetworkConfig):
    """Time networks in several runtimes, in turns, relative to a baseline."""

    runtimes: tuple[str, ...] = flag(
        ("torch", "onnx", "openvino"), f"some of {', '.join(RUNTIMES)}", rule=one_of(RUNTIMES)
    )
    runs: int = flag(60, "measured rounds", rule=at_least(1))
    batch: int = flag(1, "images per call", rule=at_least(1))
    baseline: str = flag("", "name of the network to compare with; default: the first")
    int8: str = flag("", "data yaml: also time the form of eight-bit integers, calibrated on its images")
    rule: bool = flag(False, "also the forms that a network has by rule, without data/forms/cpu.yaml")
    tune: bool = flag(
        False, "also in the forms that are fastest here, timed first (90 s a network and runtime)"
    )
    json: str = flag("", "file for all numbers, the time of every round included")

    def __post_init__(self) -> None:
        super().__post_init__()
        for runtime in self.runtimes:
            if self.tune and runtime not in TUNED:
                raise ValueError(f"--tune is for {', '.join(TUNED)}; leave it out for {runtime}")
        if self.tune and self.batch > 1:
            raise ValueError("--tune times one image a call; leave out --batch")
        if self.batch > 1 and "ncnn" in self.runtimes:
            raise ValueError("--batch: ncnn takes one image at a time")
        for runtime in self.runtimes:
            if self.int8 and runtime not in INT8_FORMATS:
                raise ValueError(f"--int8 is for {', '.join(INT8_FORMATS)}; {runtime} does not run that form")

    @property
    def forms(self) -> tuple[str, ...]:
        more = {"rule": self.rule, "tuned": self.tune, "int8": self.int8}
        return (*super().forms, *(form for form, wanted in more.items() if wanted))


def run(config: Config) -> None:
    """Time all networks and print a table for each runtime.

    Raises:
        UserError: unknown models, a side that is no multiple of a stride, a missing package, no such
            baseline, or a runtime that fails on a network.
    """
    setup_console()
    runtimes = list(dict.fromkeys(config.runtimes))
    check_packages(runtimes, int8=bool(config.int8))
    spec = None
    if config.int8:
        spec = load_data_spec(config.int8)
    if config.output:
        check_page(Path(config.output), mark_of(TEMPLATE), "--output")
    if config.json:
        check_page(Path(config.json), MARK, "--json")
    models = models_of(config)
    check_baseline([name + FORMS[form] for name in models for form in config.forms], config)
    calibrations = {
        channels: Calibration(spec, config.imgsz, config.batch, channels)
        for channels in {model.channels for model in models.values()}
        if spec
    }
    timings = []
    with temporary_folder(prefix="latency-") as folder:
        for runtime in runtimes:
            candidates = candidates_of(models, runtime, config, config.batch)
            base = next((one for one in candidates if one.name == config.baseline), candidates[0])
            baseline = base.name
            times = time_in(runtime, candidates, config, folder, calibrations)
            timings += [timing(runtime, candidate, base, times) for candidate in candidates]
    record = {
        "written_by": MARK,
        "command": shlex.join(command_line("latency", config)),
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(runtimes),
        "baseline": baseline,
        "imgsz": config.imgsz, "batch": config.batch, "threads": config.threads, "runs": config.runs,
        "timings": timings,
    }  # fmt: skip
    print("\n\n".join(f"{name}\n{console_table(rows, ALIGN)}" for name, rows in tables(timings).items()))
    names = f"{len(models) * len(config.forms)} networks in {', '.join(runtimes)} at {config.imgsz} px"
    print(f"\n{names}: batch {config.batch}, {config.threads} threads, {config.runs} rounds")
    if config.json:
        write_text(Path(config.json), json.dumps(record, default=asdict) + "\n")
    if config.output:
        write_text(Path(config.output), page(record))


def page(record: dict[str, Any]) -> str:
    """The tables as Markdown, with the command and the machine."""
    shown = {"command": shlex.split(record["command"]), "tables": tables(record["timings"])}
    return render(TEMPLATE, **record | shown, align=ALIGN, allowed=ALLOWED)


def check_baseline(names: Sequence[str], config: Config) -> None:
    """Raise a UserError unless `--baseline` is one of these names, and its cost is known."""
    if config.baseline and config.baseline not in names:
        raise UserError(f"--baseline '{config.baseline}' is not measured; {', '.join(names)} are")
    if config.baseline.endswith(FORMS["int8"]):
        raise UserError(
            f"--baseline '{config.baseline}': nobody counts its memory access; take a form in fp32"
        )


def time_in(
    runtime: str,
    candidates: Sequence[Candidate],
    config: Config,
    folder: Path,
    calibrations: Mapping[int, Calibration],
) -> dict[str, list[float]]:
    """Milliseconds of every round by name, measured in a process of its own.

    Args:
        calibrations: by channels, of networks in eight-bit integers.

    Raises:
        UserError: the runtime fails.
    """
    files, images = {}, {}
    for number, candidate in enumerate(candidates):
        image = example((config.imgsz, config.imgsz), config.batch, candidate.channels)
        picture = folder / f"image{candidate.channels}.npy"
        np.save(picture, image.numpy())
        images[candidate.name] = str(picture)
        if candidate.form == "int8":
            single = candidate.write(runtime, image, folder, f"{runtime}{number}")
            target = single.with_name(f"int8-{single.name}")
            quantise(single, target, calibrations[candidate.channels])
        else:
            target = candidate.write(RUNTIMES[runtime], image, folder, f"{runtime}{number}")
        files[candidate.name] = str(target)
    result = folder / f"{runtime}.json"
    job = {
        "runtime": runtime, "threads": config.threads, "rounds": config.runs, "warmup": config.warmup,
        "files": files, "images": images, "result": str(result),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.stopwatch", str(folder / "job.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
    # it ends when its standard input does, so also when this process is killed
    ended = run_child(command, cwd=ROOT, env=environment, stdout=DEVNULL)
    if ended.returncode:
        raise UserError(
            f"{runtime}: the process that measures ended with status {ended.returncode}, see above"
        )
    times: dict[str, list[float]] = json.loads(result.read_text(encoding="utf-8"))
    return times


def compare(runtime: str, networks: Mapping[str, DetectionModel], imgsz: int, runs: int) -> list[Timing]:
    """Each network as it is deployed, timed in turns with the others on images of one size.

    Args:
        networks: by name, on the CPU; the first is the baseline.

    Raises:
        UserError: a side that is no multiple of a stride, or the runtime fails.
    """
    threads = min(NetworkConfig.threads, os.cpu_count() or 1)
    config = Config(cfg=tuple(networks), runtimes=(runtime,), imgsz=imgsz, threads=threads, runs=runs)
    for name, model in networks.items():
        check_side(imgsz, name, model.multiple)
    candidates = candidates_of({name: model.eval() for name, model in networks.items()}, runtime, config)
    with temporary_folder(prefix="latency-") as folder:
        times = time_in(runtime, candidates, config, folder, {})
    return [timing(runtime, candidate, candidates[0], times) for candidate in candidates]


def timing(runtime: str, candidate: Candidate, base: Candidate, times: dict[str, list[float]]) -> Timing:
    """One row: medians and quartiles over the rounds, of the times and of their ratios to the baseline's."""
    own = np.array(times[candidate.name])
    quartiles = (25, 50, 75)
    ratios = np.percentile(own / np.array(times[base.name]), quartiles)
    return Timing(
        runtime=runtime,
        variant=candidate.variant,
        form=candidate.form,
        is_baseline=candidate is base,
        parameters=candidate.parameters,
        flops_ratio=candidate.flops / base.flops,
        memory_ratio=moved(candidate.cost) / moved(base.cost) if candidate.cost and base.cost else None,
        milliseconds=tuple(np.percentile(own, quartiles).round(3).tolist()),
        ratio=tuple(ratios.round(4).tolist()),
        rounds=own.round(3).tolist(),
    )


def moved(cost: Cost) -> int:
    """Bytes read and written."""
    return cost.bytes_read + cost.bytes_written
