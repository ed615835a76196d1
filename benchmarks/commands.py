"""Where whole commands spend their time, and how near they come to the network alone.

    python benchmark.py commands --weights yolov5n.pt --data coco256.yaml

`val.py`, `detect.py` on the photographs of the validation split, and `detect.py` on a video that is made of
them. Bare are the passes of the same batches through the fastest installed runtime, in one process that does
nothing else. Command and bare passes are measured in turns; the stages come from one more run of each
command, with clocks in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.pages import console_table
from benchmarks.stages import STAGES
from models.detector import prepare
from models.exporting.kept import kept_network
from models.runtimes.base import Backend
from models.runtimes.kept import installed
from models.runtimes.opening import load_backend
from models.weights import find_weights
from utils.console import LOGGER, setup_console, warn
from utils.data.dataset import DetectionDataset
from utils.data.images import read_image
from utils.data.index import build_index
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.errors import UserError
from utils.files import ROOT, temporary_folder, write_text
from utils.flags import DATA_HELP, IMGSZ, SIDE, CommandConfig, at_least, flag, not_empty, one_of

COMMANDS = ("val", "detect", "video")
FRAME, FPS = (480, 640), 25.0  # of the video: height, width, and frames a second
DISTINCT = 16  # of its frames that go through the network, again and again


@dataclass(frozen=True)
class Config(CommandConfig):
    """Profile whole commands next to the bare network."""

    weights: str = flag("", "PyTorch weights", rule=not_empty)
    data: str = flag("data/digits.yaml", DATA_HELP)
    commands: tuple[str, ...] = flag(COMMANDS, f"some of {', '.join(COMMANDS)}", rule=one_of(COMMANDS))
    runtime: str = flag(
        "auto", "--runtime of the commands", rule=one_of(("auto", "torch", "onnx", "openvino"))
    )
    imgsz: int = flag(640, "image size in pixels", *IMGSZ, rule=SIDE)
    batch_size: int = flag(16, "of val.py", rule=at_least(1))
    frames: int = flag(1000, "of the video", rule=at_least(DISTINCT))
    rounds: int = flag(3, "of every command and its bare passes", rule=at_least(1))
    json: str = flag("", "file for what was measured")


@dataclass(frozen=True)
class Work:
    """A command, and the batches (B, C, H, W) that go through its network; each of these `times` times."""

    command: list[str]
    batches: list[Tensor]
    times: int = 1

    def seconds(self) -> float:
        """Of the command as a process."""
        start = time.perf_counter()
        _run([f"{self.command[0]}.py", *self.command[1:]])
        return time.perf_counter() - start

    def stages(self, folder: Path) -> dict[str, float]:
        """Seconds of each of `STAGES`, the start and the whole."""
        target = folder / "stages.json"
        _run(["-m", "benchmarks.stages", str(target), str(time.time()), *self.command])
        found: dict[str, float] = json.loads(target.read_text(encoding="utf-8"))
        return found

    def bare(self, backend: Backend) -> float:
        """Seconds of the passes alone."""
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(self.times):
                for batch in self.batches:
                    backend(batch)
        return time.perf_counter() - start


def run(config: Config) -> None:
    """Measure, and print a table of stages and one of ratios.

    Raises:
        UserError: weights, data or a runtime that cannot be used, or a command that fails.
    """
    setup_console()
    weights = find_weights(config.weights)
    with temporary_folder(prefix="commands-") as folder:
        work = {name: MAKERS[name](config, str(weights), folder) for name in dict.fromkeys(config.commands)}
        name, backend = fastest(weights, next(iter(work.values())).batches[:1])
        found = {}
        for command, one in work.items():
            pairs = []
            for _ in range(config.rounds):
                whole, bare = one.seconds(), one.bare(backend)
                pairs.append((whole, bare))
                LOGGER.info(
                    f"{command}: {whole:.1f} s, bare in {name} {bare:.1f} s, ratio {whole / bare:.2f}"
                )
            found[command] = {"pairs": pairs, "stages": one.stages(folder)}
    print(f"\nseconds of threads in each stage\n{console_table(stage_rows(found), 'l' + 'r' * len(found))}")
    print(f"\nseconds and their ratio: median (least, most)\n{console_table(ratio_rows(found), 'lrrr')}")
    print(f"{os.cpu_count()} cores, {config.imgsz} px, --runtime {config.runtime}, bare in {name}")
    if config.json:
        write_text(Path(config.json), json.dumps({"bare": name, "commands": found}, indent=1))


def stage_rows(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each stage, a column for each command."""
    rows: list[tuple[str, ...]] = [("stage", *found)]
    for stage in ("start", *STAGES, "whole"):
        values = [one["stages"].get(stage) for one in found.values()]
        if any(values):
            rows.append((stage, *("–" if value is None else f"{value:.2f}" for value in values)))
    return rows


def ratio_rows(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row for each command."""
    rows: list[tuple[str, ...]] = [("command", "whole", "bare", "ratio")]
    for command, one in found.items():
        whole, bare = np.array(one["pairs"]).T
        cells = (f"{np.median(v):.2f} ({v.min():.2f}, {v.max():.2f})" for v in (whole, bare, whole / bare))
        rows.append((command, *cells))
    return rows


def fastest(weights: Path, batches: Sequence[Tensor]) -> tuple[str, Backend]:
    """The installed runtime that needs least for some batches, and the network in it."""
    opened = {"torch": load_backend(weights)}
    for name in installed():
        try:
            opened[name] = load_backend(kept_network(weights, name))
        except UserError as error:
            warn(f"not in {name}: {error}")
    once = {name: partial(Work([], list(batches)).bare, backend) for name, backend in opened.items()}
    for call in once.values():
        call()
    best = min(once, key=lambda name: min(once[name]() for _ in range(5)))
    return best, opened[best]


def validation(config: Config, weights: str, folder: Path) -> Work:
    """val.py, with plots."""
    spec = load_data_spec(config.data, needed=("val",))
    size, batch = config.imgsz, config.batch_size
    index = build_index(spec.val, spec.names)
    dataset = DetectionDataset(index, size, rect=True, batch_size=batch, stride=32, pad=0.5)
    batches = [each.images.float() / 255 for each in Loader(dataset, workers=0, shuffle=False)]
    flags = ["--data", config.data, "--batch-size", str(batch)]
    return Work(["val", *_common(config, weights, folder), *flags], batches)


def pictures(config: Config, weights: str, folder: Path) -> Work:
    """detect.py on photographs, label files only."""
    listed = folder / "photographs.txt"
    files = list(photographs(config))
    listed.write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    batches = [_batch(read_image(file), config.imgsz) for file in files]
    flags = ["--source", str(listed), "--nosave", "--save-txt"]
    return Work(["detect", *_common(config, weights, folder), *flags], batches)


def video(config: Config, weights: str, folder: Path) -> Work:
    """detect.py on a video, label files only."""
    clip = folder / "clip.avi"
    batches: list[Tensor] = []
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter.fourcc(*"MJPG"), FPS, FRAME[::-1])
    if not writer.isOpened():
        raise UserError(f"cannot write a video into {folder}")
    for number, frame in enumerate(frames(config)):
        writer.write(frame)
        if number % (config.frames // DISTINCT) == 0 and len(batches) < DISTINCT:
            batches.append(_batch(frame, config.imgsz))
    writer.release()
    flags = ["--source", str(clip), "--nosave", "--save-txt"]
    return Work(["detect", *_common(config, weights, folder), *flags], batches, config.frames // DISTINCT)


MAKERS: dict[str, Callable[[Config, str, Path], Work]] = {
    "val": validation, "detect": pictures, "video": video
}  # fmt: skip


def photographs(config: Config) -> list[str]:
    """The files of the validation split."""
    spec = load_data_spec(config.data, needed=("val",))
    return build_index(spec.val, spec.names).paths()


def frames(config: Config) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) of a camera that moves over one photograph after the other, a pixel a frame."""
    height, width = FRAME
    files = photographs(config)
    long = -(-config.frames // len(files))
    for number in range(config.frames):
        if number % long == 0:
            image = cv2.resize(read_image(files[number // long]), (width + long, height))
        yield np.ascontiguousarray(image[:, number % long : number % long + width])


def _batch(image: np.ndarray, size: int) -> Tensor:
    """A picture as detect.py gives it to the network."""
    return prepare([image], size).images.float() / 255


def _common(config: Config, weights: str, folder: Path) -> list[str]:
    place = ["--weights", str(Path(weights).absolute()), "--project", str(folder / "runs")]
    return [*place, "--imgsz", str(config.imgsz), "--runtime", config.runtime]


def _run(words: list[str]) -> None:
    environment = {**os.environ, **({"OMP_WAIT_POLICY": "PASSIVE"} if "val" in words else {})}
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise UserError(f"{' '.join(words)} failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
