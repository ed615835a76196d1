"""Which epoch counts as best, and how long nothing as good has come."""

from __future__ import annotations

import pytest

from utils.state import BestEpoch


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
