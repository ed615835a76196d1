"""Weights to export."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.layouts import small
from tests.models.exporting.weights import spread, write_weights


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.pt")


@pytest.fixture
def spread_weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.pt", spread(small("yolov5n-gsconv")))
