"""What runs of `lighten.py` have kept of their teachers, as the documentation tells: docs/lighten.csv.

python benchmark.py docs --lightened runs/lighten/*
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.pages import markdown_table
from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError
from utils.files import write_text

FILE = "docs/lighten.csv"
COLUMNS = ("variant", "data", "imgsz", "pictures", "steps", "start", "end", "ceiling", "teacher", "student")
NARROW_TASK = "bccd"  # the data set of the README's column


def note(folders: Sequence[str], root: Path) -> None:
    """Write the file anew, from the folders of finished runs.

    Raises:
        UserError: a folder is not that of a finished run with --data.
    """
    rows = []
    for folder in map(Path, folders):
        try:
            page = json.loads((folder / "lighten.json").read_text(encoding="utf-8"))
            known = read_checkpoint(folder / "weights" / "best.pt")["lightened"]
            teacher, student = page["variants"][:2]
            row = [student["name"], Path(page["data"]).stem, page["imgsz"], page["pictures"], known["steps"]]
            row += [
                student["start"],
                student["end"],
                page["ceiling"],
                teacher["true_map"],
                student["true_map"],
            ]
        except (OSError, ValueError, KeyError, TypeError, UserError) as error:
            raise UserError(f"{folder}: not the folder of a finished run of lighten.py ({error})") from None
        if student["true_map"] is None:
            raise UserError(f"{folder}: its run had no --data; lighten.py --resume {folder} --data adds it")
        rows.append([f"{value:.4f}" if isinstance(value, float) else str(value) for value in row])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *sorted(rows)])
    write_text(root / FILE, text.getvalue())


def read(root: Path) -> list[dict[str, str]]:
    """The rows of the file."""
    with (root / FILE).open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def shares(root: Path) -> dict[str, float]:
    """By variant the student's mAP50-95 over its teacher's, on blood cells; the mean over runs."""
    found: dict[str, list[float]] = {}
    for row in read(root):
        if row["data"] == NARROW_TASK:
            found.setdefault(row["variant"], []).append(float(row["student"]) / float(row["teacher"]))
    return {variant: mean(some) for variant, some in found.items()}


def table(root: Path) -> str:
    """All rows."""
    rows: list[tuple[str, ...]] = [
        ("variant", "data, px", "pictures", "steps", "agreement at the start", "at the end", "the teacher's",
         "mAP50-95 of the teacher", "of the student", "kept")
    ]  # fmt: skip
    for row in read(root):
        first = (f"`{row['variant']}`", f"{row['data']}, {row['imgsz']}", row["pictures"], row["steps"])
        scores = (f"{float(row[name]):.3f}" for name in COLUMNS[5:])
        rows.append((*first, *scores, f"{float(row['student']) / float(row['teacher']):.1%}"))
    return markdown_table(rows, "ll" + "r" * 8)
