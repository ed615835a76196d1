"""Labels against detections: small cases by hand."""

from __future__ import annotations

import numpy as np
import pytest

from curation import disagreement
from curation.disagreement import Disagreement, Ranking, Suspect

A = (0, 0, 100, 100)
HALF = (0, 0, 50, 100)  # IoU with A: 0.5
FAR = (300, 300, 400, 400)
SHIFTED = (60, 0, 160, 100)  # IoU with A: 40 / 160 = 0.25


def compared(
    labels: list[tuple[float, ...]], detections: list[tuple[float, ...]]
) -> dict[str, list[Suspect]]:
    found = Disagreement("")
    found.compare(
        7, np.array(labels, np.float32).reshape(-1, 5), np.array(detections, np.float32).reshape(-1, 6)
    )
    kinds = ("swapped", "overlooked", "misplaced", "unseen")
    return {kind: ranking.ordered() for kind in kinds if (ranking := getattr(found, kind)).count}


@pytest.mark.parametrize(
    ("labels", "detections", "kind", "facts"),
    [
        # label of class 0, and class 1 is seen there
        ([(0, *A)], [(*A, 0.9, 1)], "swapped", (0.9, 0, 1, 0.9, 1.0)),
        # its own class is seen as well, less sure than half: 0.9 - 0.2
        ([(0, *A)], [(*A, 0.9, 1), (*A, 0.2, 0)], "swapped", (0.7, 0, 1, 0.9, 1.0)),
        ([(0, *A)], [(*A, 0.8, 0), (*FAR, 0.6, 1)], "overlooked", (0.6, 1, 1, 0.6, 0.0)),
        ([], [(*FAR, 0.6, 1)], "overlooked", (0.6, 1, 1, 0.6, 0.0)),
        # 0.8 * (1 - 0.25)
        ([(0, *A)], [(*SHIFTED, 0.8, 0)], "misplaced", (0.6, 0, 0, 0.8, 0.25)),
        ([(0, *A)], [], "unseen", (100.0, 0, -1, 0.0, 0.0)),
        ([(0, *A)], [(*FAR, 0.4, 0)], "unseen", (100.0, 0, -1, 0.0, 0.0)),
    ],
)
def test_one_suspect(
    labels: list[tuple[float, ...]], detections: list[tuple[float, ...]], kind: str, facts: tuple[float, ...]
) -> None:
    ((name, (suspect,)),) = compared(labels, detections).items()
    assert name == kind and suspect.picture == 7
    seen = (suspect.score, suspect.cls, suspect.seen, suspect.sure, suspect.overlap)
    assert seen == pytest.approx(facts, abs=1e-5)
    assert suspect.box == (FAR if kind == "overlooked" else A)


@pytest.mark.parametrize(
    ("labels", "detections"),
    [
        ([], []),
        ([(0, *A)], [(*A, 0.9, 0)]),
        ([(0, *A)], [(*HALF, 0.06, 0)]),  # seen, if not surely
        ([(0, *A)], [(*A, 0.9, 1), (*A, 0.5, 0)]),  # both, and its own no less than half as sure
        ([(0, *A)], [(*A, 0.9, 0), (*FAR, 0.4, 1)]),  # not sure of the other
        ([(0, *A), (1, *A)], [(*A, 0.9, 1), (*A, 0.05, 0)]),  # the other class has a label of its own there
        ([(0, *A)], [(*A, 0.9, 0), (*SHIFTED, 0.6, 0)]),  # a second box on the same object
    ],
)
def test_no_suspect(labels: list[tuple[float, ...]], detections: list[tuple[float, ...]]) -> None:
    assert compared(labels, detections) == {}


def test_a_detection_speaks_for_one_label() -> None:
    beside = (100, 0, 200, 100)  # IoU with SHIFTED: 60 / 140 = 0.43
    found = compared([(0, *A), (0, *beside)], [(*SHIFTED, 0.8, 0)])
    assert list(found) == ["misplaced"]
    assert [suspect.box for suspect in found["misplaced"]] == [beside]
    assert found["misplaced"][0].place == SHIFTED


def test_the_likeliest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disagreement, "MOST", 3)
    ranking = Ranking()
    for score in (0.3, 0.9, 0.1, 0.5, 0.7):
        ranking.add(Suspect(score, 0, A, 0))
    assert ranking.count == 5 and [suspect.score for suspect in ranking.ordered()] == [0.9, 0.7, 0.5]
