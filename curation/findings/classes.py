"""What is wrong with the classes: their names, and how many labels each has."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from curation.findings.finding import Example, Found
from curation.survey import Survey
from utils.data.report import counted

FEW = 20  # labels from which hardly anything can be learnt
UNEVEN = 50  # times as many labels of one class as of another


def alike_names(survey: Survey) -> Found:
    """Names that differ only by case, blanks, hyphens or underscores."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, name in survey.names.items():
        groups["".join(letter for letter in name.casefold() if letter not in " \t_-")].append(number)
    alike = [numbers for numbers in groups.values() if len(numbers) > 1]
    said = "; ".join(
        " and ".join(f"{survey.names[number]!r} ({number})" for number in numbers) for numbers in alike
    )
    examples = [_about(survey, number) for numbers in alike for number in numbers]
    return Found(len(alike), examples, said)


def blank_names(survey: Survey) -> Found:
    """Names with a blank at an end, or nothing else."""
    chosen = [number for number, name in survey.names.items() if name != name.strip() or not name]
    return _classes(survey, chosen)


def absent_in_train(survey: Survey) -> Found:
    """Classes that are only to be found, never to be learnt."""
    if "train" not in survey.splits or len(survey.splits) < 2:
        return Found()
    counts = survey.counts
    train = counts[survey.splits.index("train")]
    return _classes(survey, np.flatnonzero((train == 0) & (counts.sum(axis=0) > 0)))


def absent_in_val(survey: Survey) -> Found:
    """Classes that are learnt and never measured."""
    if not {"train", "val"} <= set(survey.splits):
        return Found()
    counts = survey.counts
    train, val = (counts[survey.splits.index(split)] for split in ("train", "val"))
    return _classes(survey, np.flatnonzero((train > 0) & (val == 0)))


def without_labels(survey: Survey) -> Found:
    """Classes that have a name and no label in any split."""
    return _classes(survey, np.flatnonzero(survey.counts.sum(axis=0) == 0))


def rare(survey: Survey) -> Found:
    """Classes with a few labels to learn from; with none there are other words for them."""
    counts = survey.counts[0]
    chosen = np.flatnonzero((counts > 0) & (counts < FEW))
    said = ", ".join(f"{survey.names[int(n)]} ({counts[n]})" for n in chosen[:8])
    found = _classes(survey, chosen)
    return Found(found.count, found.examples, said + ", …" * (len(chosen) > 8))


def uneven(survey: Survey) -> Found:
    """Whether one class has very many times as many labels to learn from as another; counts the far ones."""
    counts = survey.counts[0]
    most = int(counts.argmax())
    chosen = np.flatnonzero((counts > 0) & (counts * UNEVEN < counts[most]))
    found = _classes(survey, chosen)
    least = f"{survey.names[most]} has {counts[most]:,} labels; {found.said}"
    return Found(found.count, found.examples, least)


def _classes(survey: Survey, chosen: Iterable[int]) -> Found:
    numbers = [int(number) for number in chosen]
    shown = ", ".join(survey.names[number].strip() or repr(survey.names[number]) for number in numbers[:8])
    examples = [_about(survey, number) for number in numbers]
    return Found(len(numbers), examples, shown + ", …" * (len(numbers) > 8))


def _about(survey: Survey, number: int) -> Example:
    """A class as an example: without a place."""
    counts = ", ".join(
        f"{counted(int(count), 'label')} in {split}"
        for split, count in zip(survey.splits, survey.counts[:, number])
    )
    return Example("", name=survey.names[number], detail=counts, drawn=False)
