"""What a study compares, and who goes on after a rung."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.study.candidates import (
    Candidate,
    Rung,
    Task,
    candidates_of,
    keep_fault,
    rung_fault,
    rungs_of,
    stages,
)
from utils.errors import UserError

LOSSES = ("SIoU", "Inner-SIoU(ratio=0.75)")


def test_every_combination_or_one_thing_at_a_time() -> None:
    puts = ("SE after C3", "SE in 8 + ECA in 6")
    every = candidates_of(["yolov5n", "models/yolov5n-gsconv.yaml"], LOSSES, puts, "CIoU", singly=False)
    assert len(every) == 2 * 3 * 3 and every[0] == Candidate("yolov5n")
    single = candidates_of(["yolov5n", "models/yolov5n-gsconv.yaml"], LOSSES, puts, "CIoU", singly=True)
    assert [str(one) for one in single] == [
        "yolov5n", "yolov5n, SIoU", "yolov5n, Inner-SIoU(ratio=0.75)", "yolov5n, SE after C3",
        "yolov5n, SE in 8, ECA in 6", "yolov5n-gsconv",
    ]  # fmt: skip
    assert single[2].slug == "yolov5n_Inner-SIoU_ratio=0.75"
    assert single[4].slug == "yolov5n_SE_in_8_ECA_in_6" and single[4].insert == ("SE in 8", "ECA in 6")


@pytest.mark.parametrize("usual", ["CIoU", "Inner-CIoU(ratio=0.8)"])
def test_the_loss_of_the_hyperparameters_is_there_once(usual: str) -> None:
    found = candidates_of(["yolov5n"], [usual.replace(" ", ""), "SIoU", "SIoU"], (), usual, singly=False)
    assert [one.iou for one in found] == ["", "SIoU"]


def test_candidates_that_would_share_a_folder_are_refused() -> None:
    with pytest.raises(UserError, match=r"share the folders net; rename one"):
        candidates_of(["a/net.yaml", "b/net.yaml"], (), (), "CIoU", singly=False)
    with pytest.raises(UserError, match="too long for a folder's name; save its network as a yaml"):
        candidates_of(
            ["yolov5n"], (), [" + ".join(["CoordAtt(32) after C3 in neck"] * 4)], "CIoU", singly=False
        )


def test_rungs_grow() -> None:
    assert rungs_of(("2", "4x2"), 10, 3) == [Rung(2, 1), Rung(4, 2), Rung(10, 3)]
    assert rungs_of((), 10, 3) == [Rung(10, 3)]


@pytest.mark.parametrize(
    ("rungs", "complaint"),
    [
        (("10",), "must grow, to fewer than --epochs 10"),
        (("4", "4"), "the epochs must grow"),
        (("0",), "the epochs must grow"),
        (("4x4",), "must not become fewer; --seeds has 3"),
        (("4x0",), "must not become fewer"),
        (("2x2", "4x1"), "must not become fewer"),
    ],
)
def test_rungs_that_do_not(rungs: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        rungs_of(rungs, 10, 3)


@pytest.mark.parametrize(
    ("check", "good", "bad"),
    [
        (rung_fault, ("4", "4x2"), ("", "x2", "4x", "four", "-1", "4x2x2", "1.5")),
        (
            keep_fault,
            ("1/3", "0.5", "1", "10"),
            ("0", "-1", "3/2", "1.5", "1.0", "1/0", "all", "", "1e400000000"),
        ),
    ],
)
def test_rungs_and_shares_are_checked_where_they_enter(check: Any, good: Any, bad: Any) -> None:
    assert [check(text) for text in good] == [""] * len(good)
    assert all(check(text).startswith("must be") for text in bad)


A, B, C, D = (Candidate("n", iou) for iou in ("", "SIoU", "EIoU", "GIoU"))
RUNGS = [Rung(2, 1), Rung(4, 2)]


def found(scores: dict[Candidate, float], seed: int = 0, epochs: int = 2) -> dict[str, Any]:
    """Results of that mAP50-95 at the first epoch; a worse last epoch does not count."""
    return {
        Task(one, seed, epochs).name: {"scores": [[0, 0, score, score], [0, 0, 0, 0]]}
        for one, score in scores.items()
    }


def test_a_rung_waits_for_all_and_the_best_go_on_with_the_baseline() -> None:
    part = found({A: 0.1, B: 0.3, C: 0.2})
    (first,) = stages([A, B, C, D], RUNGS, [5, 6], ["1/3"], {}, {})
    assert [task.name for task in first.tasks] == [
        "n-seed5@2",
        "n_SIoU-seed5@2",
        "n_EIoU-seed5@2",
        "n_GIoU-seed5@2",
    ]
    assert len(stages([A, B, C, D], RUNGS, [0, 1], ["1/3"], part, {})) == 1  # D is missing
    first, second = stages([A, B, C, D], RUNGS, [0, 1], ["1/3"], part | found({D: 0.25}), {})
    # one third of three others: B, the best of them; the baseline goes on although it is the worst
    assert (first.out, second.field) == ([D, C], [A, B])
    assert [(task.candidate, task.seed, task.epochs) for task in second.tasks] == [
        (A, 0, 4), (B, 0, 4), (A, 1, 4), (B, 1, 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keep", "going"),
    [
        ("1/3", [A, B]), ("2/3", [A, B, D]), ("0.34", [A, B, D]), ("1", [A, B]), ("2", [A, B, D]),
        ("9", [A, B, C, D]),
    ],
)  # fmt: skip
def test_how_many_go_on(keep: str, going: list[Candidate]) -> None:
    results = found({A: 0.1, B: 0.3, C: 0.2, D: 0.25})
    assert stages([A, B, C, D], RUNGS, [0, 1], [keep], results, {})[-1].field == going


def test_the_mean_over_the_seeds_of_a_rung_decides() -> None:
    rungs = [Rung(2, 2), Rung(4, 2)]
    results = found({A: 0.1, B: 0.3, C: 0.2}) | found({A: 0.1, B: 0.1, C: 0.3}, seed=1)
    # B (0.3 + 0.1) / 2 = 0.2, C (0.2 + 0.3) / 2 = 0.25
    assert stages([A, B, C], rungs, [0, 1], ["1"], results, {})[-1].field == [A, C]


def test_who_could_not_be_trained_is_out_and_told() -> None:
    results = found({A: 0.1, C: 0.2, D: 0.25})
    failures = {"n_SIoU-seed0@2": "the loss became nan"}
    first, second = stages([A, B, C, D], RUNGS, [0, 1], ["1"], results, failures)
    assert first.failed == {B: "the loss became nan"} and second.field == [A, D] and first.out == [C]
