"""Where the time of networks goes, as the runtime's own profiler tells it.

    python benchmark.py profile --cfg yolov5n yolov5n-csphet --runtimes onnx openvino

Networks of a runtime run in turns in one process. Profiling costs time of its own, so that the sums are above
what `benchmark.py latency` measures; it says which kernels to look at.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from benchmarks.networks import NetworkConfig, candidates_of, check_packages, describe_machine, models_of
from benchmarks.pages import check_page, command_line, console_table, mark_of, render
from models.exporting.job import example
from models.tuning.calls import openvino_request, session_options
from utils.files import temporary_folder, write_text
from utils.optional import require

Kernels: TypeAlias = dict[str, list[float]]  # milliseconds of every kernel of a kind in one call
Call: TypeAlias = Callable[[], Kernels]
TEMPLATE = "profile.md.j2"


class Config(NetworkConfig):
    """Profile networks in their runtimes, next to each other."""


def run(config: Config) -> None:
    """Profile all networks and print a table for each runtime.

    Raises:
        UserError: unknown models, a side that is no multiple of a stride, or a missing package.
    """
    runtimes = list(dict.fromkeys(config.runtimes))
    check_packages(runtimes)
    if config.output:
        check_page(Path(config.output), mark_of(TEMPLATE), "--output")
    models = models_of(config)
    count = len(models) * len(config.forms)
    align = "l" + "r" * count
    tables = {}
    with temporary_folder(prefix="profile-") as folder:
        for runtime in runtimes:
            calls = {}
            for number, network in enumerate(candidates_of(models, runtime, config)):
                image = example((config.imgsz, config.imgsz), 1, network.channels)
                file = network.write("onnx", image, folder, f"{runtime}{number}")
                calls[network.name] = PROFILERS[runtime](file, image.numpy(), config.threads)
            tables[runtime] = table(kernels_of(calls, config.runs, config.warmup))
    for runtime, rows in tables.items():
        print(f"\n{runtime}: milliseconds an image (number of kernels)\n{console_table(rows, align)}")
    names = f"{count} networks in {', '.join(runtimes)} at {config.imgsz} px"
    print(f"\n{names}: {config.threads} threads, {config.runs} rounds")
    if config.output:
        text = render(
            TEMPLATE,
            command=command_line("profile", config),
            config=config,
            machine=describe_machine(runtimes),
            networks=count,
            tables=tables,
            align=align,
        )
        write_text(Path(config.output), text)


def kernels_of(calls: Mapping[str, Call], runs: int, warmup: int) -> dict[str, Kernels]:
    """Of each network, the median over the rounds of every kernel's time, by kind."""
    rounds = [{name: call() for name, call in calls.items()} for _ in range(warmup + runs)][warmup:]
    return {
        name: {
            kind: [median(times) for times in zip(*(found[name][kind] for found in rounds))] for kind in kinds
        }
        for name, kinds in rounds[0].items()
    }


def open_onnx(path: Path, image: np.ndarray, threads: int) -> Call:
    """ONNX Runtime writes what it measured to a file when a session ends, so every call has its session."""
    onnxruntime = require("onnxruntime", "onnxruntime")

    def call() -> Kernels:
        options = session_options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(path)
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

    return call


def onnx_kind(args: Mapping[str, Any]) -> str:
    """Kind of a kernel: its operator; of a convolution also the size of its weights, and groups."""
    kind = str(args["op_name"])
    shapes = [next(iter(entry.values())) for entry in args["input_type_shape"] if entry]
    if kind != "Conv" or len(shapes) < 2 or len(shapes[1]) != 4:
        return kind
    (_, channels, *_), (_, columns, high, wide) = shapes[:2]
    grouped = "" if columns >= channels else " depthwise" if columns == 1 else " in groups"
    return f"Conv {high}x{wide}{grouped}"


def open_openvino(path: Path, image: np.ndarray, threads: int) -> Call:
    """OpenVINO tells after each call; a kind is the operator and the kernel that it chose."""
    request = openvino_request(path, threads, PERF_COUNT=True)

    def call() -> Kernels:
        request.infer({0: image}, share_inputs=True)
        kernels: Kernels = defaultdict(list)
        for info in request.profiling_info:
            if str(info.status).endswith("EXECUTED") and info.node_type not in ("Parameter", "Result"):
                kernels[f"{info.node_type} ({info.exec_type})"].append(info.real_time.total_seconds() * 1e3)
        return dict(kernels)

    return call


PROFILERS = {"onnx": open_onnx, "openvino": open_openvino}


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
