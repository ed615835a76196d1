"""Mutated files for every reader: each is read, or refused with one line. Anything else is a finding.

    python -m tests.fuzz                            # 20 seconds a reader
    python -m tests.fuzz images ncnn --seconds 600  # some, for longer
    python -m tests.fuzz images --case 1234         # one case again, in this process

A case is made of its number alone. Cases run in a child process: a crash, a wait of more than `PATIENCE`
seconds and memory beyond `MOST_MEMORY` count, and the next child goes on behind them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tests.fuzz_targets import TARGETS
from utils.errors import UserError, one_line

PATIENCE = 30.0  # seconds for one case; the machine may be busy
NO_TEXT = re.compile("[\ud800-\udfff]")  # bytes of names, which the console shows by their numbers
LONGEST = 50_000  # letters of a message, of which the console shows head and tail
MOST_MEMORY = 2 << 30  # bytes that one case may add


def case_of(name: str, number: int, seeds: list[bytes]) -> bytes:
    dice = random.Random(f"{name} {number}")
    return TARGETS[name].change(dice.choice(seeds), seeds, dice)


# ---- running ----


def memory() -> int:
    """The most memory that this process has had, in bytes; 0 where nobody tells."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_case(name: str, number: int, folder: Path, seeds: list[bytes]) -> str:
    """Read one mutated file; empty when it was read or refused, else what happened."""
    target = TARGETS[name]
    path = folder / target.name
    path.write_bytes(case_of(name, number, seeds))
    before = memory()
    try:
        target.read(path)
    except UserError as error:
        message = str(error)
        if len(message) > LONGEST or not one_line(NO_TEXT.sub("", message)).isprintable():
            return f"a message of {len(message)} characters: {message[:100]!r}"
    except OSError as error:
        if error.filename is None:
            return f"{type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:150]} ({Path(place.filename).name}:{place.lineno})"
    grown = memory() - before
    return f"{grown >> 20} MB more memory" if grown > MOST_MEMORY else ""


def work(name: str, first: int, link: Connection) -> None:
    """A child: cases from `first` on, until the parent ends it. Says the number before, the result behind."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # native parsers print
        os.dup2(silence, stream)
    with tempfile.TemporaryDirectory() as place:
        seeds = TARGETS[name].seeds(Path(place))
        number = first
        while True:
            link.send((number, None))
            link.send((number, run_case(name, number, Path(place), seeds)))
            number += 1


@dataclass
class Outcome:
    """What came of a target: cases that ran, and findings by number."""

    cases: int
    findings: dict[int, str]


def fuzz(name: str, seconds: float, first: int = 0) -> Outcome:
    """Run cases of a target for a time, in child processes.

    Returns:
        how many, and what was found: number of the case -> what happened.
    """
    context = multiprocessing.get_context("spawn")
    outcome, number, end = Outcome(0, {}), first, None
    while end is None or time.monotonic() < end:
        link, theirs = context.Pipe()
        child = context.Process(target=work, args=(name, number, theirs), daemon=True)
        child.start()
        theirs.close()
        started = False
        try:
            while end is None or time.monotonic() < end:
                if not link.poll(PATIENCE if started else 10 * PATIENCE):
                    outcome.findings[number] = f"no end within {PATIENCE:g} seconds"
                    break
                number, result = link.recv()
                if not started:
                    started, end = True, end or time.monotonic() + seconds
                if result is not None:
                    outcome.cases += 1
                    if result:
                        outcome.findings[number] = result
        except EOFError:
            child.join()
            outcome.findings[number] = f"the process ended with {child.exitcode}"
            if not started:
                break
        finally:
            child.kill()
            child.join()
            link.close()
        number += 1
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=float, default=20, help="for each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="run this case alone, with its traceback")
    flags = parser.parse_args()
    names = flags.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; known are {', '.join(TARGETS)}")
    if flags.case is not None:
        with tempfile.TemporaryDirectory() as place:
            target, folder = TARGETS[names[0]], Path(place)
            seeds = target.seeds(folder)
            (folder / target.name).write_bytes(case_of(names[0], flags.case, seeds))
            target.read(folder / target.name)
        return
    failed = 0
    for name in names:
        outcome = fuzz(name, flags.seconds, flags.first)
        failed += len(outcome.findings)
        print(
            f"{name}: {outcome.cases} cases in {flags.seconds:g} s, {len(outcome.findings)} findings",
            flush=True,
        )
        for number, text in list(outcome.findings.items())[:20]:
            print(f"    case {number}: {text}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
