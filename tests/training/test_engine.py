"""What the training loop makes of a batch before the network sees it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from training.config import TrainConfig
from training.engine import _to_model


def at(epoch: int, batch: int, config: TrainConfig, imgsz: int = 128) -> Any:
    """All that counts here of a training at a moment, of a model with strides up to 32."""
    state = SimpleNamespace(epoch=epoch, batch=batch, model=SimpleNamespace(multiple=32))
    loader = SimpleNamespace(dataset=SimpleNamespace(size=imgsz))
    return SimpleNamespace(config=config, device=torch.device("cpu"), loader=loader, state=state)


def sides(
    epoch: int, shape: tuple[int, int] = (128, 128), imgsz: int = 128, seed: int = 0
) -> list[tuple[int, int]]:
    """Of the first forty batches of an epoch with `--multi-scale`."""
    images = torch.zeros((1, 3, *shape), dtype=torch.uint8)
    config = TrainConfig(multi_scale=True, seed=seed)
    return [tuple(_to_model(images, at(epoch, batch, config, imgsz)).shape[2:]) for batch in range(40)]


def test_pixels_become_fractions_of_the_same_size() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1).expand(2, 3, 32, 64)
    pixels = _to_model(images, at(0, 0, TrainConfig()))
    assert (pixels.shape, pixels.dtype) == ((2, 3, 32, 64), torch.float32)
    assert pixels[1, :, 7, 9].tolist() == pytest.approx([0.0, 0.2, 1.0])


@pytest.mark.parametrize(("imgsz", "allowed"), [(64, {64, 96}), (128, {64, 96, 128, 160, 192})])
def test_multi_scale_draws_every_multiple_of_the_stride_within_half_the_size(
    imgsz: int, allowed: set[int]
) -> None:
    drawn = sides(0, (imgsz, imgsz), imgsz)
    assert {height for height, _ in drawn} == allowed
    assert all(height == width for height, width in drawn)


def test_multi_scale_keeps_the_shape_of_rectangles() -> None:
    for height, width in sides(0, (64, 128)):
        assert width in {64, 96, 128, 160, 192}
        assert height == -(-width // 64) * 32  # half of it, rounded up to a multiple of 32


def test_multi_scale_depends_on_seed_epoch_and_batch_alone() -> None:
    drawn = sides(0)
    torch.manual_seed(99)  # draws nothing from the global generators
    assert sides(0) == drawn
    assert sides(1) != drawn
    assert sides(0, seed=1) != drawn
