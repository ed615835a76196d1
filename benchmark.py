"""Measure models, variants and claims.

python benchmark.py complexity yolov5n.yaml yolov5n-gsconv.yaml    # parameters, GFLOPs, memory access, depth
python benchmark.py ledger                                         # recount every published number
python benchmark.py docs                                           # write the tables of README.md and docs
python benchmark.py latency --cfg yolov5n yolov5n-gsconv           # milliseconds in each runtime, relative
python benchmark.py tune --cfg yolov5n-csphet                      # which of equal forms are fastest here
python benchmark.py profile --cfg yolov5n yolov5n-csphet           # kernels that take the time
python benchmark.py commands --weights yolov5n.pt --data coco.yaml # whole commands, beside the bare network
python benchmark.py losses                                         # box losses, by how single boxes converge
python benchmark.py train --data bccd.yaml --variants yolov5n yolov5n-gsconv --seeds 0 1 2 --epochs 20
python benchmark.py insert --weights yolov5n.pt --data coco.yaml   # mAP right after blocks were put in
python benchmark.py maps --weights yolov5n.pt --students lighter.pt --source pictures/  # how far maps are off
python benchmark.py report --latency latency.json --accuracy runs/benchmark/bccd/results.csv   # one HTML page
python benchmark.py gpu                                            # one check of everything on a GPU

`python benchmark.py SUBCOMMAND --help` lists the flags of one.
"""

from __future__ import annotations

from collections.abc import Sequence

from utils.errors import run_command
from utils.flags import run_subcommand

SUBCOMMANDS = {  # see `run_subcommand`
    "commands": "benchmarks.commands",
    "complexity": "benchmarks.complexity",
    "ledger": "benchmarks.ledger",
    "docs": "benchmarks.docs",
    "gpu": "benchmarks.gpu.command",
    "insert": "benchmarks.insert",
    "latency": "benchmarks.latency",
    "losses": "benchmarks.losses",
    "maps": "benchmarks.lightening.maps",
    "profile": "benchmarks.profiling",
    "report": "benchmarks.report",
    "train": "benchmarks.train",
    "tune": "benchmarks.tune",
}


def main(argv: Sequence[str] | None = None) -> None:
    run_subcommand("benchmark.py", __doc__, SUBCOMMANDS, argv)


if __name__ == "__main__":
    run_command(main)
