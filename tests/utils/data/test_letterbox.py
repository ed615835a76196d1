import json
from pathlib import Path

import numpy as np
import pytest

from utils.data.letterbox import BACKGROUND, letterbox


def test_reproduces_every_recorded_case(golden: Path) -> None:
    cases = json.loads((golden / "letterbox.json").read_text(encoding="utf-8"))
    assert cases
    for case in cases:
        image = np.zeros((case["h"], case["w"], 3), np.uint8)
        shape = case["new_shape"]
        out, ratio, pad = letterbox(
            image,
            (shape, shape) if isinstance(shape, int) else tuple(shape),
            stride=case["stride"],
            auto=case["auto"],
            scaleup=case["scaleup"],
        )
        assert list(out.shape[:2]) == case["out_shape"], case
        assert ratio == pytest.approx(case["ratio"]), case
        assert pad == pytest.approx(case["pad"]), case


def test_odd_padding_goes_right_and_down() -> None:
    # 10 x 7 into 10 x 10: 3 columns to spare, halves of 1.5: 1 on the left, 2 on the right
    out, ratio, pad = letterbox(np.full((10, 7, 3), 9, np.uint8), (10, 10), auto=False)
    assert ratio == (1.0, 1.0)
    assert pad == (1.5, 0.0)
    assert out[0, :, 0].tolist() == [BACKGROUND] + [9] * 7 + [BACKGROUND] * 2


def test_rectangular_target() -> None:
    out, _, pad = letterbox(np.zeros((20, 20, 3), np.uint8), (40, 60), auto=False)
    assert out.shape == (40, 60, 3)
    assert pad == (10.0, 0.0)
    assert out[0, 0].tolist() == [BACKGROUND] * 3
    assert out.flags.c_contiguous


def test_without_scaleup_a_small_image_keeps_its_size() -> None:
    out, ratio, _ = letterbox(np.full((30, 40, 3), 7, np.uint8), (64, 64), auto=True, scaleup=False)
    assert ratio == (1.0, 1.0)
    # rows to spare: (64 - 30) % 32 = 2; columns: (64 - 40) % 32 = 24
    assert out.shape == (30 + 2, 40 + 24, 3)
