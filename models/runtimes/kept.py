"""Where networks of PyTorch weights are kept for other runtimes; `models.exporting.kept` writes them."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from pathlib import Path

from models.runtimes.base import checksum
from models.runtimes.machine import PACKAGES, instruction_set, version_of
from utils.files import ROOT, user_cache

# runtimes, the quicker one first, and what a network is called in the folder that is its own
FILES = {"onnx": "network.onnx", "openvino": "network_openvino_model"}
SEAL = "sha256"  # the file beside it that says what is in it
WRITERS = ("torch", "onnx")  # packages that have a say in what is written


def networks() -> Path:
    """The folder of all, in the user's cache.

    Raises:
        OSError: nobody knows where that is.
    """
    return user_cache() / "networks"


def place_of(digest: str, runtime: str) -> Path:
    """Where the network of weights with this SHA-256 is, or will be.

    Everything that has a say in it has one in the name: versions of packages, this code, the CPU's
    instructions.
    """
    versions = [version_of(name) for name in (*WRITERS, PACKAGES[runtime])]
    code = checksum([*sorted((ROOT / "models").rglob("*.py")), ROOT / "data" / "forms" / "cpu.yaml"])
    parts = [digest, runtime, *versions, code, instruction_set()]
    key = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
    return networks() / key / FILES[runtime]


def seal_of(network: Path) -> str:
    """The SHA-256 of what a network consists of."""
    return checksum(sorted(network.iterdir()) if network.is_dir() else [network])


def is_whole(network: Path) -> bool:
    """Whether a network is there, as it was written."""
    with contextlib.suppress(OSError, ValueError):
        return (network.parent / SEAL).read_text(encoding="ascii") == seal_of(network)
    return False


def written(weights: Path) -> Path | None:
    """The network of PyTorch weights for the quickest runtime that has it already."""
    if weights.suffix.lower() not in (".pt", ".safetensors") or not installed():
        return None
    with contextlib.suppress(OSError):
        digest = checksum([weights])
        places = (place_of(digest, runtime) for runtime in installed())
        return next((place for place in places if is_whole(place)), None)
    return None


def installed() -> list[str]:
    """The runtimes that a network can be written for and run in here."""
    there = [all(importlib.util.find_spec(name) for name in ("onnx", PACKAGES[runtime])) for runtime in FILES]
    return [runtime for runtime, found in zip(FILES, there) if found]
