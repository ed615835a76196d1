"""Measure models, variants and claims.

python benchmark.py complexity yolov5n.yaml yolov5n-gsconv.yaml    # parameters, GFLOPs, memory access, depth
python benchmark.py ledger                                         # recount every published number
python benchmark.py docs                                           # write the tables of README.md and docs
python benchmark.py latency --cfg yolov5n yolov5n-gsconv           # milliseconds in each runtime, relative
python benchmark.py tune --cfg yolov5n-csphet                      # which of equal forms are fastest here
python benchmark.py profile --cfg yolov5n yolov5n-csphet           # kernels that take the time
python benchmark.py train --data bccd.yaml --variants yolov5n yolov5n-gsconv --seeds 0 1 2 --epochs 20
python benchmark.py report --latency latency.json --accuracy runs/benchmark/bccd/results.csv   # one HTML page

`python benchmark.py SUBCOMMAND --help` lists the flags of one.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

from utils.errors import UserError, run_command
from utils.flags import parse_flags

# each is a module with a configuration class `Config` and a function `run(config)`
SUBCOMMANDS = {
    "complexity": "benchmarks.complexity",
    "ledger": "benchmarks.ledger",
    "docs": "benchmarks.docs",
    "latency": "benchmarks.latency",
    "profile": "benchmarks.profiling",
    "report": "benchmarks.report",
    "train": "benchmarks.train",
    "tune": "benchmarks.tune",
}


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(__doc__.strip())
        return
    name, *flags = words
    if name not in SUBCOMMANDS:
        near = difflib.get_close_matches(name, SUBCOMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SUBCOMMANDS)}"
        raise UserError(f"unknown subcommand '{name}'; {hint}")
    module = importlib.import_module(SUBCOMMANDS[name])  # each loads only what it needs
    module.run(parse_flags(module.Config, flags, command=f"benchmark.py {name}"))


if __name__ == "__main__":
    run_command(main)
