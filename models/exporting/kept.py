"""Networks of PyTorch weights for other runtimes, written once and kept in the user's cache folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
from pathlib import Path

import platformdirs
from filelock import FileLock

from models.exporting.config import ExportConfig
from models.exporting.formats import FORMATS, check_needs
from models.exporting.job import Job, example, metadata
from models.exporting.run import in_its_forms, load_unchanged, make
from models.runtimes.base import checksum
from models.tuning.findings import TABLE
from models.tuning.machine import PACKAGES, instruction_set
from utils.errors import UserError
from utils.files import ROOT, safe_name

KEPT = ("onnx", "openvino")  # runtimes, and the names of their formats
MOST_KEPT = 32  # networks; beyond, those that were used longest ago go
WRITERS = ("torch", "onnx")  # packages that have a say in what is written
SIZE = (
    640,
    640,
)  # pixels of the images that it is compared with PyTorch on; it takes all multiples of the stride


def kept_network(weights: Path, runtime: str) -> Path:
    """The file or folder of a network for one of `KEPT`, for images of any size; made now when there is none.

    It is found by what is in the weights, not by their name, and by everything that has a say in it: versions
    of packages, this code, the CPU's instructions. It has been compared with PyTorch like any export.

    Raises:
        UserError: unusable weights, a missing package, a network that the format cannot express, or a result
            that differs.
        OSError: the cache folder cannot be written to.
    """
    form = FORMATS[runtime]
    check_needs(form)
    folder = networks() / _key(weights, runtime)
    target = folder / f"{safe_name(weights.stem)}{form.suffix}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):  # two commands may want it at once
        if not target.exists():
            _write(weights, runtime, target)
        folder.touch()
    _drop_oldest()
    return target


def networks() -> Path:
    """Where they are kept."""
    return Path(platformdirs.user_cache_dir("lean5", appauthor=False)) / "networks"


def _key(weights: Path, runtime: str) -> str:
    versions = [importlib.metadata.version(name) for name in (*WRITERS, PACKAGES[runtime])]
    code = checksum([*sorted((ROOT / "models").rglob("*.py")), TABLE])
    parts = [checksum([weights]), runtime, *versions, code, instruction_set()]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]


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
    """What to open in place of PyTorch weights so that one of `KEPT` runs them.

    Raises:
        UserError: other files, which belong to a runtime themselves; and as `kept_network`.
    """
    if weights.suffix.lower() not in (".pt", ".safetensors"):
        raise UserError(
            f"--runtime {runtime} is for PyTorch weights; '{weights}' belongs to a runtime itself"
        )
    return kept_network(weights, runtime)
