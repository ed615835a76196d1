"""The tests that another machine could fail, under what other machines have.

    python -m tests.machines                      # every column
    python -m tests.machines ascii avx2           # some

A column sets what a library or Python reads at its start; the tests know nothing of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# what reads and writes text, what depends on kernels and threads, and what starts processes
TESTS = (
    "tests/test_console.py", "tests/test_val.py", "tests/test_detect.py",
    "tests/models/blocks/test_recorded.py", "tests/models/runtimes", "tests/utils",
)  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A kind of machine: variables that it sets or takes away, and where it runs from."""

    set: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    elsewhere: bool = False  # in a folder that is not the repository
    umask: int | None = None


def threads(count: int) -> Column:
    number = str(count)
    return Column({"OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number, "OPENBLAS_NUM_THREADS": number})


COLUMNS = {
    "ascii": Column({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "cp1252": Column({"PYTHONIOENCODING": "cp1252"}),
    "buffered": Column(unset=("PYTHONUNBUFFERED",)),
    "unbuffered": Column({"PYTHONUNBUFFERED": "1"}),
    "avx2": Column({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    "plain": Column({"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"}),
    "one thread": threads(1),
    "two threads": threads(2),
    "sixteen threads": threads(16),
    "no home": Column({"HOME": os.devnull}, unset=("MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")),
    "elsewhere": Column(elsewhere=True),
    "far away": Column({"TZ": "Pacific/Chatham"}, umask=0o077),
}


def run(column: Column) -> int:
    """Run `TESTS` without a terminal; pytest's exit status."""
    environment = {name: value for name, value in os.environ.items() if name not in column.unset} | column.set
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
        command += ["-c", str(ROOT / "pyproject.toml"), *(str(ROOT / test) for test in TESTS)]
        return subprocess.run(
            command,
            cwd=folder if column.elsewhere else ROOT,
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            umask=-1 if column.umask is None else column.umask,
        ).returncode


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("columns", nargs="*", metavar="column", help=f"of {', '.join(COLUMNS)}; default: all")
    names = parser.parse_args().columns or list(COLUMNS)
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        parser.error(f"no column {unknown[0]!r}; known are {', '.join(COLUMNS)}")
    failed = []
    for name in names:
        print(f"---- {name} ----", flush=True)
        if run(COLUMNS[name]):
            failed.append(name)
    print(
        f"{len(names) - len(failed)} of {len(names)} kinds of machine pass"
        + (f"; not {failed}" if failed else "")
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
