"""Parameter groups, schedule and weight average."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from models.yolo import DetectionModel
from training.ema import ModelEma
from training.optim import Schedule, build_optimizer, parameter_groups
from utils.hyperparameters import Hyperparameters


@pytest.fixture(scope="module")
def schedules(golden: Path) -> dict:
    return json.loads((golden / "schedule.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", ["linear", "cosine"])
def test_learning_rate_factors(schedules: dict, form: str) -> None:
    hyp = Hyperparameters(lr0=schedules["lr0"], lrf=schedules["lrf"])
    schedule = Schedule(hyp, schedules["epochs"], batches=10, batch_size=16, cosine=form == "cosine")
    factors = [schedule.lr_factor(epoch) for epoch in range(schedules["epochs"])]
    assert factors == pytest.approx(schedules[form], rel=1e-9)


def test_ema_decay(schedules: dict) -> None:
    ema = ModelEma(nn.Linear(1, 1))
    for updates, decay in schedules["ema_decay"].items():
        assert ema.decay_at(int(updates)) == pytest.approx(decay, rel=1e-9)


def test_ema_moves_towards_the_model_and_copies_counters() -> None:
    model = nn.BatchNorm2d(1)
    ema = ModelEma(model, decay=0.5, tau=1e-9)  # decay is 0.5 from the first update on
    with torch.no_grad():
        model.weight.fill_(3.0)
        model.num_batches_tracked += 7
    ema.update(model)
    assert ema.model.weight.item() == 2.0  # 0.5 * 1 + 0.5 * 3
    assert ema.model.num_batches_tracked.item() == 7


def test_ema_takes_the_decay_of_the_update_under_way() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    ema = ModelEma(model, decay=0.8, tau=2.0)
    with torch.no_grad():
        model.weight.fill_(1.0)
    left = 1.0  # of the way from the average to the model
    for update in (1, 2, 3):
        ema.update(model)
        left *= 0.8 * (1 - math.exp(-update / 2))
        assert ema.updates == update
        assert ema.model.weight.item() == pytest.approx(1 - left)
    assert not ema.model.training and not ema.model.weight.requires_grad
    assert model.training and model.weight.requires_grad, "the model itself goes on"


def test_parameter_groups(golden: Path) -> None:
    expected = json.loads((golden / "optimizer_groups.json").read_text(encoding="utf-8"))["groups"]
    groups = parameter_groups(DetectionModel("yolov5n.yaml"), weight_decay=0.0005)
    for group, wanted in zip(groups, expected, strict=True):
        assert len(group["params"]) == wanted["n"]
        assert sum(p.numel() for p in group["params"]) == wanted["numel"]
        assert group["weight_decay"] == wanted["weight_decay"]


def test_attention_biases_and_norms_do_not_decay() -> None:
    model = nn.ModuleList([nn.MultiheadAttention(4, 2), nn.LayerNorm(4), nn.Linear(4, 4, bias=False)])
    biases, weights, norms = (group["params"] for group in parameter_groups(model, 1.0))
    assert len(biases) == 3  # in_proj, out_proj, layer norm
    assert len(weights) == 3  # in_proj, out_proj, linear
    assert len(norms) == 1


def test_warm_up_ends_where_the_schedule_goes_on() -> None:
    hyp = Hyperparameters(lr0=0.01, warmup_epochs=3, warmup_bias_lr=0.1, warmup_momentum=0.8, momentum=0.937)
    schedule = Schedule(hyp, epochs=10, batches=50, batch_size=16)
    optimizer = build_optimizer(DetectionModel("yolov5n.yaml"), "SGD", hyp, schedule.weight_decay)
    assert schedule.warmup_batches == 150
    schedule.apply(optimizer, step=0, epoch=0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.0, 0.0]
    assert optimizer.param_groups[0]["momentum"] == 0.8
    schedule.apply(optimizer, step=75, epoch=1)  # half way; the target in epoch 1 is 0.01 * 0.901
    assert optimizer.param_groups[0]["lr"] == pytest.approx((0.1 + 0.00901) / 2)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.00901 / 2)
    schedule.apply(optimizer, step=150, epoch=3)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01 * 0.703] * 3)
    assert optimizer.param_groups[0]["momentum"] == 0.937


def test_warm_up_takes_a_hundred_batches_also_where_epochs_are_short() -> None:
    hyp = Hyperparameters(lr0=0.01, lrf=1, warmup_epochs=3, warmup_bias_lr=0.1)
    schedule = Schedule(hyp, epochs=30, batches=10, batch_size=16)  # three epochs are 30 batches
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    rates = []
    for step in (0, 30, 50, 99, 100):
        schedule.apply(optimizer, step, epoch=step // 10)
        rates.append(optimizer.param_groups[0]["lr"])
    # from 0.1 to 0.01 in a straight line: 0.1 - 0.09 * step / 100
    assert rates == pytest.approx([0.1, 0.073, 0.055, 0.0109, 0.01])
    # four batches a step in the end: 1 + 3 * step / 100, rounded
    assert [schedule.accumulation(step) for step in (0, 16, 17, 50, 83, 84, 100)] == [1, 1, 2, 2, 3, 4, 4]


def test_warm_up_can_be_switched_off() -> None:
    schedule = Schedule(Hyperparameters(warmup_epochs=0), epochs=3, batches=1000, batch_size=16)
    assert schedule.warmup_batches == 0 and not schedule.is_all_warmup
    assert schedule.accumulation(0) == 4
    assert schedule.lr_factor(0.75) == pytest.approx(1 - 0.99 / 4)  # linear, unless asked for otherwise
    half = Schedule(Hyperparameters(warmup_epochs=0.5), epochs=3, batches=1000, batch_size=16)
    assert half.warmup_batches == 500


@pytest.mark.parametrize(("batch", "accumulation"), [(16, 4), (64, 1), (48, 1), (128, 1), (1, 64), (24, 3)])
def test_accumulation_and_decay_follow_the_nominal_batch(batch: int, accumulation: int) -> None:
    schedule = Schedule(Hyperparameters(weight_decay=0.0005), epochs=3, batches=1000, batch_size=batch)
    assert schedule.full_accumulation == accumulation
    assert schedule.accumulation(0) == 1
    assert schedule.accumulation(10**6) == accumulation
    assert schedule.weight_decay == pytest.approx(0.0005 * batch * accumulation / 64)


@pytest.mark.parametrize(("name", "kind"), [("Adam", torch.optim.Adam), ("AdamW", torch.optim.AdamW)])
def test_adam_takes_momentum_as_beta1(name: str, kind: type) -> None:
    hyp = Hyperparameters(momentum=0.8, lr0=0.03)
    optimizer = build_optimizer(nn.Conv2d(1, 1, 1), name, hyp, 0.1)  # type: ignore[arg-type]
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.999)
    assert {group["lr"] for group in optimizer.param_groups} == {0.03}


def test_sgd_looks_ahead() -> None:
    layer = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    layer.weight.grad = torch.ones(1, 1)
    optimizer = build_optimizer(layer, "SGD", Hyperparameters(momentum=0.5, lr0=0.1), weight_decay=0.0)
    optimizer.step()
    # Nesterov: gradient 1 and half of the velocity, which is 1
    assert layer.weight.item() == pytest.approx(1 - 0.1 * 1.5)


def test_weights_decay_and_biases_do_not() -> None:
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(1.0)
    layer.weight.grad, layer.bias.grad = torch.zeros(1, 1), torch.zeros(1)
    build_optimizer(layer, "SGD", Hyperparameters(momentum=0.0001, lr0=0.1), weight_decay=0.5).step()
    assert layer.weight.item() == pytest.approx(0.95, abs=1e-4)
    assert layer.bias.item() == 1


@pytest.mark.parametrize(("epochs", "all_of_it"), [(33, True), (34, False)])
def test_a_run_may_end_before_its_warmup(epochs: int, all_of_it: bool) -> None:
    schedule = Schedule(Hyperparameters(), epochs, batches=3, batch_size=16)
    assert schedule.is_all_warmup == all_of_it  # 99 batches of 100, and 102
