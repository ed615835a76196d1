"""Trains, validates, detects, exports and looks after data for hours; commands are killed at random moments.

    python -m benchmarks.soak --minutes 60 --seed 0

After the kills of a training, the resumed run must be the uninterrupted one bit for bit; every other command
must do its work when it is called again. Nothing may hang, be lost, be left behind or stay alive. Flags are
drawn from those that the commands have. Where Linux allows it, /dev/shm has 64 MB, as in containers, and the
runs are on a small disk that fills; both are mounted for this program alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, run

from benchmarks.killing import end_all
from benchmarks.soak_lane import INSIDE, Lane, Report
from utils.errors import UserError, run_command
from utils.files import ROOT, temporary_folder, write_text
from utils.flags import CommandConfig, at_least, flag, parse_flags

SHARED_MEMORY = "64m"
# what a lane does next, with the weights of chance; training has the most kills by itself
TURNS = {"train": 3, "validate": 2, "detect": 3, "export": 2, "look_after": 2}


@dataclass(frozen=True)
class Config(CommandConfig):
    """Kill commands at random moments, and report what that costs."""

    minutes: float = flag(60.0, "how long to go on", rule=at_least(1))
    kills: int = flag(0, "go on until there were so many kills, however long that takes", rule=at_least(0))
    seed: int = flag(0, "seed of flags and moments")
    lanes: int = flag(2, "commands that run side by side", rule=at_least(1))
    json: str = flag("", "file for the report")


def main(argv: Sequence[str] | None = None) -> None:
    config = parse_flags(Config, argv, command="benchmarks.soak")
    if sys.platform != "linux":
        raise UserError("the soak runs on Linux: it looks for what is left in /proc")
    if INSIDE not in os.environ:
        enter_own_mounts()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background; commands inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"seed {config.seed}, {config.lanes} lanes, {config.minutes:g} minutes", flush=True)
    report, end = Report(), time.monotonic() + 60 * config.minutes

    def going_on() -> bool:
        return time.monotonic() < end or sum(report.kills.values()) < config.kills

    with temporary_folder(prefix="soak-") as folder:
        before = set(Path("/dev/shm").iterdir())
        seeds = [config.seed * 100 + number for number in range(config.lanes)]
        lanes = [
            threading.Thread(target=soak, args=(folder / str(seed), seed, report, going_on), daemon=True)
            for seed in seeds
        ]
        for lane in lanes:
            lane.start()
        try:
            watch(lanes, report, config.json)
        finally:
            end_all()
            for disk in folder.glob("*/disk"):
                if disk.is_mount():
                    run(["umount", "--lazy", str(disk)], check=True)
        if left := set(Path("/dev/shm").iterdir()) - before:
            report.fault("leak", f"{sorted(map(str, left))}")
    text = json.dumps(report.as_dict(), indent=1)
    print(text)
    if config.json:
        write_text(Path(config.json), text)
    if report.faults:
        raise UserError(f"{len(report.faults)} faults, see above")


def watch(lanes: Sequence[threading.Thread], report: Report, file: str) -> None:
    """Wait for the lanes, and write the report every minute."""
    due = time.monotonic()
    while any(lane.is_alive() for lane in lanes):
        time.sleep(0.5)
        if file and time.monotonic() > due:
            write_text(Path(file), json.dumps(report.as_dict(), indent=1))
            due += 60


def soak(folder: Path, seed: int, report: Report, going_on: Callable[[], bool]) -> None:
    """One lane, until the time is over."""
    rng = random.Random(seed)
    try:
        lane = Lane(folder, rng, report)
        while going_on():
            turn = rng.choices(list(TURNS), list(TURNS.values()))[0]
            getattr(lane, turn)()
            print(f"{sum(report.kills.values())} kills, {len(report.faults)} faults", flush=True)
    except Exception as error:  # a lane is a thread: whatever ends it is to be seen in the report
        report.fault("defect", f"of the soak itself: {error!r}")
        raise


def enter_own_mounts() -> None:
    """Start this program again where it may mount: /dev/shm becomes small, and disks can be.

    Where that is not allowed, it goes on without, and says so.
    """
    shell = f'mount -t tmpfs -o size={SHARED_MEMORY} tmpfs /dev/shm && exec "$@"'
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    begin = ["unshare", "--mount", *user, "sh", "-c", shell, "sh"]
    if shutil.which("unshare") and not run([*begin, "true"], stdout=DEVNULL, stderr=DEVNULL).returncode:
        again = [sys.executable, "-m", "benchmarks.soak", *sys.argv[1:]]
        os.chdir(ROOT)
        os.execvpe(begin[0], [*begin, *again], {**os.environ, INSIDE: "1"})
    print("nothing can be mounted: /dev/shm stays as it is, and a limit of size stands in for a full disk")
    os.environ[INSIDE] = ""


if __name__ == "__main__":
    run_command(main)
