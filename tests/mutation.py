"""Whether tests hold the code: changes it in one place at a time and looks whether a test fails.

    python -m tests.mutation utils/nms.py utils/boxes.py
    python -m tests.mutation training --sample 120 --tests tests/test_train.py

A change that no test notices survives. `equivalent_mutants.yaml` lists those that change nothing, with the
reason. The tests of a module are those of the file that mirrors it, or else of its folder, and what `--tests`
adds. They run once to find out which lines each executes; then, in a copy of the repository, those that reach
a change run with it. Needs a system that can fork.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml

from tests.mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[1]
LONGEST, BUDGET = 30.0, 120.0  # seconds: of a test that is used, and of all tests of one mutant
# packages that a process keeps for all of its mutants; none of them starts threads when it is imported
KEPT = {"torch", "numpy", "cv2", "PIL", "yaml", "tqdm", "matplotlib"}
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass
class Recorder:
    """A plugin of pytest: which lines of which files each test executes, and how long it takes."""

    files: dict[str, str]  # absolute path to path in the repository
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: dict[str, set[int]] = field(default_factory=dict)

    def trace(self, frame: FrameType, event: str, argument: object) -> Any:
        name = self.files.get(frame.f_code.co_filename)
        if name is None:
            return None
        here = self.lines.setdefault(name, set())
        here.add(frame.f_lineno)

        def inner(frame: FrameType, event: str, argument: object) -> Any:
            here.add(frame.f_lineno)
            return inner

        return inner

    @contextlib.contextmanager
    def watching(self) -> Iterator[dict[str, set[int]]]:
        self.lines = {}
        threading.settrace(self.trace)
        sys.settrace(self.trace)
        try:
            yield self.lines
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Iterator[None]:
        with self.watching() as lines:
            result = yield
        self.tests["import"] = {"seconds": 0.0, "lines": {name: sorted(at) for name, at in lines.items()}}
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        start = time.perf_counter()
        with self.watching() as lines:
            result = yield
        if item.nodeid not in self.tests:  # it has not failed
            seconds = time.perf_counter() - start
            self.tests[item.nodeid] = {
                "seconds": seconds,
                "lines": {n: sorted(at) for n, at in lines.items()},
            }
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self.tests[report.nodeid] = {"seconds": math.inf, "lines": {}}


class Copy:
    """A copy of the working tree in which one file at a time is changed, and a child of fork runs tests."""

    def __init__(self, folder: Path) -> None:
        self.root, self.temporary = folder / "tree", folder / "tmp"
        names = subprocess.check_output(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, encoding="utf-8"
        )
        for name in filter(lambda name: (ROOT / name).is_file(), names.splitlines()):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, self.root / name)

    def run(
        self, tests: Sequence[str], limit: float, plugin: object = None, write: bool = False
    ) -> int | None:
        """Pytest's exit status in a child of its own, None when it took longer than `limit` seconds."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                self._child(tests, plugin, write)
            os._exit(99)
        end = time.monotonic() + limit
        status = None
        while status is None and time.monotonic() < end:
            time.sleep(0.01)
            done, code = os.waitpid(child, os.WNOHANG)
            status = os.waitstatus_to_exitcode(code) if done else None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)  # also what its tests have started
        if status is None:
            os.waitpid(child, 0)
        return status

    def _child(self, tests: Sequence[str], plugin: object, write: bool) -> None:
        os.setsid()
        os.chdir(self.root)
        log = os.open(self.root.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for handle in (1, 2):
            os.dup2(log, handle)
        sys.path[:] = [str(self.root), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        sys.dont_write_bytecode = not write
        os.environ["PYTHONDONTWRITEBYTECODE"] = "" if write else "1"
        flags = ["-p", "no:xdist", "-p", "no:cacheprovider", "--basetemp", str(self.temporary), "--no-header"]
        flags += [] if write else ["-x", "--tb=no"]
        code = pytest.main([*flags, *tests], plugins=[plugin] if plugin else [])
        if isinstance(plugin, Recorder):
            kept = sorted(name for name in sys.modules if name.partition(".")[0] in KEPT)
            (self.root.parent / "record.json").write_text(
                json.dumps({"tests": plugin.tests, "modules": kept}), encoding="utf-8"
            )
        os._exit(code)

    def record(self, modules: Sequence[str], tests: Sequence[str]) -> dict[str, Any]:
        """Run tests once: what each executes of the modules, for how long, and what they import."""
        plugin = Recorder({str(self.root / name): name for name in modules})
        self.run(tests, math.inf, plugin, write=True)
        return json.loads((self.root.parent / "record.json").read_text(encoding="utf-8"))

    def survives(self, mutant: Mutant, tests: Sequence[str], limit: float) -> bool:
        """Whether all tests pass with the mutant in place."""
        path = self.root / mutant.module
        original = path.read_bytes()
        for cached in path.parent.glob(f"__pycache__/{path.stem}.*"):
            cached.unlink()
        path.write_text(mutant.source, encoding="utf-8")
        try:
            return self.run(tests, limit) == 0
        finally:
            path.write_bytes(original)


def tests_for(mutant: Mutant, record: dict[str, Any]) -> tuple[list[str], float]:
    """The tests of a mutant, and how long they take.

    First those that execute it, fast ones before slow ones; then the others of the file that mirrors its
    module, which may reach it in another process.
    """
    at, module = set(mutant.lines), mutant.module
    own = own_tests(module)
    always = bool(at & set(record["tests"]["import"]["lines"].get(module, ())))
    chosen = []
    for name, test in record["tests"].items():
        lines = set(test["lines"].get(module, ()))
        reached = bool(lines & at or (always and lines))
        if test["seconds"] <= LONGEST and (reached or name.startswith(f"{own}::")):
            chosen.append((not reached, test["seconds"], name))
    used, seconds = [], 0.0
    for _, duration, name in sorted(chosen):
        if name != "import" and seconds + duration <= BUDGET:
            used.append(name)
            seconds += duration
    return used, seconds


def own_tests(module: str) -> str:
    """The file of tests that mirrors a module or its folder, or else the folder where that would be."""
    path = Path("tests") / module
    for mirror in (path.with_name(f"test_{path.name}"), path.parent.with_name(f"test_{path.parent.name}.py")):
        if (ROOT / mirror).is_file():
            return mirror.as_posix()
    return next(folder for folder in path.parents if (ROOT / folder).is_dir()).as_posix()


_copy: Copy  # that of this process


def start(folder: str, kept: Sequence[str]) -> None:
    """In each process: import what all mutants need, and make a copy."""
    global _copy
    for name in kept:
        with contextlib.suppress(Exception):  # some are made by their packages and cannot be imported
            importlib.import_module(name)
    _copy = Copy(Path(tempfile.mkdtemp(dir=folder)))


def judge(mutant: Mutant, tests: Sequence[str], seconds: float) -> bool:
    """Whether a mutant survives."""
    return not tests or _copy.survives(mutant, tests, 20 + 8 * seconds)


def interval(survived: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    z, share = 1.96, survived / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def modules_of(paths: Sequence[str]) -> list[str]:
    """Python files, and those of folders, as paths in the repository."""
    found: list[str] = []
    for path in paths:
        place = ROOT / path
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        found += [str(file.relative_to(ROOT)) for file in files if file.name != "__init__.py"]
    return found


def sampled(module: str, most: int | None, seed: int) -> list[Mutant]:
    """Mutants of a module that are not known to change nothing, `most` of them drawn when there are more."""
    text = (ROOT / "tests" / "equivalent_mutants.yaml").read_text(encoding="utf-8")
    same = yaml.safe_load(text).get(module, {})
    mutants = mutants_of(ROOT, module)
    for gone in same.keys() - {mutant.after for mutant in mutants}:
        print(f"equivalent_mutants.yaml: {module} has no more '{gone}'")
    mutants = [mutant for mutant in mutants if mutant.after not in same]
    return random.Random(f"{seed} {module}").sample(mutants, min(most or len(mutants), len(mutants)))


def report(module: str, survivors: Sequence[bool]) -> str:
    total, survived = len(survivors), sum(survivors)
    low, high = interval(survived, total)
    return f"{module:42} {survived:4} of {total:4} survive: {survived / total:6.1%} ({low:.1%} to {high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="+", help="Python files or folders")
    parser.add_argument("--sample", type=int, help="at most this many mutants of each module; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--tests", nargs="+", default=[], help="files and folders of more tests")
    arguments = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("LEAN5_SHARED", str(ROOT.parent / "shared"))
    modules = modules_of(arguments.modules)
    with tempfile.TemporaryDirectory() as folder:
        record = Copy(Path(folder) / "first").record(
            modules, [*dict.fromkeys(map(own_tests, modules)), *arguments.tests]
        )
        chosen = [m for module in modules for m in sampled(module, arguments.sample, arguments.seed)]
        jobs = [(mutant, *tests_for(mutant, record)) for mutant in chosen]
        fork = multiprocessing.get_context("fork")
        with ProcessPoolExecutor(arguments.jobs, fork, start, (folder, record["modules"])) as pool:
            survivors = []
            for mutant, survived in zip(chosen, pool.map(judge, *zip(*jobs))):
                survivors.append(survived)
                if survived:
                    print(mutant, flush=True)
    totals = Counter(mutant.module for mutant in chosen)
    at = 0
    for module, total in totals.items():
        print(report(module, survivors[at : at + total]))
        at += total
    print(report("all", survivors))


if __name__ == "__main__":
    main()
