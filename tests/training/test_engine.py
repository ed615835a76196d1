"""What the training loop makes of a batch before the network sees it."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.config import TrainConfig
from training.engine import TrainingOptions, _to_model
from utils.distributed import Process

OPTIONS = TrainingOptions(TrainConfig(), 128, 32, Process(), torch.device("cpu"))


def at(epoch: int, batch: int) -> Any:
    """The moment in training, which is all of the state that counts here."""
    return SimpleNamespace(epoch=epoch, batch=batch)


def sides(options: TrainingOptions, epoch: int, shape: tuple[int, int] = (128, 128)) -> list[tuple[int, int]]:
    images = torch.zeros((1, 3, *shape), dtype=torch.uint8)
    return [tuple(_to_model(images, options, at(epoch, batch)).shape[2:]) for batch in range(40)]


def test_pixels_become_fractions_of_the_same_size() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(2, 3, 32, 64)
    pixels = _to_model(images, OPTIONS, at(0, 0))
    assert (pixels.shape, pixels.dtype) == ((2, 3, 32, 64), torch.float32)
    assert pixels[1, :, 7, 9].tolist() == pytest.approx([0.0, 0.2, 1.0])


@pytest.mark.parametrize(("imgsz", "allowed"), [(64, {32, 64, 96}), (128, {64, 96, 128, 160, 192})])
def test_multi_scale_draws_every_multiple_of_the_stride_within_half_the_size(
    imgsz: int, allowed: set[int]
) -> None:
    options = dataclasses.replace(OPTIONS, imgsz=imgsz, config=TrainConfig(multi_scale=True))
    drawn = sides(options, 0, (imgsz, imgsz))
    assert {height for height, _ in drawn} == allowed
    assert all(height == width for height, width in drawn)


def test_multi_scale_keeps_the_shape_of_rectangles() -> None:
    options = dataclasses.replace(OPTIONS, config=TrainConfig(multi_scale=True))
    for height, width in sides(options, 0, (64, 128)):
        assert width in {64, 96, 128, 160, 192}
        assert height == -(-width // 64) * 32  # half of it, rounded up to a multiple of 32


def test_multi_scale_depends_on_seed_epoch_and_batch_alone() -> None:
    options = dataclasses.replace(OPTIONS, config=TrainConfig(multi_scale=True))
    drawn = sides(options, 0)
    torch.manual_seed(99)  # draws nothing from the global generators
    assert sides(options, 0) == drawn
    assert sides(options, 1) != drawn
    reseeded = dataclasses.replace(options, config=TrainConfig(multi_scale=True, seed=1))
    assert sides(reseeded, 0) != drawn
