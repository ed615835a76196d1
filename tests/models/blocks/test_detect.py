"""The head: geometry, biases, and decoding by hand."""

from __future__ import annotations

import math

import pytest
import torch

from models.blocks.detect import Detect

ANCHORS = [[10, 20, 30, 40], [50, 60, 70, 80]]


def head(nc: int = 3, anchors: int | list[list[int]] | None = None) -> Detect:
    torch.manual_seed(0)
    detect = Detect(nc, anchors or ANCHORS, (4, 8))
    detect.set_geometry([8.0, 16.0])
    return detect


def maps(batch: int = 2) -> list[torch.Tensor]:
    return [torch.randn(batch, 4, 4, 6), torch.randn(batch, 8, 2, 3)]


def test_shapes() -> None:
    detect = head()
    assert (detect.nc, detect.no, detect.nl, detect.na) == (3, 8, 2, 2)
    assert [level.shape for level in detect(maps())] == [(2, 2, 4, 6, 8), (2, 2, 2, 3, 8)]
    decoded, logits = detect.eval()(maps())
    assert decoded.shape == (2, 2 * 4 * 6 + 2 * 2 * 3, 8)
    assert len(logits) == 2


def test_anchors_are_kept_in_grid_units() -> None:
    detect = head()
    assert detect.anchors.tolist()[0] == [[10 / 8, 20 / 8], [30 / 8, 40 / 8]]
    assert detect.anchors.tolist()[1] == [[50 / 16, 60 / 16], [70 / 16, 80 / 16]]
    assert detect.stride.tolist() == [8, 16]
    assert set(detect.state_dict()) == {"anchors", "m.0.weight", "m.0.bias", "m.1.weight", "m.1.bias"}


def test_anchors_in_the_wrong_order_are_turned_round() -> None:
    assert torch.equal(head(anchors=ANCHORS[::-1]).anchors, head().anchors)


def test_an_integer_of_anchors_gives_squares_of_four_to_eight_strides() -> None:
    detect = head(anchors=2)
    side = 4 * 2**0.5
    torch.testing.assert_close(detect.anchors[1], torch.tensor([[4.0, 4.0], [side, side]]))


def test_biases_expect_few_objects() -> None:
    bias = head().m[1].bias.view(2, 8)  # type: ignore[union-attr, operator]
    # (640 / 16)^2 = 1600 cells, 8 objects: log(8 / 1600); classes log(0.6 / (3 - 0.99999))
    torch.testing.assert_close(bias[:, 4], torch.full((2,), math.log(8 / 1600)))
    torch.testing.assert_close(bias[:, 5:], torch.full((2, 3), math.log(0.6 / 2.00001)))
    assert bias.requires_grad


def test_decoding_by_hand() -> None:
    detect = head().eval()
    logits = [torch.zeros(1, 2, 4, 6, 8), torch.zeros(1, 2, 2, 3, 8)]
    logits[1][0, 1, 1, 2, :4] = torch.tensor(
        [math.log(3), -math.log(3), math.log(3), 0]
    )  # 0.75 0.25 0.75 0.5
    logits[1][0, 1, 1, 2, 5] = math.log(4)  # 0.8
    y = detect.decode(logits)
    # rows: level 0 has 2 * 4 * 6 = 48, then anchor 1 (6 rows in), row 1 (3 in), column 2
    box = y[0, 48 + 6 + 3 + 2]
    # x (2 * 0.75 - 0.5 + 2) * 16 = 48, y (2 * 0.25 - 0.5 + 1) * 16 = 16, w 1.5^2 * 70 = 157.5, h 1 * 80
    torch.testing.assert_close(box, torch.tensor([48, 16, 157.5, 80, 0.5, 0.8, 0.5, 0.5]))
    # level 0, anchor 0, row 3, column 1, all logits 0: x (0.5 + 1) * 8, y (0.5 + 3) * 8, its anchor
    torch.testing.assert_close(y[0, 3 * 6 + 1, :4], torch.tensor([12.0, 28.0, 10.0, 20.0]))


def test_decoding_follows_changed_anchors_and_leaves_logits_alone() -> None:
    detect = head().eval()
    features = maps(1)
    before, logits = detect(features)
    kept = [level.clone() for level in logits]
    detect.anchors.mul_(2)
    after, _ = detect(features)
    torch.testing.assert_close(after[..., 2:4], before[..., 2:4] * 2)
    assert all(torch.equal(level, copy) for level, copy in zip(logits, kept))


def test_reduced_precision() -> None:
    detect = head().eval()
    features = maps(1)
    exact, _ = detect(features)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = detect(features)
    assert rough.dtype is torch.float32  # bfloat16 cannot tell pixel 300 from 301
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.5)


def test_one_level_is_enough() -> None:
    detect = Detect(1, 3, (4,))
    detect.set_geometry([8.0])
    assert detect.eval()([torch.zeros(1, 4, 2, 2)])[0].shape == (1, 12, 6)


@pytest.mark.parametrize("nc", [1, 80])
def test_untrained_objectness_is_low(nc: int) -> None:
    decoded, _ = head(nc).eval()([torch.zeros(1, 4, 4, 6), torch.zeros(1, 8, 2, 3)])
    assert decoded[..., 4].max() < 0.01
