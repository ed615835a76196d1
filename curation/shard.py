"""Write a data set as tar shards in webdataset's layout: few large files, on disk or behind an address.

`train-000000.tar` holds `NAME.jpg`, the file as it is, and `NAME.txt`, its labels as YOLO text, for each
picture in the order of the split; `train-000000.index.json` beside it says where they are and spares the
first start its pass over the tar.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from curation.opening import NewDataConfig, open_data, open_splits
from curation.writing import Shot, check_free, make_folder, shots, yolo_row
from utils.console import LOGGER, printable, progress, setup_console
from utils.data.images import image_bytes
from utils.data.index import DatasetIndex
from utils.data.report import counted
from utils.data.shards.listing import Listing, Row, listing_address
from utils.data.shards.places import MOST_SHARDS
from utils.data.shards.ranges import read_range
from utils.data.shards.tar import read_members, read_samples
from utils.errors import UserError
from utils.files import write_text
from utils.flags import at_least, flag
from utils.optional import require

LONGEST_KEY = 200  # bytes of a name, to which suffixes come


@dataclass(frozen=True)
class Config(NewDataConfig):
    """Write a data set as tar shards."""

    size: int = flag(1000, "pictures of a shard; 100 MB to 1 GB are handy", rule=at_least(1))


def run(config: Config) -> None:
    """Write the shards of all splits and a data yaml that names them.

    Raises:
        UserError: the data cannot be read, or `--out` exists.
    """
    setup_console()
    check_free(config.out)
    require("webdataset", "webdataset")
    spec = open_data(config.data)
    splits = open_splits(spec, config.strict)

    def fill(root: Path, place: Path) -> None:
        content: dict[str, Any] = {"train": [], "val": []}
        for split, index in splits.items():
            LOGGER.info(f"{split}: {index.report.summary()}")
            content[split] = write_shards(root, split, index, config.size)
            index.report.write_report(root, f"{split}_label_report.csv")
        content["names"] = dict(spec.names)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        write_text(
            root / "data.yaml", f"# relative to this file; a URL or s3://… may stand before the names\n{text}"
        )

    place = make_folder(config.out, fill)
    total = sum(file.stat().st_size for file in place.glob("*.tar"))
    count = sum(1 for _ in place.glob("*.tar"))
    shards = counted(count, "shard")
    LOGGER.info(f"{shards}, {total / 1e6:,.1f} MB; {place / 'data.yaml'} is the data set")


def write_shards(root: Path, split: str, index: DatasetIndex, size: int) -> str:
    """Write the shards of a split into a folder; returns the pattern that stands for them.

    Raises:
        UserError: too many shards.
        OSError: the folder cannot be written to.
    """
    count = -(-len(index) // size)
    if count > MOST_SHARDS:
        raise UserError(f"--size {size} makes {count:,} shards of {split}, at most {MOST_SHARDS:,} are read")
    names = _Names()
    pictures = iter(progress(shots(index), f"writing {split}", total=len(index), unit=" pictures"))
    for number in range(count):
        _write_shard(root / f"{split}-{number:06}.tar", islice(pictures, size), names)
    if names.changed:
        were = "was" if names.changed == 1 else "were"
        LOGGER.info(
            f"{split}: {counted(names.changed, 'picture')} {were} renamed ({names.example}): "
            "a name in a shard ends at its first dot"
        )
    return f"{split}-{{000000..{count - 1:06}}}.tar" if count > 1 else f"{split}-000000.tar"


def _write_shard(file: Path, pictures: Iterator[Shot], names: _Names) -> None:
    """One shard and its listing. The same pictures give the same bytes."""
    shapes, texts = [], []
    with file.open("wb") as stream:
        writer = require("webdataset", "webdataset").TarWriter(
            stream, encoder=False, mtime=0, format="PAX_FORMAT"
        )
        with writer:
            for shot in pictures:
                rows = (yolo_row(*row) for row in zip(shot.classes, shot.rows, shot.polygons))
                text = "".join(f"{row}\n" for row in rows)
                key, suffix = names.take(shot.source)
                writer.write({"__key__": key, suffix: image_bytes(shot.source), "txt": text.encode()})
                shapes.append((shot.height, shot.width))
                texts.append(text)
    size = file.stat().st_size
    samples = read_samples(read_members(lambda at, n: read_range(str(file), at, n), size, file.name))
    rows_ = [
        Row(sample.name, sample.picture.offset, sample.picture.size, *shape, text)
        for sample, shape, text in zip(samples, shapes, texts, strict=True)
        if sample.picture is not None
    ]
    Path(listing_address(str(file))).write_bytes(Listing(size, rows_).to_bytes())


class _Names:
    """What pictures are called in shards: as before, without dots, and no two alike."""

    def __init__(self) -> None:
        self.taken: set[str] = set()
        self.changed = 0
        self.example = ""  # of one that changed

    def take(self, path: str) -> tuple[str, str]:
        """The key of a picture and the suffix of its file, without the dot."""
        stem, suffix = os.path.splitext(os.path.basename(path))  # noqa: PTH119, PTH122
        plain = "".join(
            "_" if mark in "./\\@" or not (printable(mark) == mark and mark.isprintable()) else mark
            for mark in stem
        )
        plain = plain.encode()[:LONGEST_KEY].decode(errors="ignore") or "_"
        number, key = 2, plain
        while key.lower() in self.taken:
            number, key = number + 1, f"{plain}_{number}"
        self.taken.add(key.lower())
        if key != stem:
            self.changed += 1
            self.example = self.example or f"{printable(stem)} is {key}"
        return key, suffix[1:].lower()
