"""Counts of a data set: pictures and boxes by split and class, sizes of boxes and of pictures.

    python dataset.py stats --data bccd.yaml
    python dataset.py stats --data bccd.yaml --json bccd.json

A box is small below 32 x 32 pixels of its picture, large from 96 x 96 on, medium between: COCO's areas, of
the box in place of the outline.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pages import check_page, console_table
from curation.counts import class_counts, record_of, split_counts
from curation.survey import Survey, open_splits
from utils.console import LOGGER, printable, setup_console
from utils.files import write_text
from utils.flags import DATA_HELP, CommandConfig, flag

WRITER = {"written by": "dataset.py stats"}


@dataclass(frozen=True)
class Config(CommandConfig):
    """Count pictures, boxes and classes of a data set."""

    data: str = flag("data/digits.yaml", DATA_HELP)
    json: str = flag("", "file for all numbers")


def run(config: Config) -> None:
    """Print the tables.

    Raises:
        UserError: data that cannot be read, or a file of `--json` that someone else wrote.
    """
    setup_console()
    if config.json:
        check_page(Path(config.json), json.dumps(WRITER)[1:-1], "--json")
    survey = Survey(*open_splits(config.data))
    LOGGER.info(tables(survey))
    if config.json:
        record = {**WRITER, "data": config.data, **record_of(survey)}
        write_text(Path(config.json), json.dumps(record, indent=1) + "\n")


def tables(survey: Survey) -> str:
    """For the console."""
    counts = split_counts(survey)
    rows = [["split", "pictures", "without boxes", "boxes", "a picture", "most", "small", "medium", "large"]]
    for split, one in counts.items():
        numbers = (one.pictures, one.backgrounds, one.boxes)
        sizes = (one.most, one.small, one.medium, one.large)
        mean = f"{one.boxes / one.pictures:.1f}"
        rows.append([split, *(f"{n:,}" for n in numbers), mean, *(f"{n:,}" for n in sizes)])
    text = [console_table(rows, "lrrrrrrrr"), ""]
    rows = [["class", "name", *survey.splits, "pictures"]]
    for row in class_counts(survey):
        boxes = (f"{n:,}" for n in row["boxes"].values())
        rows.append([str(row["class"]), printable(row["name"]), *boxes, f"{row['pictures']:,}"])
    text += [console_table(rows, "rl" + "r" * (len(survey.splits) + 1)), ""]
    for split, one in counts.items():
        sizes_of = ", ".join(f"{width} x {height} ({n:,})" for width, height, n in one.picture_sizes)
        others = f" and {one.other_sizes:,} other sizes" if one.other_sizes else ""
        low, high = one.sides
        text.append(f"{split}: {sizes_of}{others}; sides {low} to {high} px")
    return "\n".join(text)
