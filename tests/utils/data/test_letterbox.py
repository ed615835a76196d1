import json
from pathlib import Path

import numpy as np
import pytest

from utils.data.letterbox import BACKGROUND, letterbox, round_up, rounded_size


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


def test_by_default_padding_ends_at_the_next_stride_and_is_the_grey_of_yolov5() -> None:
    # 20 x 50 into 64 x 64 at 64 / 50: 25.6, rounded to 26 rows; 38 to spare, of which 38 % 32 = 6 are needed
    out, _, pad = letterbox(np.zeros((20, 50, 3), np.uint8), (64, 64))
    assert (out.shape, pad) == ((32, 64, 3), (0, 3))
    assert out[:, 0, 0].tolist() == [114] * 3 + [0] * 26 + [114] * 3


def test_sides_are_rounded_up_to_strides_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert [round_up(side, 32) for side in (1, 32, 33, 64.5)] == [32, 32, 64, 96]
    assert round_up(1, 32, least=3) == 96
    assert [rounded_size(side, 32) for side in (64, 640)] == [64, 640]
    assert not caplog.messages
    assert [rounded_size(side, 32) for side in (100, 20)] == [128, 64]  # two strides at the least
    assert caplog.messages == [
        "--imgsz 100 is not a multiple of the stride 32: using 128",
        "--imgsz 20 is not a multiple of the stride 32: using 64",
    ]
