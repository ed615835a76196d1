"""Look after a data set before anything is trained on it.

python dataset.py check --data bccd.yaml                           # what is wrong with it, as a page
python dataset.py check --data bccd.yaml --weights best.pt         # and which labels a network disagrees with
python dataset.py stats --data bccd.yaml                           # counts by split and class, sizes
python dataset.py view --data bccd.yaml --split val --class WBC    # pictures with their labels drawn
python dataset.py convert --data instances.json --to yolo --out datasets/mine  # from any format; or voc, coco
python dataset.py split --data mine.yaml --ratios 0.8 0.1 0.1 --seed 0         # each class in its share
python dataset.py shard --data mine.yaml --out shards/ --size 1000           # tar shards, read from anywhere

`python dataset.py SUBCOMMAND --help` lists the flags of one; docs/datasets.md has the formats.
"""

from __future__ import annotations

from collections.abc import Sequence

from utils.errors import run_command
from utils.flags import run_subcommand

SUBCOMMANDS = {  # see `run_subcommand`
    "check": "curation.check",
    "stats": "curation.stats",
    "view": "curation.view",
    "convert": "curation.convert",
    "split": "curation.split",
    "shard": "curation.shard",
}


def main(argv: Sequence[str] | None = None) -> None:
    run_subcommand("dataset.py", __doc__, SUBCOMMANDS, argv)


if __name__ == "__main__":
    run_command(main)
