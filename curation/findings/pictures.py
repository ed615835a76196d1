"""What is wrong with pictures: copies within and across splits, no labels, no content."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable

import numpy as np

from curation.findings.finding import LISTED, Example, Found, Grade
from curation.survey import Survey
from utils.data.labels import label_path

MANY = 0.1  # share of a split's pictures without labels from which they are no exception
WANTED = ("train", "val")


def missing_split(survey: Survey) -> Found:
    """Splits that `train.py` needs and the data yaml does not name."""
    missing = [split for split in WANTED if split not in survey.splits]
    return Found(len(missing), [Example(str(survey.spec.file), split, drawn=False) for split in missing],
                 ", ".join(missing))  # fmt: skip


def shared_files(survey: Survey) -> Found:
    """Pictures of a split that are also in an earlier one: the same file."""
    return _pairs(survey, ((a, b, "the same file") for a, b in survey.same_file.items()), across=True)


def listed_twice(survey: Survey) -> Found:
    """Pictures that a split has twice."""
    return _pairs(survey, ((a, b, "the same file") for a, b in survey.same_file.items()), across=False)


def copies_across(survey: Survey) -> Found:
    """Pictures of a split with a copy, byte by byte, in an earlier one."""
    return _pairs(survey, _copies(survey), across=True)


def copies_within(survey: Survey) -> Found:
    """Pictures with an earlier copy in their own split."""
    return _pairs(survey, _copies(survey), across=False)


def alike_across(survey: Survey) -> Found:
    """Pictures of a split that look like one in an earlier one."""
    return _pairs(survey, _alike(survey), across=True)


def alike_within(survey: Survey) -> Found:
    """Pictures that look like an earlier one of their own split."""
    return _pairs(survey, _alike(survey), across=False)


def unlabelled(survey: Survey) -> Found:
    """Pictures without boxes that nothing says to be empty: in YOLO's text format, without a label file."""
    chosen: list[int] = []
    grade: Grade | None = None
    for start, end in itertools.pairwise(survey.starts.tolist()):
        empty = survey.per_picture[start:end] == 0
        labelled = (survey.path(number) for number in start + np.flatnonzero(~empty))
        if not empty.all() and not any(os.path.exists(label_path(path)) for path in labelled):  # noqa: PTH110
            continue  # labels of another format, which says itself which pictures are empty
        without = [
            number
            for number in (start + np.flatnonzero(empty)).tolist()
            if not os.path.exists(label_path(survey.path(number)))  # noqa: PTH110
        ]
        chosen += without
        if len(without) > MANY * (end - start):
            grade = "warning"
    said = f"{100 * len(chosen) / max(len(survey), 1):.1f} % of the pictures"
    examples = [Example(survey.path(n), survey.split(n), detail="no label file") for n in chosen[:LISTED]]
    return Found(len(chosen), examples, said, grade)


def undecodable(survey: Survey) -> Found:
    """Pictures whose header is sound and whose content is not."""
    damaged = survey.prints.damaged
    examples = [
        Example(survey.path(number), survey.split(number), detail=reason, drawn=False)
        for number, reason in list(damaged.items())[:LISTED]
    ]
    return Found(len(damaged), examples)


def _copies(survey: Survey) -> Iterable[tuple[int, int, str]]:
    for picture, other in survey.same_content.items():
        one, two = (np.unique(survey.labels(number), axis=0) for number in (picture, other))
        same = "the same labels" if np.array_equal(one, two) else "other labels"
        yield picture, other, f"the same bytes, {same}"


def _alike(survey: Survey) -> Iterable[tuple[int, int, str]]:
    ranked = sorted(survey.same_look.items(), key=lambda item: item[1][1])
    return ((picture, other, f"{bits} of 256 bits differ") for picture, (other, bits) in ranked)


def _pairs(survey: Survey, pairs: Iterable[tuple[int, int, str]], *, across: bool) -> Found:
    """Those of different splits, or of one, as a finding."""
    count = 0
    examples: list[Example] = []
    for picture, other, detail in pairs:
        if (survey.split(picture) != survey.split(other)) != across:
            continue
        count += 1
        if len(examples) < LISTED:
            said = f"{detail}, in {survey.split(other)}" if across else detail
            place = survey.path(picture), survey.split(picture)
            examples.append(Example(*place, detail=said, other=survey.path(other)))
    return Found(count, examples)
