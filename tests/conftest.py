"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
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


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data yaml of 12 training and 4 validation images, 64 px: bright squares of two classes on grey."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 4)):
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(90, 130, (64, 64, 3), dtype=np.uint8)
            rows = []
            for category, colour in enumerate(((255, 60, 60), (60, 255, 60))):
                x, y = rng.integers(2, 40, 2)
                image[y : y + 20, x : x + 20] = colour
                rows.append(f"{category} {(x + 10) / 64} {(y + 10) / 64} {20 / 64} {20 / 64}\n")
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
            (root / "labels" / split / f"{number}.txt").write_text("".join(rows))
    yaml = root / "tiny.yaml"
    yaml.write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: [blue, green]\n")
    return yaml
