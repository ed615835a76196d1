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

from benchmarks.lightening.page import read_course
from benchmarks.pages import markdown_table
from benchmarks.plots import lines
from utils.checkpoints.files import read_checkpoint
from utils.errors import UserError
from utils.files import write_text
from utils.plots.canvas import save_figure

FILE = "docs/lighten.csv"
COLUMNS = (
    "variant", "data", "imgsz", "pictures", "steps", "seed", "recipe",
    "start", "end", "ceiling", "teacher", "student",
)  # fmt: skip
SETTING, SCORES = COLUMNS[:7], COLUMNS[7:]
UNKNOWN = 0  # the recipe of runs from before it was noted
# what else tells two runs on the same data from each other, and how a figure names it
DIFFERENCES = {
    "imgsz": "{} px", "pictures": "{} pictures", "steps": "{} steps", "seed": "seed {}",
    "recipe": "recipe {}",
}  # fmt: skip
FEWEST_RANKED = 5
NARROW_TASK = "bccd"  # the data set of the README's column

Row = dict[str, str]
Course = list[tuple[float, float]]  # steps and agreement


def note(folders: Sequence[str], root: Path) -> None:
    """Add rows of finished runs to the file, and draw a figure of their courses for each data set.

    Rows of the same setting give way, and those of the same network on the same data by an earlier recipe.

    Raises:
        UserError: a folder is not that of a finished run with --data.
    """
    rows: list[Row] = []
    courses: dict[str, list[tuple[Row, Course]]] = {}
    for folder in map(Path, folders):
        row, course = noted(folder)
        rows.append(row)
        courses.setdefault(row["data"], []).append((row, course))
    rows += [old for old in read(root) if not any(replaces(new, old) for new in rows)]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *sorted([*row.values()] for row in rows)])
    write_text(root / FILE, text.getvalue())
    for data, series in courses.items():
        figure = lines(named(series), f"Lightened on {data}", "steps", "agreement, mAP50-95", width=8)
        save_figure(figure, root / f"docs/lighten-{data}.png")


def replaces(new: Row, old: Row) -> bool:
    """Whether a row tells what another one told."""
    alike = all(new[name] == old[name] for name in ("variant", "data"))
    earlier = int(old["recipe"]) < int(new["recipe"])
    return alike and (earlier or all(new[name] == old[name] for name in SETTING))


def noted(folder: Path) -> tuple[Row, Course]:
    """The row of a finished run, and its course.

    Raises:
        UserError: it is not one, or had no --data.
    """
    try:
        page = json.loads((folder / "lighten.json").read_text(encoding="utf-8"))
        checkpoint = read_checkpoint(folder / "weights" / "best.pt")
        lightened, seed = checkpoint["lightened"], checkpoint["train_args"]["seed"]
        teacher, student = page["variants"][:2]
        known = [student["name"], Path(page["data"]).stem, page["imgsz"], page["pictures"]]
        known += [lightened["steps"], seed, lightened.get("recipe", UNKNOWN)]
        scores = [student["start"], student["end"], page["ceiling"], teacher["true_map"], student["true_map"]]
    except (OSError, ValueError, KeyError, TypeError, UserError) as error:
        raise UserError(f"{folder}: not the folder of a finished run of lighten.py ({error})") from None
    if student["true_map"] is None:
        raise UserError(f"{folder}: its run had no --data; lighten.py --resume {folder} --data adds it")
    if not teacher["true_map"]:
        raise UserError(
            f"{folder}: its teacher has a mAP50-95 of 0 on {page['data']}; there is no share of it"
        )
    row = dict(zip(COLUMNS, [*map(str, known), *(f"{score:.4f}" for score in scores)], strict=True))
    fitted = lightened.get("agreement", {}).get("fitted")
    begun = [(0.0, float(value)) for value in (student["start"], fitted) if value is not None]
    return row, [*begun, *read_course(folder / "results.csv")]


def named(courses: Sequence[tuple[Row, Course]]) -> dict[str, Course]:
    """Courses by the name of the variant, and by whatever else tells them apart; best first."""
    differs = [name for name in DIFFERENCES if len({row[name] for row, _ in courses}) > 1]
    found = {
        ", ".join([row["variant"], *(DIFFERENCES[name].format(row[name]) for name in differs)]): course
        for row, course in courses
    }
    return dict(sorted(found.items(), key=lambda item: -item[1][-1][1]))


def read(root: Path) -> list[Row]:
    """The rows of the file."""
    with (root / FILE).open(encoding="utf-8", newline="") as text:
        return list(csv.DictReader(text))


def shares(root: Path) -> dict[str, float]:
    """By variant the student's mAP50-95 over its teacher's, on blood cells: mean over seeds of its longest
    runs by the latest recipe."""
    found: dict[str, dict[tuple[int, int], list[float]]] = {}
    for row in read(root):
        if row["data"] == NARROW_TASK:
            share = float(row["student"]) / float(row["teacher"])
            which = int(row["recipe"]), int(row["steps"])
            found.setdefault(row["variant"], {}).setdefault(which, []).append(share)
    return {variant: mean(runs[max(runs)]) for variant, runs in found.items()}


def table(root: Path) -> str:
    """All rows, and how far agreement and mAP rank the networks alike."""
    rows: list[tuple[str, ...]] = [
        ("variant", "data, px", "pictures", "steps", "seed", "recipe", "agreement at the start", "at the end",
         "the teacher's", "mAP50-95 of the teacher", "of the student", "kept")
    ]  # fmt: skip
    for row in read(root):
        setting = (row[name] for name in ("pictures", "steps", "seed", "recipe"))
        scores = (f"{float(row[name]):.3f}" for name in SCORES)
        share = float(row["student"]) / float(row["teacher"])
        place = f"{row['data']}, {row['imgsz']}"
        rows.append((f"`{row['variant']}`", place, *setting, *scores, f"{share:.1%}"))
    return f"{markdown_table(rows, 'll' + 'r' * 10)}\n\n{ranks(root)}"


def ranks(root: Path) -> str:
    """A sentence with the rank correlation (Spearman) of agreement and share kept, by data set and setting.

    Ranked are networks that learnt from the same for as long, by one recipe: more steps bring more of both.
    """
    import pandas as pd

    runs = pd.DataFrame(read(root)).astype(dict.fromkeys(SCORES, float))
    runs["share"] = runs["student"] / runs["teacher"]
    found = []
    for (data, *_, recipe, steps), some in runs.groupby(["data", "imgsz", "pictures", "recipe", "steps"]):
        if len(some) >= FEWEST_RANKED and some["variant"].nunique() > 1:
            of_ranks = some["end"].rank().corr(some["share"].rank())
            found.append(
                f"{of_ranks:.2f} over {len(some)} runs of {steps} steps on {data} by recipe {recipe}"
            )
    return f"Rank correlation of agreement at the end and share kept: {', '.join(found) or 'too few runs'}."
