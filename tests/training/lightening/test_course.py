"""The plan of a course, and how fast it goes."""

from __future__ import annotations

import itertools
from typing import Any, cast

import pytest
import torch
from torch import nn

from training.lightening import course
from training.lightening.course import STAGES, WHOLE, Course, pace, plan, steps_in


@pytest.mark.parametrize("steps", [2, 3, 10, 100, 601])
@pytest.mark.parametrize("stages", [True, False])
def test_parts_cover_all_steps_once(steps: int, stages: bool) -> None:
    parts = plan(steps, stages=stages)
    for phase in {part.phase for part in parts}:
        own = [part for part in parts if part.phase == phase]
        assert own[0].steps[0] == 0 and own[-1].steps[1] == own[0].length
        assert all(a.steps[1] == b.steps[0] for a, b in itertools.pairwise(own))
        assert all(part.steps[0] < part.steps[1] for part in own)
    assert sum(b - a for a, b in (part.steps for part in parts)) == steps
    assert ({part.phase for part in parts} == {STAGES, WHOLE}) is stages


def test_a_third_fits_stages() -> None:
    assert [part.length for part in plan(600, stages=True)] == [200] * 3 + [400] * 7


def test_pace_rises_and_falls() -> None:
    values = [pace(step, 200) for step in range(200)]
    assert values[0] == pytest.approx(1 / 20, rel=1e-3)
    assert max(values) == values[19] > 0.97
    assert values[19:] == sorted(values[19:], reverse=True) and values[-1] == pytest.approx(0.02, abs=1e-3)


class TimedCourse:
    """A course whose steps take a known time on a clock of its own: the first of a phase longer."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.now, self.seen = seconds, 0.0, set[str]()
        self.weight = nn.Parameter(torch.ones(()))

    def batches(self) -> itertools.repeat[None]:
        return itertools.repeat(None)

    def loss(self, batch: None, phase: str) -> tuple[Any, Any]:
        self.now += self.seconds[phase] + (0 if phase in self.seen else 50)
        self.seen.add(phase)
        return self.weight * 2, None


class TimedPair:
    def __init__(self, student: nn.Module, cuts: dict[int, int]) -> None:
        self.student, self.cuts = student, cuts

    def train(self, batch_statistics: bool) -> None:
        assert not batch_statistics  # the statistics stay as they are


@pytest.mark.parametrize(
    ("cuts", "expected"),
    [
        ({13: 13}, 324),  # a third of the steps take 1 s, the others 2 s: 10 minutes less a tenth hold 324
        ({}, 270),
    ],
)
def test_minutes_become_steps(cuts: dict[int, int], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = TimedCourse({STAGES: 1.0, WHOLE: 2.0})
    student = nn.Module()
    student.weight = timed.weight
    monkeypatch.setattr(course.time, "perf_counter", lambda: timed.now)
    assert steps_in(10, cast(Any, TimedPair(student, cuts)), cast(Course, timed)) == expected
    assert timed.weight.grad is None and float(timed.weight.detach()) == 1
    assert steps_in(0.001, cast(Any, TimedPair(student, cuts)), cast(Course, timed)) == 2
