"""Which epoch counts as best, how long nothing as good has come, and what a file keeps of the box loss."""

from __future__ import annotations

import copy
import datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from models.yolo import DetectionModel
from training.ema import ModelEma
from training.state import BestEpoch, TrainingState
from utils.checkpoints.files import read_checkpoint
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


def test_before_the_first_validation_there_is_no_best_epoch() -> None:
    record = BestEpoch()
    assert (record.epoch, record.fitness) == (-1, -1)
    assert record.waiting(0) == 1
    record.update(0, -0.5)  # whatever it scores
    assert record.epoch == 0


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


def test_a_new_state_is_at_the_beginning() -> None:
    state = new_state(Hyperparameters())
    assert (state.epoch, state.batch, state.since_step, state.processes) == (0, 0, 0, 1)
    assert (state.results, state.maps, state.finished) == ([], [], False)
    assert (state.loss_sum.tolist(), state.iou_loss.value, state.best.epoch) == ([0, 0, 0], 1, -1)


MOVED = {
    "epoch": 3,
    "batch": 5,
    "since_step": 2,
    "processes": 4,
    "results": [[0.0, 1.5], [1.0, 0.25]],
    "maps": [0.5, 0.25],
    "finished": True,
}


def moved_state() -> TrainingState:
    """A run of which everything has moved, with gradients that wait for a step."""
    state = new_state(Hyperparameters(lr0=0.02))
    for group in state.optimizer.param_groups:
        group["momentum"] = 0.9
    state.model.model[0].conv.weight.grad = torch.full_like(state.model.model[0].conv.weight, 0.5)
    state.optimizer.step()
    state.ema.update(state.model)
    for name, value in MOVED.items():
        setattr(state, name, value)
    state.best.update(1, 0.4)
    state.best.update(2, 0.4)
    state.loss_sum = torch.tensor([1.0, 2.0, 3.0])
    return state


def test_all_that_moves_comes_back(tmp_path: Path) -> None:
    state, other = moved_state(), new_state(Hyperparameters())
    state.save(tmp_path / "last.pt")
    drawn = torch.rand(3)
    other.restore(torch.load(tmp_path / "last.pt", weights_only=True))
    assert torch.equal(torch.rand(3), drawn), "the generator goes on where it was"
    assert {name: getattr(other, name) for name in MOVED} == MOVED
    assert (other.best.fitness, other.best.epoch, other.best.latest) == (0.4, 1, 2)
    assert other.loss_sum.tolist() == [1, 2, 3]
    assert other.ema.updates == 1
    for mine, its in ((state.model, other.model), (state.ema.model, other.ema.model)):
        assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), its.state_dict().values()))
    assert not torch.equal(state.model.model[0].conv.weight, state.ema.model.model[0].conv.weight)
    momentum = [value["momentum_buffer"] for value in other.optimizer.state.values()]
    assert [tensor.unique().tolist() for tensor in momentum] == [[0.5]]
    assert other.optimizer.param_groups[0]["momentum"] == 0.9
    waiting = {name: p.grad for name, p in other.model.named_parameters() if p.grad is not None}
    assert {name: grad.unique().tolist() for name, grad in waiting.items()} == {"model.0.conv.weight": [0.5]}


def test_gradients_are_kept_only_while_they_wait(tmp_path: Path) -> None:
    state, other = moved_state(), moved_state()
    state.since_step = 0
    state.save(tmp_path / "last.pt")
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert content["resume"]["gradients"] == {}
    other.restore(content)
    assert all(parameter.grad is None for parameter in other.model.parameters())


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("ema_updates", 1.5, "'ema_updates' is 1.5"),
        ("epoch", 2.0, "'epoch' is 2.0"),
        ("finished", 1, "'finished' is 1"),
        ("maps", (0.5,), r"'maps' is \(0.5,\)"),
        ("best", {"fitness": 0.5, "height": 3}, "height"),
    ],
)
def test_a_damaged_state_is_refused(saved: dict[str, Any], key: str, value: object, complaint: str) -> None:
    with pytest.raises(UserError, match=f"training state of this checkpoint is damaged: .*{complaint}"):
        new_state(Hyperparameters()).restore(saved | {"resume": saved["resume"] | {key: value}})


@pytest.mark.parametrize(
    ("of_the_average", "value"),
    [(False, float("inf")), (True, float("inf")), (True, 1e5)],  # half precision ends at 65504
)
def test_a_weight_that_is_not_finite_is_noticed(of_the_average: bool, value: float) -> None:
    state = new_state(Hyperparameters())
    assert state.is_finite()
    model = state.ema.model if of_the_average else state.model
    with torch.no_grad():
        model.model[3].conv.weight[0, 0] = value
    assert not state.is_finite()


def test_weights_for_use_are_the_average_in_half_precision_and_say_what_they_are(tmp_path: Path) -> None:
    state = moved_state()
    state.train_args = {"imgsz": 64}
    before = copy.deepcopy(state.ema.model.state_dict())
    state.save_weights(tmp_path / "best.pt")
    content = torch.load(tmp_path / "best.pt", weights_only=True)
    assert content["ema"] is None and "resume" not in content
    for name, tensor in before.items():
        found = content["model"][name]
        assert found.dtype == (torch.float16 if tensor.dtype == torch.float32 else tensor.dtype)
        torch.testing.assert_close(found.to(tensor.dtype), tensor, rtol=1e-3, atol=1e-6)
        assert torch.equal(state.ema.model.state_dict()[name], tensor), "the average itself stays as it is"
    expected = {"epoch": 3, "best_fitness": 0.4, "train_args": {"imgsz": 64}, "nc": 2, "stride": [8, 16, 32]}
    assert {key: content[key] for key in expected} == expected
    assert content["hyp"]["lr0"] == 0.02
    assert content["anchors"][0] == [[10, 13], [16, 30], [33, 23]]  # pixels, those of the yaml
    assert content["anchors"][2][2] == [373, 326]
    written = datetime.datetime.fromisoformat(content["date"])
    assert abs(datetime.datetime.now() - written) < datetime.timedelta(minutes=5)
    assert written.microsecond == 0
    assert read_checkpoint(tmp_path / "best.pt")["names"] == {0: "class0", 1: "class1"}
