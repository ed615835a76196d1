"""One training run of a comparison: its folder, its budget, and `train.py` as a process of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import yaml

from models.cfg import resolve_cfg
from models.weights import find_weights
from training.config import TrainConfig
from training.resume import FREE
from training.run_folder import RunFolder
from utils.console import LOGGER
from utils.errors import UserError
from utils.files import ROOT, find_file
from utils.flags import arguments
from utils.hyperparameters import Hyperparameters
from utils.interrupt import LEASHED, StopRequest, on_cut_off

POLL = 0.2  # seconds between two looks at a training process
PATIENCE = 10.0  # seconds that one may take to end when it has to
DIVERGED = re.compile(r"(the loss|a weight) became \S+ in epoch")  # as `training.engine` says it
# flags of train.py that do not change what is learned; `hyp` does, and is compared by content
NO_BUDGET = {
    *FREE, "project", "name", "exist_ok", "resume", "pause", "nosave", "save_period", "local_rank", "study",
    "hyp",
}  # fmt: skip
# how train.py finds the files that these flags name
FINDERS: dict[str, Callable[[str], Path]] = {
    "cfg": resolve_cfg,
    "weights": find_weights,
    "teacher": find_weights,
    "data": lambda name: find_file(name, (ROOT / "data",), ("", ".yaml", ".yml")),
}


@dataclass(frozen=True)
class Run:
    """The training of one variant with one seed, in `folder`."""

    variant: str
    seed: int
    folder: Path

    def __str__(self) -> str:
        return f"{self.variant} seed {self.seed}"

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def facts(self) -> Path:
        """What `benchmarks.outcome.record` writes once the run has ended well."""
        return self.folder / "facts.json"

    @property
    def finished(self) -> bool:
        return self.facts.is_file()

    @property
    def started(self) -> bool:
        """Whether there is something to continue, or to lose."""
        return self.files.last.is_file()


def runs_in(folder: Path) -> list[Run]:
    """The runs below `folder`, in the order of their names; a run's folder is called VARIANT-seedN."""
    found = []
    for path in sorted(folder.glob("*-seed*")):
        variant, _, seed = path.name.rpartition("-seed")
        if seed.isascii() and seed.isdigit() and path.is_dir():
            found.append(Run(variant, int(seed), path))
    return sorted(found, key=lambda run: (run.variant, run.seed))


def settings_of(run: Run, file: Literal["opt.yaml", "hyp.yaml"] = "opt.yaml") -> dict[str, Any]:
    """The flags of train.py, or the hyper-parameters, of a run; those of another version may lack some.

    Raises:
        UserError: they cannot be read.
    """
    path = run.folder / file
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise damaged(path) from error
    if not isinstance(content, dict):
        raise damaged(path)
    return content


def check_budget(run: Run, wanted: TrainConfig, hyp: Hyperparameters) -> None:
    """Make sure that a run that was started before has had the budget of `wanted` and `hyp`.

    Raises:
        UserError: it had another; the message names the first setting that differs.
    """
    flags = {**dataclasses.asdict(TrainConfig()), **settings_of(run)}
    for name, value in dataclasses.asdict(wanted).items():
        old = tuple(flags[name]) if isinstance(flags[name], list) else flags[name]
        if name not in NO_BUDGET and _identity(name, old) != _identity(name, value):
            raise _another_budget(run, f"--{name.replace('_', '-')}", old, value)
    values = {**dataclasses.asdict(Hyperparameters()), **settings_of(run, "hyp.yaml")}
    for name, value in dataclasses.asdict(hyp).items():
        if values[name] != value:
            raise _another_budget(run, f"hyper-parameter {name}", values[name], value)


def _another_budget(run: Run, setting: str, old: Any, new: Any) -> UserError:
    before, now = ("(none)" if value in ("", None) else value for value in (old, new))
    return UserError(
        f"{run.folder} was trained with {setting} {before}, which is {now} now; runs are compared under one "
        "budget: repeat the setting, or choose another --name, or remove that folder"
    )


def _identity(name: str, value: Any) -> Any:
    """A value to compare: a file is the same whether it is named with or without its folder."""
    if name in FINDERS and value:
        with contextlib.suppress(UserError):  # it is gone, so that its name is all there is
            return FINDERS[name](str(value)).resolve()
    return value


def damaged(path: Path) -> UserError:
    return UserError(f"{path} is missing or damaged; remove the run's folder to train it again")


class Diverged(UserError):
    """A training ended because a number in it was not finite any more."""


class Abandoned(Exception):
    """A training was stopped because it is not ours any more."""


def carry_out(
    run: Run, config: TrainConfig, stop: StopRequest, lost: Callable[[], bool] | None = None
) -> None:
    """Train the run, or go on with it where it was interrupted; its output is added to `run.log`.

    A stop request is passed on, and the process then saves where it is.

    Args:
        config: of a new run.
        lost: for a run that others may take over: whether one of them has. Then the training does not
            outlive this process either.

    Raises:
        Diverged, UserError: training failed; the message repeats its error.
        SystemExit: training was stopped as requested.
        Abandoned: training was stopped because the run was lost.
    """
    if run.started:
        free = {name: getattr(config, name) for name in (*FREE, *config.once)}
        config = dataclasses.replace(TrainConfig(), resume=str(run.files.last), **free)
    words = arguments(config)
    run.folder.mkdir(parents=True, exist_ok=True)
    with run.log.open("ab") as log:
        log.write(f"$ python train.py {shlex.join(words)}\n".encode())
        log.flush()
        start = log.tell()
        # its output goes straight into the file: a pipe would break, and the run with it, if we died
        command = [sys.executable, str(ROOT / "train.py"), *words]
        leash, more = (subprocess.DEVNULL, {}) if lost is None else (subprocess.PIPE, LEASHED)
        environment = {**os.environ, **more}
        process = subprocess.Popen(
            command, stdin=leash, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
    with process, run.log.open("rb") as output:
        output.seek(start)
        with on_cut_off(process.terminate):
            status = _wait(process, output, lambda: bool(stop.requested or (lost and lost())))
        output.seek(start)
        lines = output.read().decode(errors="replace").splitlines()
    if status and lost is not None and lost():
        raise Abandoned(str(run))
    if status and stop.requested:
        LOGGER.info(f"{run}: stopped; the same command continues it")
        sys.exit(stop.exit_status)
    if status:
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        last = (errors or [line for line in lines if line.strip()] or ["it ended without a word"])[-1]
        kind = Diverged if DIVERGED.match(last) else UserError
        raise kind(f"{run}: {last} (status {status}; everything is in {run.log})")


def _wait(process: subprocess.Popen[bytes], output: BinaryIO, stopping: Callable[[], bool]) -> int:
    """The exit status of a training process, which learns that it has to stop; tells of its epochs meanwhile.

    Ctrl-C in a terminal reaches that process, too, and a second one would end it without saving; therefore it
    is told with SIGTERM, which it may get any number of times.
    """
    told, partial = False, b""
    try:
        while True:
            try:
                return process.wait(timeout=POLL)
            except subprocess.TimeoutExpired:
                if stopping() and not told:
                    process.terminate()
                    told = True
            finally:
                *lines, partial = (partial + output.read()).split(b"\n")
                for line in lines:
                    if line.startswith(b"epoch "):
                        LOGGER.info(f"    {line.decode(errors='replace').rstrip()}")
    except BaseException:  # a second Ctrl-C, or an error of ours: leave no process behind
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise
