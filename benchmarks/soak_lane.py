"""One sequence of commands of the soak: drawn moments, and what is looked at after each command."""

from __future__ import annotations

import collections
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.killing import LIMIT, Blow, Ended, carry_out, slowness, traces
from benchmarks.soak_files import SIDE, make_files
from benchmarks.soak_flags import random_flags
from detect import DetectConfig
from models.exporting.config import ExportConfig
from training.config import TrainConfig
from utils.errors import UserError
from val import ValConfig

INSIDE = "LEAN5_SOAK_INSIDE"  # in the environment of the program that has its own mounts
DISK = "48m"
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
FULL_DISK = 0.12  # share of the training starts that meet a disk that fills
EPOCHS = 3
FORMATS = ("torchscript", "onnx", "openvino", "ncnn")


@dataclass
class Report:
    """What has happened so far; lanes share it."""

    kills: collections.Counter[str] = field(default_factory=collections.Counter)
    runs: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)
    dying: list[float] = field(default_factory=list)  # seconds after SIGINT and SIGTERM
    peaks: dict[str, list[float]] = field(default_factory=lambda: collections.defaultdict(list))
    resumed: int = 0  # trainings that were killed, resumed, and compared
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, blow: Blow, ended: Ended) -> None:
        with self._lock:
            self.runs[what] += 1
            if ended.hit:
                self.kills[f"{what} {signal.Signals(blow.number).name}"] += 1
                if blow.number != signal.SIGKILL:
                    self.dying.append(ended.dying)
            elif ended.status in (0, 1):
                self.peaks[what].append(ended.peak)

    def fault(self, kind: str, text: str) -> None:
        """A hang, a loss, a leak, an orphan or a defect; `text` says how to see it again."""
        with self._lock:
            self.faults.append(f"{kind}: {text}")
        print(f"FAULT {kind}: {text}", flush=True)

    def as_dict(self) -> dict[str, Any]:
        kinds = collections.Counter(fault.partition(":")[0] for fault in self.faults)
        dying = sorted(self.dying) or [0.0]
        return {
            "kills": sum(self.kills.values()),
            "kills by command and signal": dict(sorted(self.kills.items())),
            "runs": dict(self.runs),
            "trainings resumed and compared": self.resumed,
            **{kind: kinds[kind] for kind in ("hang", "loss", "leak", "orphan", "defect")},
            "seconds from signal to end": {"median": dying[len(dying) // 2], "longest": dying[-1]},
            "MB at most, first and last five runs": {
                what: [round(sum(part) / len(part)) for part in (found[:5], found[-5:])]
                for what, found in self.peaks.items()
            },
            "faults": self.faults,
        }


class Lane:
    """A sequence of commands in a folder of its own."""

    def __init__(self, folder: Path, rng: random.Random, report: Report) -> None:
        self.folder, self.rng, self.report = folder, rng, report
        self.temporary, self.disk, self.exports = (folder / name for name in ("tmp", "disk", "exports"))
        for place in (self.temporary, self.disk, self.exports):
            place.mkdir(parents=True)
        self.mounts = bool(os.environ.get(INSIDE))
        if self.mounts:
            mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(self.disk)]
            subprocess.run(mount, check=True)
        make_files(folder)
        self.data = ["--data", str(folder / "data.yaml"), "--imgsz", str(SIDE)]
        self.weights = folder / "best.pt"
        self.seconds: dict[str, float] = {}  # that a command takes on the average, by its name
        self.old: set[str] = set()  # traces of what was killed, which whoever comes next removes
        ended = self.run("train", self.training("first", ["--noplots"]))
        if ended.status:
            raise UserError(f"the first training failed: {ended.output}")
        shutil.move(self.disk / "first" / "weights" / "best.pt", self.weights)

    def run(self, what: str, words: Sequence[str], blow: Blow | None = None, file_size: int = 0) -> Ended:
        """Run a command, by default to its end, and look at what is left."""
        blow = blow or Blow()
        ended = carry_out([sys.executable, *words], self.temporary, blow, file_size=file_size)
        again = f"{blow}: python {shlex.join(words)}"
        self.report.add(what, blow, ended)
        if not ended.hit and ended.status in (0, 1):
            self.seconds[what] = 0.7 * self.seconds.get(what, ended.seconds) + 0.3 * ended.seconds
        if ended.dying > LIMIT * slowness():
            self.report.fault("hang", f"{ended.dying:.1f} s after {again}")
        for orphan in ended.orphans:
            self.report.fault("orphan", f"{orphan} after {again}")
        if ended.hit and blow.number == signal.SIGKILL:
            self.old.update(self.traces())
            return ended
        if left := set(self.traces()) - self.old:
            self.report.fault("leak", f"{sorted(left)} after {again}")
            self.old |= left
        if ended.outside(blow.number):
            return ended
        if "Traceback" in ended.output or (ended.hit and ended.status != 128 + blow.number):
            self.report.fault("defect", f"status {ended.status} after {again}\n{ended.output[-3000:]}")
        return ended

    def traces(self) -> list[str]:
        """Temporary files that are there."""
        labels = (self.folder / "images", self.folder / "labels")
        return traces((self.temporary, self.disk, self.exports, *labels))

    def blow(self, what: str) -> Blow:
        after = self.rng.uniform(0, 1.05 * self.seconds[what])
        return Blow(signal.Signals[self.rng.choice(SIGNALS)], after, whole_group=self.rng.random() < 0.5)

    def train(self) -> None:
        """A training is killed some times; what comes of it is compared with an uninterrupted one."""
        flags = random_flags(TrainConfig, self.rng)
        whole = self.run("train", self.training("whole", flags))
        if whole.status == 0:
            for _ in range(self.rng.randint(2, 6)):
                if self.rng.random() < FULL_DISK:
                    self.on_full_disk(self.continuing(flags))
                else:
                    self.run("train", self.continuing(flags), self.blow("train"))
            ended = self.run("train", self.continuing(flags))
            self.report.resumed += 1
            if ended.status or not same_run(self.disk / "whole", self.disk / "killed"):
                text = f"status {ended.status}: {shlex.join(flags)}\n{ended.output[-1000:]}"
                self.report.fault("loss", text)
            self.check_traces(f"train.py {shlex.join(flags)}")
        elif not whole.refused:
            self.report.fault("defect", f"status {whole.status}: {shlex.join(flags)}\n{whole.output[-1000:]}")
        for name in ("whole", "killed"):
            shutil.rmtree(self.disk / name, ignore_errors=True)

    def training(self, name: str, flags: Sequence[str]) -> list[str]:
        budget = ["--cfg", str(self.folder / "tiny.yaml"), "--epochs", str(EPOCHS), "--batch-size", "4"]
        place = ["--project", str(self.disk), "--name", name, "--exist-ok"]
        return ["train.py", *budget, *self.data, *place, *flags]

    def continuing(self, flags: Sequence[str]) -> list[str]:
        """How a training that was killed goes on; anew when nothing had been saved."""
        last = self.disk / "killed" / "weights" / "last.pt"
        return ["train.py", "--resume", str(last)] if last.exists() else self.training("killed", flags)

    def on_full_disk(self, words: Sequence[str]) -> None:
        """Training meets a disk that fills: it says so in one line, and goes on once there is space."""
        room = self.rng.randint(20_000, 2_000_000)
        if self.mounts:
            state, ballast = os.statvfs(self.disk), self.disk / "ballast"
            ballast.write_bytes(bytes(max(state.f_bavail * state.f_frsize - room, 0)))
            ended = self.run("train, disk full", words)
            ballast.unlink()
        else:
            ended = self.run("train, disk full", words, file_size=room)
        if ended.status and not ended.refused:
            text = f"status {ended.status} on a full disk: {shlex.join(words)}\n{ended.output[-2000:]}"
            self.report.fault("defect", text)

    def validate(self) -> None:
        flags = ["--weights", str(self.weights), *self.data, *random_flags(ValConfig, self.rng)]
        self.again_and_again("val", ["val.py", *flags, "--project", str(self.disk)])

    def detect(self) -> None:
        drawn = random_flags(DetectConfig, self.rng)
        source = "pictures/clip.avi" if {"--track", "--save-mot"} & set(drawn) else "pictures"  # videos alone
        flags = ["--weights", str(self.weights), "--source", str(self.folder / source)]
        flags += ["--imgsz", str(SIDE), *drawn]
        self.again_and_again("detect", ["detect.py", *flags, "--project", str(self.disk)])

    def look_after(self) -> None:
        """A subcommand of dataset.py; the folder that one makes is there whole, or not at all."""
        data = ["--data", str(self.folder / "data.yaml")]
        made = self.disk / "made"
        words = self.rng.choice((
            ["check", *data, "--project", str(self.disk), "--imgsz", str(SIDE)],
            ["view", *data, "--project", str(self.disk)],
            ["split", *data, "--out", str(made), "--seed", str(self.rng.randint(0, 9))],
            *(["convert", *data, "--out", str(made), "--to", to] for to in ("yolo", "voc", "coco")),
        ))  # fmt: skip
        what = f"dataset.py {words[0]}"
        for last in (False, False, True):
            if last or what in self.seconds:
                ended = self.run(what, ["dataset.py", *words], None if last else self.blow(what))
                whole = ended.hit or ended.status in (0, 1)
                if not whole or (made.exists() and not (made / "data.yaml").is_file()):
                    text = f"status {ended.status}: {shlex.join(words)}\n{ended.output[-1000:]}"
                    self.report.fault("defect", text)
            shutil.rmtree(made, ignore_errors=True)
            for folder in self.disk.glob("exp*"):
                shutil.rmtree(folder)
        self.check_traces(what)

    def export(self) -> None:
        """What an export was to replace is there and can be run, whenever it was killed."""
        weights = self.exports / "best.pt"
        shutil.copy(self.weights, weights)
        flags = ["--weights", str(weights), "--imgsz", str(SIDE), "--include", self.rng.choice(FORMATS)]
        flags += random_flags(ExportConfig, self.rng)
        if not self.run("export", ["export.py", *flags]).status:
            (made,) = (path for path in self.exports.iterdir() if path != weights)
            for _ in range(2):
                self.run("export", ["export.py", *flags], self.blow("export"))
            if not made.exists():
                self.report.fault("loss", f"{made} is gone: {shlex.join(flags)}")
            elif not {"--raw", "--nms"} & set(flags):
                one = ["--source", str(self.folder / "pictures" / "00.jpg"), "--imgsz", str(SIDE)]
                words = ["detect.py", "--weights", str(made), *one, "--project", str(self.disk)]
                if (ended := self.run("detect, exported", words)).status:
                    text = f"{made} cannot be run: {shlex.join(flags)}\n{ended.output[-1000:]}"
                    self.report.fault("loss", text)
        self.again_and_again("export", ["export.py", *flags], blows=0)
        shutil.rmtree(self.exports)
        self.exports.mkdir()

    def again_and_again(self, what: str, words: list[str], blows: int = 2) -> None:
        """A command that is called again after a kill; the last call comes to its end."""
        for _ in range(blows if what in self.seconds else 0):
            self.run(what, words, self.blow(what))
        ended = self.run(what, words)
        if ended.status not in (0, 1) and not ended.refused:
            self.report.fault("defect", f"status {ended.status}: {shlex.join(words)}\n{ended.output[-1000:]}")
        if not ended.refused:
            self.check_traces(shlex.join(words))
        for folder in self.disk.glob("exp*"):
            shutil.rmtree(folder)

    def check_traces(self, after: str) -> None:
        """After a command that came to its end, nothing of its killed forerunners is there."""
        if left := self.traces():
            self.report.fault("leak", f"{left} after {after}")
        self.old.update(left)


def same_run(whole: Path, killed: Path) -> bool:
    """Whether two runs have the same results and the same tensors in `last.pt`, bit by bit."""
    if (whole / "results.csv").read_bytes() != (killed / "results.csv").read_bytes():
        return False
    left, right = (
        dict(tensors(torch.load(run / "weights" / "last.pt", weights_only=True))) for run in (whole, killed)
    )
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def tensors(value: object, name: str = "") -> list[tuple[str, torch.Tensor]]:
    """Every tensor in nested dicts and lists, by its place."""
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    if isinstance(value, list):
        value = dict(enumerate(value))
    inner = value.items() if isinstance(value, Mapping) else ()
    return [found for key, item in inner for found in tensors(item, f"{name}.{key}")]
