"""Times files in one runtime, in a process of its own: `python -m benchmarks.stopwatch JOB.json`.

The job is a JSON object: runtime, threads, rounds, warmup, files and images (name -> path, .npy) and result,
a file that is written: name -> milliseconds of every round.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import numpy as np

from models.tuning.calls import OPENERS, measure


def main(path: str) -> None:
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    opener = OPENERS[job["runtime"]]
    images = {name: np.load(file) for name, file in job["images"].items()}
    calls = {name: opener(Path(file), images[name], job["threads"]) for name, file in job["files"].items()}
    times = measure(calls, job["rounds"], job["warmup"], job["runtime"])
    Path(job["result"]).write_text(json.dumps(times), encoding="utf-8")


def end_with_parent() -> None:
    """Standard input closes when the command that waits for this is gone; nobody wants the times then."""
    os.read(0, 1)  # not by way of sys.stdin, whose lock a thread may not hold when the interpreter ends
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:  # the command that waits for this tells of it
        sys.exit(130)
