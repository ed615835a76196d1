"""Which epoch counts as best, how long nothing as good has come, and what a file keeps of the box loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.yolo import DetectionModel
from training.ema import ModelEma
from training.state import BestEpoch, TrainingState
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters


@pytest.mark.parametrize(
    ("scores", "best", "fitness", "waiting"),
    [
        ([0.0], 0, 0.0, 0),  # even a score of zero is better than none
        ([0.0, 0.0, 0.0], 0, 0.0, 0),  # a slow start is not waiting
        ([0.5, 0.4, 0.3], 0, 0.5, 2),
        ([0.5, 0.4, 0.5], 0, 0.5, 0),  # an equal epoch restarts the waiting and stays second
        ([0.5, 0.5, 0.4], 0, 0.5, 1),
        ([0.1, 0.2, 0.1, 0.3, 0.2], 3, 0.3, 1),
    ],
)
def test_best_epoch(scores: list[float], best: int, fitness: float, waiting: int) -> None:
    record = BestEpoch()
    for epoch, score in enumerate(scores):
        record.update(epoch, score)
    assert (record.epoch, record.fitness) == (best, fitness)
    assert record.waiting(len(scores) - 1) == waiting


def test_epochs_without_validation_count_as_waiting() -> None:
    record = BestEpoch()
    record.update(2, 0.5)
    assert [record.waiting(epoch) for epoch in (2, 3, 7)] == [0, 1, 5]


def new_state(hyp: Hyperparameters) -> TrainingState:
    model = DetectionModel("yolov5n.yaml", nc=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return TrainingState(model, ModelEma(model), optimizer, scaler, hyp, train_args={})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of a file of a run with WIoU whose running mean has moved."""
    state = new_state(Hyperparameters(iou="WIoU"))
    state.iou_loss.value = 1 / 3
    path = tmp_path_factory.mktemp("state") / "last.pt"
    state.save(path)
    return torch.load(path, weights_only=True)


def test_the_running_mean_is_saved_and_restored_exactly(saved: dict[str, Any]) -> None:
    assert saved["hyp"]["iou"] == "WIoU"
    state = new_state(Hyperparameters(iou="WIoU"))
    shared = state.iou_loss
    state.restore(saved)
    assert shared.value == 1 / 3  # in place: the loss may hold it already


def test_a_file_without_a_running_mean_starts_a_new_one(saved: dict[str, Any]) -> None:
    state = new_state(Hyperparameters())
    state.restore(saved | {"resume": {k: v for k, v in saved["resume"].items() if k != "iou_loss"}})
    assert state.iou_loss.value == 1


@pytest.mark.parametrize("value", [float("nan"), 0.0, -0.5, float("inf"), 1, None, "1.0"])
def test_a_damaged_running_mean_is_refused(saved: dict[str, Any], value: object) -> None:
    with pytest.raises(UserError, match="training state of this checkpoint is damaged: 'iou_loss' is"):
        new_state(Hyperparameters()).restore(saved | {"resume": saved["resume"] | {"iou_loss": value}})
