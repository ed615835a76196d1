"""Running export.py in tests, and looking at what it leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

import export

onnxruntime = pytest.importorskip("onnxruntime")


def call(weights: Path, *flags: str) -> None:
    export.main(["--weights", str(weights), *flags])


def left(weights: Path) -> set[str]:
    """Names of everything beside the weights, hidden files too."""
    return {file.name for file in weights.parent.iterdir()} - {weights.name}


def session(weights: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(weights.with_suffix(".onnx")))
