"""Likely faults of labels, by a trained network."""

from __future__ import annotations

from collections.abc import Callable

from curation.disagreement import Disagreement, Ranking, Suspect
from curation.findings.finding import LISTED, Example, Found
from curation.survey import Survey


def swapped(survey: Survey) -> Found:
    def detail(one: Suspect) -> str:
        return f"the network says {survey.names[one.seen]}, {one.sure:.2f}"

    return _ranked(survey, _network(survey).swapped, detail)


def overlooked(survey: Survey) -> Found:
    return _ranked(survey, _network(survey).overlooked, lambda one: f"seen with {one.sure:.2f}, not labelled")


def misplaced(survey: Survey) -> Found:
    def detail(one: Suspect) -> str:
        return f"seen elsewhere with {one.sure:.2f}; IoU {one.overlap:.2f} with the label"

    return _ranked(survey, _network(survey).misplaced, detail)


def unseen(survey: Survey) -> Found:
    def detail(one: Suspect) -> str:
        return f"{one.box[2] - one.box[0]:.0f} x {one.box[3] - one.box[1]:.0f} px, and nothing is seen there"

    return _ranked(survey, _network(survey).unseen, detail)


def _network(survey: Survey) -> Disagreement:
    assert survey.network is not None  # `needs` of the kinds says so
    return survey.network


def _ranked(survey: Survey, ranking: Ranking, detail: Callable[[Suspect], str]) -> Found:
    examples = []
    for one in ranking.ordered()[:LISTED]:
        place = survey.path(one.picture), survey.split(one.picture)
        text = survey.names[one.cls], detail(one)
        examples.append(Example(*place, _corners(one.box), *text, seen=_corners(one.place)))
    return Found(ranking.count, examples)


def _corners(box: tuple[float, ...]) -> tuple[float, float, float, float] | None:
    """The four of them; None of no box."""
    return (box[0], box[1], box[2], box[3]) if box else None
