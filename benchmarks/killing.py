"""Runs a command, ends it at a chosen moment, and looks for what is left of it; on Linux.

A command gets a session, a folder for temporary files and a mark in its environment, by which the processes
that it started are found again wherever they have gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.files import ROOT, TEMPORARY

MARK = "LEAN5_RUN"
LIMIT = 5.0  # seconds from a signal to the end
LEAVING = 1.0  # seconds that a process may take to leave when all is done
GLANCE = 0.02

_running: set[int] = set()  # sessions of commands that have not ended
# what only a process that was killed may leave: temporary files, folders, and shared memory
NAMES = re.compile(r"\.(export|digits)-.*|(lean5|latency|profile|pymp|pym)-.*|torch_\d+_.*")
TRACES = (TEMPORARY, NAMES)


@dataclass(frozen=True)
class Blow:
    """How a command is ended.

    Attributes:
        number: the signal; 0 for none, the command ends by itself.
        after: seconds from the start.
        whole_group: the signal goes to the process and all that it has started, as Ctrl-C in a terminal does.
    """

    number: int = 0
    after: float = 0.0
    whole_group: bool = False

    def __str__(self) -> str:
        if not self.number:
            return "to its end"
        where = " to the group" if self.whole_group else ""
        return f"{signal.Signals(self.number).name}{where} after {self.after:.2f} s"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        hit: the signal came before the end.
        seconds: the whole command took.
        dying: seconds from the signal to the end, 0 without one.
        peak: memory in MB that the process held at most.
        orphans: command lines of processes that outlived it by more than `LIMIT`.
    """

    status: int
    hit: bool
    seconds: float
    dying: float
    peak: float
    output: str
    orphans: list[str] = field(default_factory=list)

    def outside(self, number: int) -> bool:
        """Whether the signal came while Python itself was starting, or when all was done already."""
        done = self.status in (0, 1, 2) and self.dying < LEAVING * slowness()
        starting = self.status == -number or self.output.rstrip() == "KeyboardInterrupt"
        return self.hit and (done or starting)

    @property
    def refused(self) -> bool:
        """The user's fault, in one line."""
        return self.status == 2 and self.output.rstrip().rpartition("\n")[2].startswith("error: ")


def carry_out(
    command: Sequence[str], temporary: Path, blow: Blow, *, patience: float = 600.0, file_size: int = 0
) -> Ended:
    """Run a command until it ends, by itself or by the blow; one that does not is killed after `patience`.

    Args:
        temporary: the folder for temporary files, which exists.
        file_size: bytes that a file may have, 0 for any: what a disk that fills is to a process.
    """
    mark = secrets.token_hex(8)
    environment = {**os.environ, MARK: mark, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
    log = temporary.parent / f"{temporary.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    _running.add(process.pid)
    if file_size:
        import resource  # not on Windows

        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_size, file_size))
    start = time.monotonic()
    ended = _await(process, start + (blow.after if blow.number else patience))
    hit = ended is None
    struck = time.monotonic()
    if ended is None:
        strike = os.killpg if blow.whole_group else os.kill
        strike(process.pid, blow.number or signal.SIGKILL)
        ended = _await(process, struck + patience)
    if ended is None:
        os.killpg(process.pid, signal.SIGKILL)
        ended = _await(process, struck + 2 * patience)
    assert ended is not None
    _running.discard(process.pid)
    now = time.monotonic()
    return Ended(
        *ended[:1], hit, now - start, now - struck if hit else 0.0, ended[1], log.read_text(errors="replace"),
        orphans(mark),
    )  # fmt: skip


def end_all() -> None:
    """Kill what is running still, because the program that runs it ends."""
    for session in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(session, signal.SIGKILL)


def _await(process: subprocess.Popen[bytes], until: float) -> tuple[int, float] | None:
    """Status and peak memory in MB of a process, None when it lives at that time."""
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_maxrss / 1024
        if time.monotonic() >= until:
            return None
        time.sleep(GLANCE)


def orphans(mark: str) -> list[str]:
    """The command lines of processes with a mark that are there after `LIMIT`; they are killed."""
    until = time.monotonic() + LIMIT * slowness()
    while found := _marked(mark):
        if time.monotonic() > until:
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            return list(found.values())
        time.sleep(GLANCE)
    return []


def _marked(mark: str) -> dict[int, str]:
    found, wanted = {}, f"{MARK}={mark}".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                if wanted in Path(entry.path, "environ").read_bytes().split(b"\0"):
                    words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                    found[int(entry.name)] = b" ".join(words).decode(errors="replace")
            except OSError:
                continue  # it has ended, or is another user's
    return found


def slowness() -> float:
    """How much longer things may take because others want the cores too: 1 on a quiet machine, at most 4."""
    return min(max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)), 4.0)


def traces(folders: Iterable[Path]) -> list[str]:
    """Temporary files and folders below some folders."""
    return [
        str(path)
        for folder in folders
        for path in folder.rglob("*")
        if any(kind.fullmatch(path.name) for kind in TRACES)
    ]
