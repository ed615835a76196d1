"""The tests that another machine could fail, under what other machines have.

    python -m tests.machines                      # every kind of machine
    python -m tests.machines ascii avx2           # some
    python -m tests.machines --quick ascii plain  # as .ci/run does: the tests that tell most, a minute each

A column sets what a library or Python reads at its start; the tests know nothing of it. None has a terminal.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("LEAN5_SHARED", ROOT.parent / "shared"))  # as tests/conftest.py has it


@dataclass(frozen=True)
class Tests:
    """Files and folders of tests that a kind of machine could fail."""

    quick: tuple[str, ...]
    more: tuple[str, ...]


# what reads and writes text and files, names them, or starts processes
TEXT = Tests(
    quick=("test_docs.py", "benchmarks/test_docs.py", "benchmarks/test_report.py", "models/test_cfg.py",
           "training/test_setup.py", "utils/checkpoints", "utils/data", "utils/detections", "test_detect.py",
           "curation"),
    more=("benchmarks", "models/exporting", "models/runtimes", "test_console.py", "test_hubconf.py",
          "test_lighten.py", "test_lighten_resume.py", "test_lighten_search.py", "test_train.py",
          "test_train_teacher.py", "test_val.py", "training", "utils"),
)  # fmt: skip
# what kernels and the order of sums decide
ARITHMETIC = Tests(
    quick=("models/blocks/test_recorded.py", "models/folding/test_rules.py", "models/test_yolo.py",
           "models/runtimes/test_opening.py", "benchmarks/test_profiling.py", "utils/losses",
           "utils/test_nms.py"),
    more=("models/blocks", "models/folding", "models/runtimes", "models/test_deploy.py",
          "models/test_narrowing.py", "test_detect.py", "test_lighten.py", "test_lighten_resume.py",
          "test_val.py", "training"),
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A kind of machine: variables that it sets or takes away, and where and how it runs."""

    set: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    tests: Tests = TEXT
    elsewhere: bool = False  # in a folder that is not the repository
    umask: int | None = None
    background: bool = False  # Ctrl-C is ignored, as by what a shell starts with & or nohup
    read_only: bool = False  # the repository and the reference material


def threads(count: int) -> Column:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return Column(dict.fromkeys(names, str(count)), tests=ARITHMETIC)


COLUMNS = {
    "ascii": Column({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "cp1252": Column({"PYTHONIOENCODING": "cp1252"}),
    "buffered": Column(unset=("PYTHONUNBUFFERED",)),
    "unbuffered": Column({"PYTHONUNBUFFERED": "1"}),
    "avx2": Column({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}, tests=ARITHMETIC),
    # not below AVX: OpenVINO then mixes kernels and fails with 'bad combination' on a CPU with AVX-512
    "plain": Column({"ONEDNN_MAX_CPU_ISA": "AVX", "ATEN_CPU_CAPABILITY": "default"}, tests=ARITHMETIC),
    "one thread": threads(1),
    "two threads": threads(2),
    "sixteen threads": threads(16),
    "no home": Column({"HOME": os.devnull}, unset=("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")),
    "elsewhere": Column(elsewhere=True),
    "far away": Column({"TZ": "Pacific/Chatham"}, umask=0o077),
    "background": Column(background=True),
    "read-only": Column(read_only=True),
}
# Permissions do not stop root: folders are mounted read-only where only this process and its children see it.
# Arguments: folders, --, where to run, the command.
MOUNT = """
while [ "$1" != -- ]; do
    mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && [ ! -w "$1" ] || exit 1
    shift
done
cd "$2" && shift 2 && exec "$@"
"""


def read_only(command: list[str], cwd: str | Path) -> list[str]:
    """The command for which the repository and the reference material are on a read-only file system."""
    namespace = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    folders = [str(folder) for folder in (ROOT, SHARED) if folder.is_dir()]
    return [*namespace, "sh", "-c", MOUNT, "sh", *folders, "--", str(cwd), *command]


def hindrance(column: Column) -> str | None:
    """Why this machine cannot act as one of that kind; None: it can."""
    if not column.read_only:
        return None
    if sys.platform != "linux":
        return "mounting the repository read-only takes mount namespaces, which Linux has"
    try:
        ended = subprocess.run(read_only(["true"], ROOT), capture_output=True, text=True)
    except FileNotFoundError as error:
        return f"'{error.filename}' is not installed"
    return (ended.stderr.strip() or "mounting failed") if ended.returncode else None


def run(column: Column, quick: bool, processes: str) -> int:
    """Run the column's tests without a terminal; pytest's exit status."""
    environment = {name: value for name, value in os.environ.items() if name not in column.unset} | column.set
    tests = (*column.tests.quick, *(() if quick else column.tests.more))
    with tempfile.TemporaryDirectory() as folder:
        cwd = folder if column.elsewhere else ROOT
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
        command += ["--numprocesses", processes, "--maxprocesses", "4", "--dist", "loadfile"]
        command += ["-c", str(ROOT / "pyproject.toml"), *(str(ROOT / "tests" / test) for test in tests)]
        return subprocess.run(
            read_only(command, cwd) if column.read_only else command,
            cwd=cwd,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            umask=-1 if column.umask is None else column.umask,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN) if column.background else None,
        ).returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("columns", nargs="*", metavar="column", help=f"of {', '.join(COLUMNS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="only the tests that tell most")
    parser.add_argument(
        "--numprocesses", default="auto", help="of pytest, default: as many as cores, 4 at most"
    )
    args = parser.parse_args()
    names = args.columns or list(COLUMNS)
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        parser.error(f"no column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
    results: dict[str, list[str]] = {"pass": [], "fail": [], "cannot be had here": []}
    for name in names:
        print(f"---- {name} ----", flush=True)
        reason = hindrance(COLUMNS[name])
        if reason:
            print(reason)
            results["cannot be had here"].append(name)
        else:
            failed = run(COLUMNS[name], args.quick, args.numprocesses)
            results["fail" if failed else "pass"].append(name)
    told = [f"{len(some)} {what}: {', '.join(some)}" for what, some in results.items() if some]
    print(f"of {len(names)} kinds of machine " + "; ".join(told))
    sys.exit(bool(results["fail"]))


if __name__ == "__main__":
    main()
