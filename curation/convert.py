"""Convert a data set to YOLO text, Pascal VOC's XML or COCO's JSON.

Any format that training reads is taken: a data yaml, a folder, a file of annotations. Boxes come out equal,
classes in their order, pictures without objects too. What is wrong with the labels is told and left out, and
listed in `<split>_label_report.csv`. Nothing that exists is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from curation.opening import NewDataConfig, open_data, open_splits
from curation.writing import WRITERS, Folder, Shot, check_free, make_folder, shots
from utils.console import LOGGER, printable, progress, setup_console
from utils.data.report import counted
from utils.errors import UserError
from utils.flags import flag


@dataclass(frozen=True)
class Config(NewDataConfig):
    """Convert a data set to YOLO text, Pascal VOC's XML or COCO's JSON."""

    to: Literal["yolo", "voc", "coco"] = flag("yolo", "format to write")
    pictures: Literal["link", "copy"] = flag("link", "link to the pictures, or copy them")


def run(config: Config) -> None:
    """Write the data set and say what is in it.

    Raises:
        UserError: the data cannot be read, or `--out` exists.
    """
    setup_console()
    check_free(config.out)
    spec = open_data(config.data)
    if odd := next((name for name in spec.names.values() if printable(name) != name), None):
        raise UserError(f"{spec.file}: names: {odd!r} has characters that no file format takes; rename it")
    bare = [name.strip() for name in spec.names.values()]
    if twice := next((name for name in bare if bare.count(name) > 1), None):
        raise UserError(
            f"{spec.file}: names: several classes are called '{twice}' but for blanks; rename one"
        )
    splits = open_splits(spec, config.strict)

    def fill(root: Path, place: Path) -> None:
        folder = Folder(root, place, spec.names, copy=config.pictures == "copy")
        listed = {}
        for split, index in splits.items():
            LOGGER.info(f"{split}: {index.report.summary()}")
            listed[split] = WRITERS[config.to](folder, split, _shown(shots(index), split, len(index)))
            index.report.write_report(root, f"{split}_label_report.csv")
        folder.describe({"train": [], "val": [], **listed})

    place = make_folder(config.out, fill)
    if config.to == "voc" and any(index.has_polygons for index in splits.values()):
        LOGGER.info("polygons became the boxes around them: Pascal VOC's XML has none")
    classes = counted(len(spec.names), "class")
    LOGGER.info(f"{classes}; {place / 'data.yaml'} is the data set as {config.to}")


def _shown(pictures: Iterable[Shot], split: str, total: int) -> Iterator[Shot]:
    yield from progress(pictures, f"writing {split}", total=total, unit=" pictures")
