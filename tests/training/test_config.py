"""What values the flags of train.py take, and what is not done unless they say so."""

from __future__ import annotations

from typing import Any

import pytest

from training.config import TrainConfig


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("epochs", (1,), (0, -1)),
        ("batch_size", (1, -1), (0, -2)),
        ("imgsz", (1, 16384), (0, 16385)),
        ("workers", (0,), (-1,)),
        ("patience", (0,), (-1,)),
        ("label_smoothing", (0.0, 1.0), (-0.1, 1.1)),
        ("seed", (0, 2**63 - 1), (-1, 2**63)),
        ("name", ("x",), ("",)),
    ],
)
def test_limits(name: str, allowed: tuple[Any, ...], refused: tuple[Any, ...]) -> None:
    for value in allowed:
        assert getattr(TrainConfig(**{name: value}), name) == value
    for value in refused:
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} "):
            TrainConfig(**{name: value})


def test_images_are_not_drawn_by_weight_where_their_order_is_fixed() -> None:
    for flags in ({"rect": True}, {"image_weights": True}):
        TrainConfig(**flags)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="--image-weights and --rect exclude each other"):
        TrainConfig(rect=True, image_weights=True)


def test_the_weight_of_a_teacher_needs_one() -> None:
    assert TrainConfig(teacher="a.pt", teacher_weight=2.0).initial_weights == "a.pt"
    assert TrainConfig(teacher="a.pt", weights="b.pt").initial_weights == "b.pt"
    with pytest.raises(ValueError, match="--teacher-weight is of no use without --teacher"):
        TrainConfig(teacher_weight=2.0)
    for weight in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="--teacher-weight must lie between"):
            TrainConfig(teacher="a.pt", teacher_weight=weight)


def test_a_box_loss_is_read_before_anything_is_done() -> None:
    assert TrainConfig(iou="Inner-CIoU(ratio=0.8)").iou == "Inner-CIoU(ratio=0.8)"
    with pytest.raises(ValueError, match="--iou: 'Iner-CIoU', letter 1: unknown name 'Iner'; did you mean"):
        TrainConfig(iou="Iner-CIoU")


def test_what_is_not_asked_for_is_not_done() -> None:
    config = TrainConfig()
    switches = {name: value for name, value in vars(config).items() if isinstance(value, bool)}
    assert not any(switches.values()), switches
    assert (config.evolve, config.resume_evolve, config.cache, config.amp) == (None, None, None, "auto")
