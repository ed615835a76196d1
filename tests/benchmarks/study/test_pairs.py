"""Paired differences, their interval and the verdict, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.study.candidates import Candidate, Rung, Stage, Task
from benchmarks.study.pairs import Result, Row, read_results, rows_of
from utils.errors import UserError

FACTS: dict[str, Any] = {
    "parameters": 1_000_000, "gflops": 1.0, "gflops_640": 4.0, "transferred": None, "torch": "2.14.0",
    "device": "cpu", "threads": 1,
}  # fmt: skip
BASE, OTHER = Candidate("n"), Candidate("n", "SIoU")


def result(map50_95: float) -> Result:
    return Result([[0.5, 0.5, map50_95 + 0.3, map50_95], [0, 0, 0, 0]], [1.0], FACTS)


def row(*differences: float, chose: int = 1) -> Row:
    return Row(OTHER, [result(0.4 + d) for d in differences], list(differences), chose)


def test_the_interval_is_students() -> None:
    # mean 0.02, sd 0.01, t(0.975, 2 degrees of freedom) = 4.3027: 4.3027 * 0.01 / sqrt(3) = 0.024842
    found = row(0.01, 0.02, 0.03)
    assert found.difference == pytest.approx(0.02) and found.margin == pytest.approx(0.024842, abs=1e-6)
    assert found.verdict == "not told apart"
    assert found.fresh == pytest.approx(0.025)  # without the seed that chose


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ((0.018, 0.02, 0.022), "better"),  # 4.3027 * 0.002 / sqrt(3) = 0.005
        ((-0.018, -0.02, -0.022), "worse"),
        ((0.0, 0.0, 0.0), "not told apart"),
        ((0.2,), "not told apart"),  # one pair has no spread
    ],
)
def test_verdicts(differences: tuple[float, ...], verdict: str) -> None:
    assert row(*differences).verdict == verdict


def test_one_pair_has_no_interval_and_no_fresh_seed() -> None:
    assert math.isnan(row(0.1).margin) and math.isnan(row(0.1).fresh)


def test_only_pairs_of_equal_seeds_count() -> None:
    stage = Stage(Rung(4, 3), [BASE, OTHER], [], [], {})
    results = {
        Task(BASE, 0, 4).name: result(0.40),
        Task(BASE, 1, 4).name: result(0.50),
        Task(OTHER, 0, 4).name: result(0.45),
        Task(OTHER, 2, 4).name: result(0.90),  # the baseline has no seed 2 yet
        Task(OTHER, 1, 4).name: result(0.51),
        Task(OTHER, 1, 2).name: result(0.99),  # of an earlier rung
    }
    first, second = rows_of(stage, [BASE, OTHER], BASE, [0, 1, 2], results, chose=1)
    assert (first.candidate, second.candidate) == (OTHER, BASE)
    assert first.map50_95 == [0.45, 0.51] and first.differences == pytest.approx([0.05, 0.01])
    assert first.map50 == pytest.approx([0.75, 0.81]) and second.differences == [0, 0]


GOOD = {"scores": [[0, 0, 0.5, 0.25]], "seconds": [1.5], "facts": FACTS}


def test_results_of_a_study() -> None:
    found = read_results({"n-seed0@2": GOOD, "milliseconds": {"n": 1}}, "study zoo")
    assert list(found) == ["n-seed0@2"] and found["n-seed0@2"].map50_95 == 0.25
    assert math.isnan(found["n-seed0@2"].facts["transferred"])


@pytest.mark.parametrize(
    "damage",
    [
        None, [], {}, {**GOOD, "scores": []}, {**GOOD, "scores": [[0, 0, 0]]}, {**GOOD, "scores": "many"},
        {**GOOD, "scores": [[0, 0, 0, float("nan")]]}, {**GOOD, "facts": {}}, {**GOOD, "seconds": [{}]},
        {**GOOD, "facts": {**FACTS, "parameters": "<script>"}}, {**GOOD, "facts": {**FACTS, "gflops": 1e400}},
    ],
)  # fmt: skip
def test_what_others_wrote_is_checked(damage: Any) -> None:
    with pytest.raises(
        UserError, match=r"study zoo: what it says of n-seed0@2 is damaged; begin another --name"
    ):
        read_results({"n-seed0@2": damage}, "study zoo")
