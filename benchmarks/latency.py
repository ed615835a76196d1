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
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.latency_page import MARK, Machine, Timing, page, text
from benchmarks.pages import check_page
from benchmarks.results_page import bare
from benchmarks.runs import arguments
from models.exporting.describe import example
from models.exporting.formats import FORMATS, INT8_FORMATS
from models.exporting.int8 import Calibration, quantise
from models.exporting.job import Job
from models.exporting.network import exported_network
from models.runtimes.base import MOST_THREADS
from models.weights import find_weights, load_model
from models.yolo import DetectionModel
from utils.counting.measure import count_parameters, measure, meta_copy
from utils.counting.meter import Cost
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.files import ROOT
from utils.flags import IMGSZ, SIDE, CommandConfig, at_least, between, flag, one_of
from utils.interrupt import ending_cleanly
from utils.optional import check_installed

RUNTIMES = {"torch": "torchscript", "onnx": "onnx", "openvino": "onnx", "ncnn": "ncnn"}  # and what each reads
PACKAGES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino", "ncnn": "ncnn"}
RECORD = "benchmark.py latency --json"  # what the file of numbers says of itself
FORMS = {"deployed": "", "public": " (public)", "int8": " (INT8)"}  # and what follows the name of a network


@dataclass(frozen=True)
class Config(CommandConfig):
    """Time networks in several runtimes, in turns, relative to a baseline."""

    cfg: tuple[str, ...] = flag((), "model yamls, by name or path; their weights are random")
    weights: tuple[str, ...] = flag((), "checkpoints (.pt, .safetensors), after the yamls")
    runtimes: tuple[str, ...] = flag(
        ("torch", "onnx", "openvino"), f"some of {', '.join(RUNTIMES)}", rule=one_of(RUNTIMES)
    )
    imgsz: int = flag(640, "image side in pixels", *IMGSZ, rule=SIDE)
    batch: int = flag(1, "images per call", rule=at_least(1))
    threads: int = flag(2, "threads of each runtime", rule=between(1, MOST_THREADS))
    runs: int = flag(60, "measured rounds", rule=at_least(1))
    warmup: int = flag(5, "rounds before them", rule=at_least(0))
    baseline: str = flag("", "name of the network to compare with; default: the first")
    public: bool = flag(False, "also time the form without deploy(), only BatchNorm folded")
    int8: str = flag("", "data yaml: also time the form of eight-bit integers, calibrated on its images")
    json: str = flag("", "file for all numbers, the time of every round included")
    output: str = flag("", "Markdown file for the tables")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.cfg or self.weights):
            raise ValueError("name at least one model with --cfg or --weights")
        if self.batch > 1 and "ncnn" in self.runtimes:
            raise ValueError("--batch: ncnn takes one image at a time")
        for runtime in self.runtimes:
            if self.int8 and runtime not in INT8_FORMATS:
                raise ValueError(f"--int8 is for {', '.join(INT8_FORMATS)}; {runtime} does not run that form")


@dataclass(frozen=True)
class Candidate:
    """A network in one form, ready to be written.

    Attributes:
        name: of the model, and what `FORMS` says of its form.
        flops: of the fused model, as published, whatever the form executes.
        cost: of this form, for the batch; None where nobody counts it.
    """

    name: str
    variant: str
    form: str
    parameters: int
    flops: int
    cost: Cost | None
    network: torch.nn.Module
    stride: int


def run(config: Config) -> None:
    """Time all networks and print a table for each runtime.

    Raises:
        UserError: unknown models, a side that is no multiple of a stride, a missing package, no such
            baseline, or a runtime that fails on a network.
    """
    runtimes = list(dict.fromkeys(config.runtimes))
    check_packages(runtimes)
    calibration = None
    if config.int8:
        check_installed("nncf", "nncf")
        calibration = Calibration(load_data_spec(config.int8), config.imgsz, config.batch)
    if config.output:
        check_page(Path(config.output), MARK, "--output")
    if config.json:
        check_page(Path(config.json), RECORD, "--json")
    candidates = candidates_of(config)
    baseline = config.baseline or candidates[0].name
    if baseline not in [candidate.name for candidate in candidates]:
        raise UserError(
            f"--baseline '{baseline}' is not measured; {', '.join(c.name for c in candidates)} are"
        )
    if any(candidate.name == baseline and candidate.cost is None for candidate in candidates):
        raise UserError(f"--baseline '{baseline}': nobody counts its memory access; take a form in fp32")
    timings = []
    with ending_cleanly(), tempfile.TemporaryDirectory(prefix="latency-") as folder:
        for runtime in runtimes:
            times = time_in(runtime, candidates, config, Path(folder), calibration)
            timings += [timing(runtime, candidate, times, candidates, baseline) for candidate in candidates]
    machine = describe_machine(runtimes)
    command = ("python", "benchmark.py", "latency", *map(bare, arguments(config)))
    print(text(timings))
    if config.json:
        record = {
            "written_by": RECORD,
            "command": shlex.join(command),
            "date": datetime.date.today().isoformat(),
            "machine": asdict(machine),
            "baseline": baseline,
            "imgsz": config.imgsz, "batch": config.batch, "threads": config.threads, "runs": config.runs,
            "timings": [asdict(item) for item in timings],
        }  # fmt: skip
        Path(config.json).write_text(json.dumps(record) + "\n", encoding="utf-8")
    if config.output:
        Path(config.output).write_text(page(timings, machine, command), encoding="utf-8")


def check_packages(runtimes: Sequence[str]) -> None:
    """Refuse early what would fail after minutes.

    Raises:
        UserError: a package that a runtime needs, or that writes what it reads, is not installed.
    """
    for runtime in runtimes:
        if runtime != "torch":
            for package in ((PACKAGES[runtime],) * 2, *FORMATS[RUNTIMES[runtime]].needs):
                check_installed(*package)


def candidates_of(config: Config) -> list[Candidate]:
    """Every network in every form that is timed."""
    found: list[Candidate] = []
    for source in (*config.cfg, *config.weights):
        name = title_of(Path(source))
        torch.manual_seed(0)
        model = (
            load_model(find_weights(source)) if source in config.weights else DetectionModel(source)
        ).eval()
        stride = model.multiple
        if model.yaml["ch"] != 3:
            raise UserError(f"{name} takes images of {model.yaml['ch']} channels; 3 can be measured")
        if config.imgsz % stride:
            raise UserError(f"--imgsz {config.imgsz}: {name} takes multiples of its stride {stride}")
        image = torch.empty(config.batch, 3, config.imgsz, config.imgsz, device="meta")
        fused = meta_copy(model).fuse()
        flops, parameters = measure(fused, image).flops("conv"), count_parameters(fused)
        folded = exported_network(model, (config.imgsz,) * 2)
        for form, suffix in FORMS.items():
            if (form == "public" and not config.public) or (form == "int8" and not config.int8):
                continue
            if any(item.name == name + suffix for item in found):
                raise UserError(f"'{name}{suffix}' is there twice; networks are told apart by their names")
            network = folded
            if form == "public":
                network = exported_network(model, (config.imgsz,) * 2, folded=False)
            cost = None if form == "int8" else measure(network, image)
            found.append(Candidate(name + suffix, name, form, parameters, flops, cost, network, stride))
    return found


def title_of(source: Path) -> str:
    """The file's name; of `…/NAME-seed0/weights/best.pt`, as `benchmark.py train` writes it, NAME."""
    if source.parent.name == "weights" and source.parent.parent.name:
        return re.sub(r"-seed\d+$", "", source.parent.parent.name)
    return source.name.removesuffix(".yaml")


def time_in(
    runtime: str,
    candidates: Sequence[Candidate],
    config: Config,
    folder: Path,
    calibration: Calibration | None,
) -> dict[str, list[float]]:
    """Milliseconds of every round by name, measured in a process of its own.

    Raises:
        UserError: the runtime fails.
    """
    image = example((config.imgsz, config.imgsz), config.batch)
    np.save(folder / "image.npy", image.numpy())
    files = {}
    for number, candidate in enumerate(candidates):
        if candidate.form == "int8":
            assert calibration is not None
            single = write_network(candidate, runtime, image, folder, number)
            target = single.with_name(f"int8-{single.name}")
            quantise(single, target, calibration)
        else:
            target = write_network(candidate, RUNTIMES[runtime], image, folder, number)
        files[candidate.name] = str(target)
    job = {
        "runtime": runtime, "threads": config.threads, "rounds": config.runs, "warmup": config.warmup,
        "files": files, "image": str(folder / "image.npy"), "result": str(folder / f"{runtime}.json"),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.stopwatch", str(folder / "job.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(config.threads)}
    ended = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise UserError(
            f"{runtime}: the process that measures ended with status {ended.returncode}, see above"
        )
    times: dict[str, list[float]] = json.loads(Path(job["result"]).read_text(encoding="utf-8"))  # type: ignore[arg-type]
    return times


def write_network(candidate: Candidate, form: str, image: Tensor, folder: Path, number: int) -> Path:
    """The candidate as a file of a format, or a folder, unless it is there already; `number` names it."""
    target = folder / f"{number}{FORMATS[form].suffix}"
    if not target.exists():
        size = json.dumps(list(image.shape[2:]))
        metadata = {"names": "{}", "stride": str(candidate.stride), "imgsz": size}
        FORMATS[form].exporter(Job(candidate.network, image, target, metadata))
    return target


def timing(
    runtime: str,
    candidate: Candidate,
    times: dict[str, list[float]],
    candidates: Sequence[Candidate],
    baseline: str,
) -> Timing:
    """One row: medians and quartiles over the rounds, of the times and of their ratios to the baseline's."""
    base = next(item for item in candidates if item.name == baseline)
    assert base.cost is not None  # checked before anything was measured
    own = np.array(times[candidate.name])
    ratios = own / np.array(times[baseline])
    quartiles = (25, 50, 75)
    return Timing(
        runtime=runtime,
        variant=candidate.variant,
        form=candidate.form,
        is_baseline=candidate.name == baseline,
        parameters=candidate.parameters,
        flops_ratio=candidate.flops / base.flops,
        memory_ratio=None if candidate.cost is None else moved(candidate.cost) / moved(base.cost),
        milliseconds=tuple(np.percentile(own, quartiles).round(3).tolist()),
        ratio=tuple(np.percentile(ratios, quartiles).round(4).tolist()),
        rounds=own.round(3).tolist(),
    )


def moved(cost: Cost) -> int:
    """Bytes read and written."""
    return cost.bytes_read + cost.bytes_written


def describe_machine(runtimes: Sequence[str]) -> Machine:
    """Processor and versions."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    versions = {runtime: importlib.metadata.version(PACKAGES[runtime]) for runtime in runtimes}
    return Machine(processor, os.cpu_count() or 1, versions)
