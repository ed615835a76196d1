"""The folder of a training run: what lies where in it, the record of its epochs, and the newest one.

Its number, exp2 after exp, comes from `utils.files.increment_path`, as for `val.py` and `detect.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError
from utils.files import increment_path, newest, write_text

RESULT_COLUMNS = (
    "epoch", "train/box_loss", "train/obj_loss", "train/cls_loss", "metrics/precision", "metrics/recall",
    "metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "val/box_loss", "val/obj_loss", "val/cls_loss",
    "x/lr0", "x/lr1", "x/lr2",
)  # fmt: skip
JOB = (
    ".torchrun"  # the file in a run's folder that names the job of torchrun, by which it knows its run again
)
TEACHER_COLUMN = "train/teacher_error"  # the last one, of runs with a teacher


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps what; `root` exists."""

    root: Path

    @classmethod
    def create(cls, project: str, name: str, exist_ok: bool, job: str = "") -> RunFolder:
        """A new folder `project/name`, numbered when that is taken, with its `weights` folder.

        Args:
            job: how `torchrun` calls it, for `of_job`.

        Raises:
            UserError: it cannot be created.
        """
        run = cls(increment_path(Path(project) / name, exist_ok))
        run.last.parent.mkdir(exist_ok=True)
        if job:
            write_text(run.root / JOB, job)
        return run

    @contextmanager
    def unless_refused(self) -> Iterator[None]:
        """Context in which a `UserError` takes this folder back, and those of generations, while empty."""
        try:
            yield
        except UserError:
            inner = (self.root.glob(each) for each in ("generation*/weights", "generation*", "weights"))
            for folder in (*itertools.chain(*inner), self.root):
                with suppress(OSError):  # it holds something
                    folder.rmdir()
            raise

    @classmethod
    def of_job(cls, project: str, job: str) -> RunFolder | None:
        """The newest folder in `project` that was created for a job."""
        marks = [mark for mark in Path(project).glob(f"*/{JOB}") if mark.read_text(encoding="utf-8") == job]
        newest = max(marks, key=lambda mark: mark.stat().st_mtime, default=None)
        return None if newest is None else cls(newest.parent)

    @property
    def last(self) -> Path:
        return self.root / "weights" / "last.pt"

    @property
    def best(self) -> Path:
        return self.root / "weights" / "best.pt"

    @property
    def teacher(self) -> Path:
        """The network that the one of this run learns from, as it was when the run began."""
        return self.root / "weights" / "teacher.pt"

    @property
    def model(self) -> Path:
        """The description of a network into which blocks were put, as `--cfg` takes it."""
        return self.root / "model.yaml"

    @property
    def results(self) -> Path:
        return self.root / "results.csv"

    def write_yaml(self, name: str, content: dict[str, Any]) -> None:
        """Write plain values as `name`, in the order given."""
        write_text(self.root / name, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def newest_checkpoint(project: Path) -> Path:
    """The last.pt of the run below `project` that was written to most recently.

    Raises:
        UserError: there is none.
    """
    found = newest(project, "**/last.pt")
    if found is None:
        other = newest(project.parent, "*/*/weights/last.pt") or Path("runs/train/exp/weights/last.pt")
        raise UserError(f"--resume: no last.pt below '{project}'; name one, as in --resume {other}")
    return found


def write_results(
    path: Path, rows: Sequence[Sequence[float]], columns: Sequence[str] = RESULT_COLUMNS
) -> None:
    """Write `results.csv` whole: a resumed run rewrites it, so that no epoch is missing or there twice."""
    lines = [columns, *((f"{row[0]:.0f}", *(f"{value:.6g}" for value in row[1:])) for row in rows)]
    write_text(path, "".join(f"{','.join(line)}\n" for line in lines))
