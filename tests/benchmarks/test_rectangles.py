"""benchmarks/rectangles.py: how many shapes there are, and the whole command on a few small pictures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.rectangles import coarser, main
from tests.models.exporting.weights import write_weights


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    for number, (height, width) in enumerate(((64, 64), (48, 64), (40, 64), (64, 20))):
        image = np.full((height, width, 3), 40 * number, np.uint8)
        cv2.imwrite(str(tmp_path / "pictures" / f"{number}.png"), image)
    return tmp_path / "pictures"


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # at 128: 128x128, 96x128, 80x128, 128x40; in steps of 32: 128x128, 96x128 twice, 128x64
        (32, (3, 0.75)),
        # in steps of 64: 128x128 three times, 128x64
        (64, (2, 0.875)),
    ],
)
def test_shapes_and_pixels(step: int, expected: tuple[int, float], pictures: Path) -> None:
    assert coarser([str(file) for file in sorted(pictures.iterdir())], 128, step) == expected


@pytest.mark.slow
def test_the_command(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.rectangles.installed", lambda: ["onnx"])
    pytest.importorskip("onnxruntime")
    main(["--weights", str(write_weights(tmp_path / "best.pt")), "--images", str(pictures), "--imgsz", "128"])
    told = capsys.readouterr().out.splitlines()
    assert told[2].split("|")[1:4] == [" 32 ", " 3 ", " 0.75 "]
    assert told[-1].startswith("| onnx | ") and told[-1].count("(") == 2
