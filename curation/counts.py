"""How much there is of what in a data set: by split, by class, by size."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from curation.survey import Survey

SMALL, MEDIUM = 32**2, 96**2  # COCO's: areas in square pixels of the picture below which a box is so
SIZES = 5  # most frequent sizes of pictures that are named


@dataclass(frozen=True)
class SplitCounts:
    """One split.

    Attributes:
        backgrounds: pictures without boxes.
        small, medium, large: boxes by COCO's areas.
        most: boxes of the fullest picture.
        picture_sizes: the most frequent (width, height) with their numbers.
        sides: shortest and longest side of a picture in pixels.
        other_sizes: how many other sizes there are.
    """

    pictures: int
    backgrounds: int
    boxes: int
    small: int
    medium: int
    large: int
    most: int
    picture_sizes: list[tuple[int, int, int]]
    other_sizes: int
    sides: tuple[int, int]


def split_counts(survey: Survey) -> dict[str, SplitCounts]:
    """By split."""
    counts = {}
    areas, split_of_box = survey.sizes.prod(axis=1), survey.split_of[survey.picture_of]
    for place, split in enumerate(survey.splits):
        chosen = survey.split_of == place
        shapes, boxes, area = survey.shapes[chosen], survey.per_picture[chosen], areas[split_of_box == place]
        sizes = Counter(map(tuple, shapes[:, ::-1].tolist()))
        frequent = [(width, height, count) for (width, height), count in sizes.most_common(SIZES)]
        counts[split] = SplitCounts(
            pictures=len(shapes),
            backgrounds=int((boxes == 0).sum()),
            boxes=int(boxes.sum()),
            small=int((area < SMALL).sum()),
            medium=int(((area >= SMALL) & (area < MEDIUM)).sum()),
            large=int((area >= MEDIUM).sum()),
            most=int(boxes.max()),
            picture_sizes=frequent,
            other_sizes=len(sizes) - len(frequent),
            sides=(int(shapes.min()), int(shapes.max())),
        )
    return counts


def class_counts(survey: Survey) -> list[dict[str, Any]]:
    """By class: its number, name, boxes by split and pictures that have it."""
    counts = survey.counts
    pairs = np.unique(survey.picture_of * survey.spec.nc + survey.classes)  # a picture and a class each
    pictures = np.bincount(pairs % survey.spec.nc, minlength=survey.spec.nc)
    return [
        {
            "class": number,
            "name": name,
            "boxes": dict(zip(survey.splits, counts[:, number].tolist())),
            "pictures": int(pictures[number]),
        }
        for number, name in survey.names.items()
    ]


def record_of(survey: Survey) -> dict[str, Any]:
    """All of it, for a JSON file."""
    return {
        "pictures": len(survey),
        "boxes": len(survey.boxes),
        "splits": {split: asdict(counts) for split, counts in split_counts(survey).items()},
        "classes": class_counts(survey),
    }
