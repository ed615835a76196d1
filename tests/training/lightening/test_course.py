"""The plan of a course, and how fast it goes."""

from __future__ import annotations

import itertools

import pytest

from training.lightening.course import STAGES, WHOLE, pace, plan


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
