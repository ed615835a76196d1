"""The training loop on made-up batches: what the network sees of them, and how the weights move."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from tqdm import tqdm

from training.config import TrainConfig
from training.ema import ModelEma
from training.engine import NonFiniteLoss, Training, _to_model, train_one_epoch
from training.optim import Schedule
from training.state import TrainingState
from utils.data.batch import Batch
from utils.distributed import Process
from utils.hyperparameters import Hyperparameters
from utils.interrupt import StopRequest


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


@pytest.mark.parametrize(
    ("imgsz", "allowed"),
    [
        (64, {64, 96}),
        (128, {64, 96, 128, 160, 192}),
        (160, {96, 128, 160, 192, 224}),  # 80 is no multiple, nor is 240
        (256, set(range(128, 385, 32))),
    ],
)
def test_multi_scale_draws_every_multiple_of_the_stride_within_half_the_size(
    imgsz: int, allowed: set[int]
) -> None:
    drawn = sides(0, (imgsz, imgsz), imgsz)
    assert {height for height, _ in drawn} == allowed
    assert all(height == width for height, width in drawn)


def test_pictures_are_resized_about_the_middles_of_their_pixels() -> None:
    columns = torch.tensor([0, 204] * 64, dtype=torch.uint8).expand(1, 3, 128, 128)
    config = TrainConfig(multi_scale=True)
    halves = [
        p for p in (_to_model(columns, at(0, batch, config)) for batch in range(40)) if p.shape[3] == 64
    ]
    assert halves
    torch.testing.assert_close(halves[0], torch.full((1, 3, 64, 64), 0.4))  # the mean of 0 and 0.8


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


class Weights(nn.Module):
    """A network of one layer, two weights that begin at 0; its gradient is what the images say."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Module()
        layer.weight = nn.Parameter(torch.zeros(2))
        self.model = nn.ModuleList([layer])

    @property
    def weight(self) -> torch.Tensor:
        return self.model[0].weight

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (self.weight * images.flatten()[:2]).sum()


class Batches(list[Batch]):
    """What the loop asks of a loader."""

    dataset = SimpleNamespace(size=32)


def batch_of(*gradient: int) -> Batch:
    """A batch that makes the gradient of `Weights`."""
    pixels = torch.zeros(1, 3, 1, 2, dtype=torch.uint8)
    pixels[0, 0, 0] = torch.tensor(gradient)
    return Batch(pixels, torch.zeros(0, 6), [], [])


def training_on(batches: list[Batch], *, world_size: int = 1, a_step: int = 1, **flags: Any) -> Training:
    """A run of SGD without momentum or warm-up, with a learning rate of 1 and `a_step` batches a step."""
    hyp = Hyperparameters(lr0=1, lrf=1, warmup_epochs=0, momentum=0, nominal_batch=a_step)
    model: Any = Weights()
    schedule = Schedule(hyp, epochs=10, batches=len(batches), batch_size=1)
    state = TrainingState(
        model=model,
        ema=ModelEma(model, decay=0.5, tau=1e-9),
        optimizer=torch.optim.SGD(model.parameters(), lr=99),  # until the schedule says otherwise
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        hyp=hyp,
        train_args={},
    )

    def criterion(predictions: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = predictions * 255  # pixels became fractions
        return loss, torch.tensor([1.0, 2.0, 3.0])

    cpu, config = torch.device("cpu"), TrainConfig(amp="off", **flags)
    parts: Any = (Batches(batches), None, schedule, criterion, None)
    return Training(config, Process(0, world_size), cpu, *parts, state)


def test_a_step_is_no_longer_than_a_gradient_of_ten() -> None:
    training = training_on([batch_of(3, 4), batch_of(30, 40)])
    moved: list[list[float]] = []
    weights = training.state.model
    assert train_one_epoch(training, weights, StopRequest(), lambda *_: moved.append(weights.weight.tolist()))
    moved.append(weights.weight.tolist())
    # a gradient of length 5 as it is; one of length 50 as (6, 8), of length 10
    assert moved == [[0, 0], pytest.approx([-3, -4]), pytest.approx([-9, -12], rel=1e-5)]
    assert weights.weight.grad is None, "no gradient is left for the next step"


def test_the_average_follows_every_step_and_counts_it() -> None:
    training = training_on([batch_of(4, 0)] * 3)
    train_one_epoch(training, training.state.model, StopRequest())
    # weights -4, -8, -12; the average goes half of the way each time: -2, -5, -8.5
    assert training.state.ema.model.weight.tolist() == pytest.approx([-8.5, 0])
    assert training.state.ema.updates == 3


@pytest.mark.parametrize(("flags", "world_size", "scale"), [({"quad": True}, 1, 4), ({}, 2, 2)])
def test_the_loss_of_quads_and_of_several_processes_is_scaled(
    flags: dict[str, bool], world_size: int, scale: int
) -> None:
    """Four images are glued to one; and gradients become means over the processes, where sums are wanted."""
    training = training_on([batch_of(1, 0)], world_size=world_size, **flags)
    train_one_epoch(training, training.state.model, StopRequest())
    assert training.state.model.weight.tolist() == [-scale, 0]


def test_gradients_gather_over_the_batches_of_a_step() -> None:
    training = training_on([batch_of(1, 0), batch_of(0, 2), batch_of(3, 0)], a_step=2)
    train_one_epoch(training, training.state.model, StopRequest())
    state = training.state
    assert state.model.weight.tolist() == [-1, -2]  # a step after two batches; the third waits for another
    assert (state.since_step, state.ema.updates, state.batch) == (1, 1, 3)
    assert state.model.weight.grad.tolist() == [3, 0]
    assert state.loss_sum.tolist() == [3, 6, 9]


def test_the_bar_shows_the_mean_losses_of_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Bar(tqdm):
        def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            shown.append(s)

    monkeypatch.setattr("utils.console.tqdm", Bar)
    training = training_on([batch_of(1, 0)] * 3)
    training.state.batch, training.state.loss_sum = 1, torch.tensor([3.0, 2.0, 1.0])  # of one before
    train_one_epoch(training, training.state.model, StopRequest())
    # each batch costs 1, 2 and 3: (3 + 1) / 2, (2 + 2) / 2, (1 + 3) / 2, …
    assert shown[0] == "box 2.0000 obj 2.0000 cls 2.0000"
    assert shown[2] == "box 1.5000 obj 2.0000 cls 2.5000"


def test_frozen_layers_do_not_gather_statistics() -> None:
    training = training_on([batch_of(1, 0)])
    layers = training.state.model.model
    layers.extend([nn.BatchNorm2d(1).requires_grad_(False), nn.ReLU(), nn.BatchNorm2d(1)])
    training.state.model.eval()
    train_one_epoch(training, training.state.model, StopRequest())
    assert [layer.training for layer in layers] == [True, False, True, True]


def test_a_stop_is_heeded_after_the_batch_that_is_under_way() -> None:
    training = training_on([batch_of(1, 0)] * 5)
    stop = StopRequest()

    def on_batch(step: int, batch: Batch) -> None:
        stop.requested = 15 if step == 1 else 0

    assert not train_one_epoch(training, training.state.model, stop, on_batch)
    assert training.state.batch == 2
    assert training.state.model.weight.tolist() == [-2, 0]


def test_no_step_is_taken_from_a_loss_that_is_not_finite() -> None:
    training = training_on([batch_of(1, 0), batch_of(2, 0)])
    with torch.no_grad():
        training.state.model.weight[0] = -math.inf
    training.state.epoch, training.state.batch = 3, 1
    with pytest.raises(NonFiniteLoss, match=r"the loss became -inf in epoch 3, batch 1"):
        train_one_epoch(training, training.state.model, StopRequest())
    assert training.state.model.weight.tolist() == [-math.inf, 0]


def test_steps_are_counted_over_all_epochs() -> None:
    training = training_on([batch_of(0, 0)] * 4)
    training.state.epoch, seen = 2, []
    train_one_epoch(training, training.state.model, StopRequest(), lambda step, _: seen.append(step))
    assert seen == [8, 9, 10, 11]
