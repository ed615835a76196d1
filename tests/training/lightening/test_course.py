"""The plan of a course, and how fast it goes."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import nn

from models.transfer import inherit
from models.yolo import DetectionModel
from training.lightening import course
from training.lightening.course import STAGES, WHOLE, Course, build_optimizer, pace, plan, steps_in
from training.lightening.pair import Pair
from utils.data.batch import Batch


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
        self.weight, self.adapter = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        course = self

        class TimedSGD(torch.optim.SGD):
            def step(self, closure: Any = None) -> None:
                course.now += course.seconds["step"]
                super().step(closure)

        optimizer = TimedSGD([self.weight, self.adapter], momentum=0.9, weight_decay=0.1)
        self.state = SimpleNamespace(optimizer=optimizer)

    def batches(self) -> itertools.repeat[None]:
        return itertools.repeat(None)

    def loss(self, batch: None, phase: str) -> tuple[Any, Any]:
        self.now += self.seconds[phase] + (0 if phase in self.seen else 50)
        self.seen.add(phase)
        return self.weight * 2 + self.adapter, None


class TimedPair:
    def __init__(self, cuts: dict[int, int]) -> None:
        self.cuts = cuts

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
    timed = TimedCourse({STAGES: 0.75, WHOLE: 1.75, "step": 0.25})
    monkeypatch.setattr(course.time, "perf_counter", lambda: timed.now)
    assert steps_in(10, cast(Any, TimedPair(cuts)), cast(Course, timed), stages=bool(cuts)) == expected
    assert timed.weight.grad is timed.adapter.grad is None and float(timed.weight.detach()) == 1
    assert not timed.state.optimizer.state  # the course begins as if nothing had been
    assert steps_in(0.001, cast(Any, TimedPair(cuts)), cast(Course, timed), stages=bool(cuts)) == 2


@pytest.fixture
def learning() -> Course:
    """A student of a random teacher, about to take its first step."""
    torch.manual_seed(0)
    teacher = DetectionModel("yolov5n.yaml", nc=2).eval()
    student = DetectionModel("yolov5n-gsconv.yaml", nc=2)
    pair = Pair(student, teacher, inherit(student, teacher, exclude=()))
    return Course(pair, cast(Any, None), cast(Any, None), [], torch.device("cpu"), None)


def test_what_is_learnt_in_each_phase(learning: Course) -> None:
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    batch = Batch(images, torch.zeros(0, 6), [], [])
    learning.pair.train(batch_statistics=False)
    cuts = len(learning.pair.cuts)
    loss, (stages, outputs, total) = learning.loss(batch, STAGES)
    assert outputs.item() == 0 and loss.item() == total.item() == pytest.approx(cuts * float(stages))
    loss, (stages, outputs, total) = learning.loss(batch, WHOLE)
    assert float(outputs) > 0
    assert loss.item() == total.item() == pytest.approx(5 * cuts * float(stages) + 0.1 * float(outputs))


def test_old_layers_learn_at_a_fifth_of_the_pace_of_new_ones(learning: Course) -> None:
    student, pair = learning.pair.student, learning.pair
    paces = {id(p): group["pace"] for group in build_optimizer(pair).param_groups for p in group["params"]}
    for index, layer in enumerate(student.model):
        expected = None if index < pair.shared else 1.0 if index in pair.new else 0.2
        assert {paces.get(id(p)) for p in layer.parameters() if p.requires_grad} <= {expected}, index
    assert {*paces.values()} == {1.0, 0.2}


def test_a_short_run_of_a_fitted_student_is_gentle() -> None:
    parts = [plan(steps, stages=False)[0] for steps in (150, 600, 5000)]
    own = [course.Course.rate(cast(Course, SimpleNamespace(fitted=True)), part) for part in parts]
    others = [course.Course.rate(cast(Course, SimpleNamespace(fitted=False)), part) for part in parts]
    assert others == [course.RATES[WHOLE]] * 3
    assert own == [others[0] / 4, *others[1:]]


def test_batchnorm_rests_near_the_end_and_always_after_a_fit() -> None:
    part = plan(100, stages=False)[0]
    fitted, other = (cast(Course, SimpleNamespace(fitted=fitted)) for fitted in (True, False))
    assert [course.Course.batch_statistics(other, part, step) for step in (0, 79, 80, 99)] == [1, 1, 0, 0]
    assert not any(course.Course.batch_statistics(fitted, part, step) for step in range(100))


def sharing(*, rank: int = 0, world_size: int = 1, step: int = 3, seed: int = 5) -> Course:
    loader = SimpleNamespace(seed=seed, rank=rank, world_size=world_size)
    state = SimpleNamespace(epoch=1, batch=step)
    return Course(cast(Any, None), cast(Any, loader), cast(Any, state), [], torch.device("cpu"), None)


def test_shares_hang_on_seed_and_step_alone() -> None:
    """So that a run that was killed, and one in two processes, learns from the same."""
    shares = sharing().shares(8)
    first, second = shares(16), shares(32)  # of two layers
    assert first.shape == (8, 16, 1, 1) and second.shape == (8, 32, 1, 1)
    again = sharing().shares(8)
    assert torch.equal(again(16), first) and torch.equal(again(32), second)
    halves = [sharing(rank=rank, world_size=2).shares(4)(16) for rank in (0, 1)]
    assert torch.equal(halves[0], first[::2]) and torch.equal(halves[1], first[1::2])
    for other in (sharing(step=4), sharing(seed=6)):
        assert not torch.equal(other.shares(8)(16), first)


def test_about_half_of_the_pictures_stay_as_they_are() -> None:
    factors = sharing().shares(400)(50).flatten(1)
    still = (factors == 1).all(dim=1)
    assert float(still.float().mean()) == pytest.approx(1 - course.SHAKEN_PICTURES, abs=0.1)
    spread = factors[~still].log()
    assert float(spread.std()) == pytest.approx(course.SHAKEN, rel=0.05)
    assert float(spread.mean()) == pytest.approx(0, abs=0.02)
