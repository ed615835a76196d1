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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from models.exporting.config import ExportConfig
from models.exporting.formats import FORMATS, check_needs
from models.exporting.job import Job, example, metadata
from models.exporting.run import in_its_forms, load_unchanged, make
from models.runtimes.base import checksum
from models.runtimes.kept import SEAL, is_whole, networks, place_of, seal_of
from utils.errors import UserError, run_command
from utils.files import write_text

MOST_KEPT = 32  # networks; beyond, those that were used longest ago go
SIZE = (
    640,
    640,
)  # pixels of the images that it is compared with PyTorch on; it takes all multiples of the stride


def kept_network(weights: Path, runtime: str) -> Path:
    """The file or folder of a network, for images of any size; made now when there is none, or a damaged one.

    It has been compared with PyTorch like any export.

    Raises:
        UserError: unusable weights, a missing package, a network that the format cannot express, or a result
            that differs; or the cache folder cannot be written to.
    """
    check_needs(FORMATS[runtime])
    digest = checksum([weights])
    try:
        target = place_of(digest, runtime)
        networks().mkdir(parents=True, exist_ok=True)
        with _locked(target.parent.with_suffix(".lock")):
            if not is_whole(target):
                _write(weights, digest, runtime, target)
            target.parent.touch()
        _drop_oldest()
    except OSError as error:
        raise UserError(
            f"the network of {weights} cannot be kept for {runtime} in the cache folder: {error}; "
            "set XDG_CACHE_HOME to a folder of yours, or take --runtime torch"
        ) from error
    return target


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Two commands may want the same network at once; one waits."""
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("waiting for another command that writes the same network", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _write(weights: Path, digest: str, runtime: str, target: Path) -> None:
    model, source = load_unchanged(weights)
    if source != digest:
        raise UserError(f"'{weights}' was written to while it was read; start again")
    print(f"writing {weights} for {runtime}, to be used again: {target}", flush=True)
    model.requires_grad_(False)
    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir(exist_ok=True)
    try:
        config, form = ExportConfig(include=(runtime,), dynamic=True), FORMATS[runtime]
        told = metadata(source, model, SIZE, config)
        job = Job(model, example(SIZE, 1, model.channels), target, told, config)
        make(in_its_forms(job, form, target, model, SIZE), form, model)
        write_text(target.parent / SEAL, seal_of(target))
    except BaseException:
        shutil.rmtree(target.parent, ignore_errors=True)
        raise


def _drop_oldest() -> None:
    """Keep no more than `MOST_KEPT` networks."""
    folders = sorted(
        (file.parent for file in networks().glob(f"*/{SEAL}")), key=lambda folder: folder.stat().st_mtime
    )
    for folder in folders[:-MOST_KEPT]:
        shutil.rmtree(folder, ignore_errors=True)
        folder.with_suffix(".lock").unlink(missing_ok=True)


def for_runtime(weights: Path, runtime: str, *, augment: bool = False) -> Path:
    """What to open in place of PyTorch weights so that a runtime runs them.

    Raises:
        UserError: other files, which belong to a runtime themselves; augmentation; and as `kept_network`.
    """
    if augment:
        raise UserError(f"--augment needs PyTorch; leave out --runtime {runtime}")
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
    run_command(lambda: kept_network(Path(sys.argv[1]), sys.argv[2]))
