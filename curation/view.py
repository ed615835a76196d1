"""Pictures with their labels drawn, as files and on a page.

python dataset.py view --data bccd.yaml --split val
python dataset.py view --data bccd.yaml --split train --class WBC --count 40 --seed 1
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import cv2
import numpy as np

from benchmarks.pages import bare, render
from curation.page import TEMPLATES, near
from curation.survey import Survey, open_splits
from utils.console import LOGGER, printable, setup_console
from utils.data.images import ImageError, read_image
from utils.data.report import counted
from utils.detections.annotate import Style, annotate
from utils.detections.saving import NamesApart, write_image
from utils.errors import Incomplete, UserError
from utils.files import increment_path, safe_name, write_text
from utils.flags import DATA_HELP, SEED, CommandConfig, arguments, at_least, flag, not_empty
from utils.palette import class_color
from utils.pipeline import ordered_map, thread_pool

TEMPLATE = "view.html.j2"
LEAST, MOST = 640, 1600  # pixels of the longer side of what is written; between, pictures keep their size


@dataclass(frozen=True)
class Config(CommandConfig):
    """Draw the labels of some pictures, and show them on a page."""

    data: str = flag("data/digits.yaml", DATA_HELP)
    split: Literal["train", "val", "test"] = flag("val", "which pictures")
    count: int = flag(24, "how many pictures, chosen at random; 0 are all", rule=at_least(0))
    class_name: str = flag("", "only pictures with this class: a name, or a number", "--class")
    seed: int = flag(0, "another one chooses other pictures", rule=SEED)
    project: str = flag("runs/view", "folder that holds the run folders")
    name: str = flag("exp", "name of the run folder", rule=not_empty)
    exist_ok: bool = flag(False, "write into an existing run folder")


@dataclass(frozen=True)
class Drawn:
    """A picture that was written: its file, where it came from, and what is on it."""

    file: str
    path: str
    content: str


def run(config: Config) -> Path:
    """Write the pictures and `index.html`; returns the latter.

    Raises:
        UserError: data that cannot be read, an unknown class, or no picture that has it.
        Incomplete: some pictures could not be read.
    """
    setup_console()
    survey = Survey(*open_splits(config.data, (config.split,)))
    chosen = choose(config, survey)
    folder = increment_path(Path(config.project) / config.name, config.exist_ok)
    names = NamesApart()
    jobs = [(number, f"{names.take(safe_name(Path(survey.path(number)).stem))}.jpg") for number in chosen]
    with thread_pool(os.cpu_count() or 1) as pool:
        results = ordered_map(pool, lambda job: draw(survey, *job, folder), jobs, depth=8)
        drawn = [one for one in results if one is not None]
    page = folder / "index.html"
    words = ("python", "dataset.py", "view", *map(printable, map(bare, arguments(config))))
    write_text(
        page,
        render(
            TEMPLATE,
            TEMPLATES,
            title=printable(f"{bare(config.data)}, {config.split}"),
            wanted=printable(config.class_name),
            drawn=drawn,
            pictures=len(survey),
            command=words,
            near=near,
            quote=quote,
        ),
    )
    pictures = counted(len(survey), "picture")
    LOGGER.info(f"{len(drawn)} of {pictures} of {config.split} in {bare(config.data)}: {page}")
    if len(drawn) < len(chosen):
        raise Incomplete(f"{len(chosen) - len(drawn)} of {counted(len(chosen), 'picture')} could not be read")
    return page


def choose(config: Config, survey: Survey) -> list[int]:
    """Numbers of the pictures to draw, ascending.

    Raises:
        UserError: an unknown class, or no picture that has it.
    """
    pictures = np.arange(len(survey))
    if config.class_name:
        pictures = np.unique(
            survey.picture_of[survey.classes == class_number(config.class_name, survey.names)]
        )
        if not len(pictures):
            raise UserError(f"--class {config.class_name}: no picture of {config.split} has a box of it")
    if config.count and config.count < len(pictures):
        pictures = np.random.default_rng(config.seed).choice(pictures, config.count, replace=False)
    return sorted(pictures.tolist())


def class_number(wanted: str, names: dict[int, str]) -> int:
    """The class of a name, or of a number where no class has that for its name.

    Raises:
        UserError: there is none.
    """
    for number, name in names.items():
        if wanted == name:
            return number
    for number, name in names.items():
        if wanted == str(number) or wanted.strip().casefold() == name.strip().casefold():
            return number
    known = ", ".join(names.values())
    raise UserError(f"--class {wanted}: no such class; there are {known[:200]}{'…' * (len(known) > 200)}")


def draw(survey: Survey, picture: int, file: str, folder: Path) -> Drawn | None:
    """Write a picture with its boxes, and polygons where labels have them; None when it cannot be read."""
    path, labels = survey.path(picture), survey.labels(picture)
    try:
        image = read_image(path)
    except ImageError:
        return None
    longest = max(image.shape[:2])
    scale = min(max(LEAST, longest), MOST) / longest
    if scale != 1:
        size = max(round(image.shape[1] * scale), 1), max(round(image.shape[0] * scale), 1)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    start = int(survey.per_picture[:picture].sum())
    rows = np.ones((len(labels), 6), np.float32)
    rows[:, :4] = survey.xyxy[start : start + len(labels)] * scale
    rows[:, 5] = labels[:, 0]
    for row, polygon in zip(labels, survey.polygons(picture)):
        corners = (polygon * image.shape[1::-1]).round().astype(np.int32)
        if len(corners):
            cv2.polylines(image, [corners], isClosed=True, color=class_color(int(row[0])))
    write_image(folder / file, annotate(image, rows, survey.names, Style(confidences=False)))
    classes, counts = np.unique(labels[:, 0].astype(int), return_counts=True)
    content = ", ".join(f"{count} {survey.names[cls]}" for cls, count in zip(classes.tolist(), counts))
    return Drawn(file, path, printable(content) or "no boxes")
