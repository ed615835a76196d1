"""What was wrong with a data set: every fault with its place, a summary table and a file."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.files import atomic_write

SHOWN = 3  # names in a message
SUSPICIOUS = 0.2  # share of rows with a fault above which there may be one cause
LEFT_OUT = "image left out"
# kind of fault -> what was done about it
ACTIONS = {
    "missing image": LEFT_OUT,
    "unreadable image": LEFT_OUT,
    "truncated image": LEFT_OUT,
    "image too small": LEFT_OUT,
    "unreadable label file": LEFT_OUT,
    "name with dots": LEFT_OUT,  # in a tar shard, where it ends at the first dot
    "label without image": "ignored",
    "wrong encoding": "read as far as possible",
    "wrong column count": "row dropped",
    "not a number": "row dropped",
    "not finite": "row dropped",
    "class not an integer": "row dropped",
    "class out of range": "row dropped",
    "no area": "row dropped",
    "degenerate polygon": "row dropped",
    "out of bounds": "row dropped",
    "slightly out of bounds": "clipped",
    "duplicate row": "row dropped",
    # of other formats than YOLO text
    "unknown class": "boxes left out",
    "broken annotation": "left out",
    "picture of another shape": LEFT_OUT,
    "picture twice": "the first one counts",
    "crowd": "left out",
    "difficult": "left out",
    "other shape": "left out",
}
MEANT = ("crowd", "difficult", "other shape")  # said, but as its makers meant it: no fault for --strict


def plural(noun: str, count: int) -> str:
    """`image` for one, `images` for any other number; also `boxes` and `classes`."""
    return noun if count == 1 else f"{noun}es" if noun.endswith(("s", "x")) else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """A number and what it counts: `1 image`, `1,204 boxes`."""
    return f"{count:,} {plural(noun, count)}"


class Fault(NamedTuple):
    """One thing that is wrong: a key of `ACTIONS`, the line (from 1; 0: whole file), and what was seen."""

    kind: str
    line: int
    detail: str
    file: str = ""

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass
class LabelReport:
    """All faults of one split, and what is left of it."""

    faults: list[Fault] = field(default_factory=list)
    images: int = 0  # usable ones, backgrounds included
    backgrounds: int = 0  # usable images without a box
    boxes: int = 0
    nothing_to_learn: str = ""  # why these labels teach nothing, or the wrong thing

    @property
    def counts(self) -> dict[str, int]:
        """Number of faults by kind, most frequent first."""
        return dict(Counter(fault.kind for fault in self.faults).most_common())

    @property
    def is_suspicious(self) -> bool:
        """Whether so many rows were dropped or clipped that something is wrong with all of them."""
        changed = sum(ACTIONS[fault.kind] in ("row dropped", "clipped") for fault in self.faults)
        dropped = sum(ACTIONS[fault.kind] == "row dropped" for fault in self.faults)
        return changed > SUSPICIOUS * (self.boxes + dropped)

    def summary(self) -> str:
        """A table for the terminal: one line when all is well, otherwise one line for each kind of fault."""
        counts = {"image": self.images, "box": self.boxes, "background": self.backgrounds}
        lines = [", ".join(f"{count} {plural(noun, count)}" for noun, count in counts.items())]
        first = {fault.kind: fault for fault in reversed(self.faults)}
        for kind, count in self.counts.items():
            example = first[kind]
            lines.append(f"{count:>8}  {kind:<24} {ACTIONS[kind]:<24} {example.place}: {example.detail}")
        return "\n".join(lines)

    def count(self, unreadable: Sequence[str] = ()) -> str:
        """`125 of 128 images`, or `128 images` when none is left out; `unreadable` are those found later."""
        used, total = self.images - len(unreadable), self.images + len(self.left_out)
        images = f"{total} {plural('image', total)}"
        return images if used == total else f"{used} of {images}"

    def shortfall(self, unreadable: Sequence[str] = ()) -> str:
        """What is missing from all images, and which; empty when nothing is."""
        missing = [*(fault.file for fault in self.left_out), *unreadable]
        if not missing:
            return ""
        shown = ", ".join(Path(file).name for file in missing[:SHOWN]) + ", …" * (len(missing) > SHOWN)
        total = self.images + len(self.left_out)
        return f"{len(missing)} of {total} {plural('image', total)} could not be used: {shown}"

    @property
    def left_out(self) -> list[Fault]:
        """The faults that each cost an image."""
        return [fault for fault in self.faults if ACTIONS[fault.kind] == LEFT_OUT]

    def check_usable(self, split: str) -> None:
        """Raise a UserError when nothing can be learned from the labels, or measured by them."""
        if self.nothing_to_learn:
            raise UserError(f"--data: no labels to use in {split}: {self.nothing_to_learn}")

    def write_report(self, folder: Path, name: str = "label_report.csv") -> None:
        """Write one row for each fault to `folder/name`; nothing when there is none.

        Raises:
            OSError: the folder is not writable.
        """
        if not self.faults:
            return
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["file", "line", "fault", "action", "detail"])
        table.writerows([f.file, f.line or "", f.kind, ACTIONS[f.kind], f.detail] for f in self.faults)
        with atomic_write(folder / name) as file:
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))
