"""Writes the networks of PyTorch weights that other runtimes are to run, once, into the user's cache folder.

`python -m models.exporting.kept WEIGHTS RUNTIME` does so for `models.runtimes.handover`, which goes on
meanwhile; it ends when its standard input does.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from filelock import FileLock

from models.exporting.config import ExportConfig
from models.exporting.formats import FORMATS, check_needs
from models.exporting.job import Job, example, metadata
from models.exporting.run import in_its_forms, load_unchanged, make
from models.runtimes.kept import networks, place_of
from utils.errors import UserError, run_command

MOST_KEPT = 32  # networks; beyond, those that were used longest ago go
SIZE = (
    640,
    640,
)  # pixels of the images that it is compared with PyTorch on; it takes all multiples of the stride


def kept_network(weights: Path, runtime: str) -> Path:
    """The file or folder of a network, for images of any size; made now when there is none.

    It has been compared with PyTorch like any export.

    Raises:
        UserError: unusable weights, a missing package, a network that the format cannot express, or a result
            that differs.
        OSError: the cache folder cannot be written to.
    """
    check_needs(FORMATS[runtime])
    target = place_of(weights, runtime)
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # two commands may want it at once
        if not target.exists():
            _write(weights, runtime, target)
        folder.touch()
    _drop_oldest()
    return target


def _write(weights: Path, runtime: str, target: Path) -> None:
    model, source = load_unchanged(weights)
    model.requires_grad_(False)
    config, form = ExportConfig(include=(runtime,), dynamic=True), FORMATS[runtime]
    job = Job(model, example(SIZE, 1, model.channels), target, metadata(source, model, SIZE, config), config)
    make(in_its_forms(job, form, target, model, SIZE), form, model)


def _drop_oldest() -> None:
    """Keep no more than `MOST_KEPT` networks."""
    folders = sorted(
        (file for file in networks().iterdir() if file.is_dir()), key=lambda folder: folder.stat().st_mtime
    )
    for folder in folders[:-MOST_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)


def for_runtime(weights: Path, runtime: str) -> Path:
    """What to open in place of PyTorch weights so that a runtime runs them.

    Raises:
        UserError: other files, which belong to a runtime themselves; and as `kept_network`.
    """
    if weights.suffix.lower() not in (".pt", ".safetensors"):
        raise UserError(
            f"--runtime {runtime} is for PyTorch weights; '{weights}' belongs to a runtime itself"
        )
    return kept_network(weights, runtime)


def _end_with_parent() -> None:
    os.read(0, 1)
    signal.raise_signal(signal.SIGTERM)  # so that nothing half-written stays


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    run_command(lambda: print(kept_network(Path(sys.argv[1]), sys.argv[2])))
