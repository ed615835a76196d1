"""Where the time of networks goes, as the runtime's own profiler tells it.

    python benchmark.py profile --cfg yolov5n yolov5n-csphet --runtimes onnx openvino

Networks of a runtime run in turns in one process. Profiling costs time of its own, so that the sums are above
what `benchmark.py latency` measures; it says which kernels to look at.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from benchmarks.latency import Candidate, candidates_of, check_packages, describe_machine, write_network
from benchmarks.latency import Config as LatencyConfig
from benchmarks.pages import aligned, check_page, escaped
from benchmarks.results_page import bare, shell
from benchmarks.runs import arguments
from benchmarks.stopwatch import openvino_request, session_options
from models.exporting.describe import example
from models.runtimes.base import MOST_THREADS
from utils.flags import IMGSZ, SIDE, CommandConfig, at_least, between, flag, one_of
from utils.interrupt import ending_cleanly
from utils.optional import require

Kernels: TypeAlias = dict[str, list[float]]  # milliseconds of every kernel of a kind in one call
MARK = "<!-- Written by `benchmark.py profile`, which replaces it. -->"
RUNTIMES = ("onnx", "openvino")


@dataclass(frozen=True)
class Config(CommandConfig):
    """Profile networks in their runtimes, next to each other."""

    cfg: tuple[str, ...] = flag((), "model yamls, by name or path; their weights are random")
    weights: tuple[str, ...] = flag((), "checkpoints (.pt, .safetensors), after the yamls")
    runtimes: tuple[str, ...] = flag(RUNTIMES, f"some of {', '.join(RUNTIMES)}", rule=one_of(RUNTIMES))
    imgsz: int = flag(640, "image side in pixels", *IMGSZ, rule=SIDE)
    threads: int = flag(2, "threads of each runtime", rule=between(1, MOST_THREADS))
    runs: int = flag(30, "profiled rounds", rule=at_least(1))
    warmup: int = flag(5, "rounds before them", rule=at_least(0))
    public: bool = flag(False, "also profile the form without deploy(), only BatchNorm folded")
    output: str = flag("", "Markdown file for the tables")

    def __post_init__(self) -> None:
        super().__post_init__()
        self.networks()  # names at least one model

    def networks(self) -> LatencyConfig:
        """What `benchmark.py latency` would measure."""
        shared = ("cfg", "weights", "runtimes", "imgsz", "threads", "runs", "warmup", "public")
        return LatencyConfig(**{name: getattr(self, name) for name in shared})


def run(config: Config) -> None:
    """Profile all networks and print a table for each runtime.

    Raises:
        UserError: unknown models, a side that is no multiple of a stride, or a missing package.
    """
    runtimes = list(dict.fromkeys(config.runtimes))
    check_packages(runtimes)
    if config.output:
        check_page(Path(config.output), MARK, "--output")
    candidates = candidates_of(config.networks())
    image = example((config.imgsz, config.imgsz), 1)
    tables = {}
    with ending_cleanly(), tempfile.TemporaryDirectory(prefix="profile-") as folder:
        files = {c.name: write_network(c, "onnx", image, Path(folder), n) for n, c in enumerate(candidates)}
        for runtime in runtimes:
            calls = PROFILERS[runtime](files, image.numpy(), config.threads, Path(folder))
            tables[runtime] = table(kernels_of(calls, config.runs, config.warmup))
    for runtime, rows in tables.items():
        print("\n".join(["", f"{runtime}: milliseconds an image (number of kernels)", *aligned(rows)]))
    if config.output:
        Path(config.output).write_text(page(tables, config, candidates), encoding="utf-8")


def kernels_of(calls: Mapping[str, Callable[[], Kernels]], runs: int, warmup: int) -> dict[str, Kernels]:
    """Of each network, the median over the rounds of every kernel's time, by kind."""
    rounds: dict[str, list[Kernels]] = {name: [] for name in calls}
    for number in range(-warmup, runs):
        for name, call in calls.items():
            kernels = call()
            if number >= 0:
                rounds[name].append(kernels)
    return {
        name: {
            kind: [median(times) for times in zip(*(kernels[kind] for kernels in found))] for kind in found[0]
        }
        for name, found in rounds.items()
    }


def onnx_calls(
    files: Mapping[str, Path], image: np.ndarray, threads: int, folder: Path
) -> dict[str, Callable[[], Kernels]]:
    """ONNX Runtime writes what it measured to a file when a session ends, so every call has its session."""
    onnxruntime = require("onnxruntime", "onnxruntime")

    def call(path: Path) -> Kernels:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(3):  # the first calls lay out memory
            session.run(None, {session.get_inputs()[0].name: image})
        written = Path(session.end_profiling())
        events = json.loads(written.read_text(encoding="utf-8"))
        written.unlink()
        last = max(event["ts"] for event in events if event["name"] == "model_run")
        kernels: Kernels = defaultdict(list)
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and event["ts"] >= last:
                kernels[onnx_kind(event["args"])].append(event["dur"] / 1e3)
        return dict(kernels)

    return {name: partial(call, path) for name, path in files.items()}


def onnx_kind(args: Mapping[str, Any]) -> str:
    """Kind of a kernel: its operator; of a convolution also the size of its weights, and groups."""
    kind = str(args["op_name"])
    shapes = [next(iter(entry.values())) for entry in args["input_type_shape"] if entry]
    if kind != "Conv" or len(shapes) < 2 or len(shapes[1]) != 4:
        return kind
    (_, channels, *_), (_, columns, high, wide) = shapes[:2]
    grouped = "" if columns >= channels else " depthwise" if columns == 1 else " in groups"
    return f"Conv {high}x{wide}{grouped}"


def openvino_calls(
    files: Mapping[str, Path], image: np.ndarray, threads: int, folder: Path
) -> dict[str, Callable[[], Kernels]]:
    """OpenVINO tells after each call; a kind is the operator and the kernel that it chose."""

    def call(request: Any) -> Kernels:
        request.infer({0: image}, share_inputs=True)
        kernels: Kernels = defaultdict(list)
        for info in request.profiling_info:
            if str(info.status).endswith("EXECUTED") and info.node_type not in ("Parameter", "Result"):
                kernels[f"{info.node_type} ({info.exec_type})"].append(info.real_time.total_seconds() * 1e3)
        return dict(kernels)

    requests = {name: openvino_request(path, threads, {"PERF_COUNT": True}) for name, path in files.items()}
    return {name: partial(call, request) for name, request in requests.items()}


PROFILERS = {"onnx": onnx_calls, "openvino": openvino_calls}


def table(kernels: Mapping[str, Kernels]) -> list[tuple[str, ...]]:
    """Kinds of kernels by their largest time, and the total; below 0.05 ms everywhere they are one row."""
    names = list(kernels)
    kinds = list(dict.fromkeys(kind for found in kernels.values() for kind in found))
    largest = {kind: max(sum(kernels[name].get(kind, [])) for name in names) for kind in kinds}
    small = [kind for kind in kinds if largest[kind] < 0.05]
    groups = [[kind] for kind in sorted(kinds, key=lambda kind: -largest[kind]) if kind not in small]
    rows = [("kernel", *names)]
    for group in [*groups, *([small] if small else []), kinds]:
        title = "all" if group is kinds else "others" if group is small else group[0]
        cells = []
        for name in names:
            times = [time for kind in group for time in kernels[name].get(kind, [])]
            cells.append(f"{sum(times):.2f} ({len(times)})" if times else "–")
        rows.append((title, *cells))
    return rows


def page(
    tables: Mapping[str, Sequence[Sequence[str]]], config: Config, candidates: Sequence[Candidate]
) -> str:
    """The tables as Markdown, with the command and the machine."""
    machine = describe_machine(list(tables))
    command = ("python", "benchmark.py", "profile", *map(bare, arguments(config)))
    parts = [
        MARK,
        "# Where the time goes",
        f"```\n{shell(command)}\n```",
        f"{machine.processor}, {machine.cores} cores. Milliseconds an image at {config.imgsz} px and, in "
        f"brackets, the number of kernels, as the runtimes' own profilers tell; of each kernel the median of "
        f"{config.runs} rounds"
        + (f", in which {len(candidates)} networks run in turns." if len(candidates) > 1 else "."),
    ]
    for runtime, rows in tables.items():
        lines = [f"| {' | '.join(escaped(row))} |" for row in rows]
        lines.insert(1, "| :--- |" + " ---: |" * (len(rows[0]) - 1))
        parts += [f"## {runtime} {machine.versions[runtime]}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"
