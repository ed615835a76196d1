"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material: goldens, photographs, the official checkpoint. Skips when absent."""
    folder = Path(os.environ.get("LEAN5_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference material at {folder}; set LEAN5_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="session")
def official_weights(shared: Path) -> Path:
    return shared / "weights" / "yolov5n-v6.0.pt"
