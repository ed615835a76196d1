"""Where networks of PyTorch weights are kept for other runtimes; `models.exporting.kept` writes them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from pathlib import Path

import platformdirs

from models.runtimes.base import checksum
from models.tuning.machine import PACKAGES, instruction_set
from utils.files import ROOT, safe_name

SUFFIX = {
    "onnx": ".onnx",
    "openvino": "_openvino_model",
}  # runtimes, the quicker first, and what their files end in
WRITERS = ("torch", "onnx")  # packages that have a say in what is written


def networks() -> Path:
    """The folder, in the user's cache."""
    return Path(platformdirs.user_cache_dir("lean5", appauthor=False)) / "networks"


def place_of(weights: Path, runtime: str) -> Path:
    """Where the network of weights is, or will be.

    It is found by what is in the weights and by everything that has a say in it: versions of packages, this
    code, the CPU's instructions; and has the name of the weights.
    """
    versions = [importlib.metadata.version(name) for name in (*WRITERS, PACKAGES[runtime])]
    code = checksum([*sorted((ROOT / "models").rglob("*.py")), ROOT / "data" / "forms.yaml"])
    parts = [checksum([weights]), runtime, *versions, code, instruction_set()]
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
    return networks() / key / f"{safe_name(weights.stem)}{SUFFIX[runtime]}"


def written(weights: Path) -> Path | None:
    """The network of PyTorch weights for the quickest runtime that has it already."""
    if weights.suffix.lower() not in (".pt", ".safetensors"):
        return None
    places = (place_of(weights, runtime) for runtime in installed())
    return next((place for place in places if place.exists()), None)


def installed() -> list[str]:
    """The runtimes that a network can be written for and run in here."""
    there = [
        all(importlib.util.find_spec(name) for name in ("onnx", PACKAGES[runtime])) for runtime in SUFFIX
    ]
    return [runtime for runtime, found in zip(SUFFIX, there) if found]
