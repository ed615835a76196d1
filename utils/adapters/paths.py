"""Finding files and numbering places with YOLOv5's names."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError
from utils.files import ROOT, find_file


def increment_path(path: str | Path, exist_ok: bool = False, sep: str = "", mkdir: bool = False) -> Path:
    """The path itself, or with the first number from 2 on that makes it new; with `mkdir` the folder is made.

    Two programs that ask at the same time may get one answer; `utils.files.increment_path` makes the folder
    in the same step.
    """
    path = Path(path)
    stem, suffix = (path.stem, path.suffix) if not path.is_dir() else (path.name, "")
    numbered = (path.with_name(f"{stem}{sep}{number}{suffix}") for number in itertools.count(2))
    places = itertools.chain([path], numbered)
    free = path if exist_ok else next(place for place in places if not place.exists())
    if mkdir:
        free.mkdir(parents=True, exist_ok=True)
    return free


def check_file(file: str | Path, suffix: str | Sequence[str] = "") -> str:
    """A file as given or found in the project's folders; nothing is downloaded.

    Args:
        suffix: what the name has to end in, or several such ends.

    Raises:
        UserError: another suffix, or nothing is there; the message proposes the nearest names.
    """
    ends = [suffix] if isinstance(suffix, str) else list(suffix)
    if str(file) and ends and not str(file).lower().endswith(tuple(end.lower() for end in ends)):
        raise UserError(f"file '{file}' must end in {' or '.join(ends)}")
    return str(find_file(file, (ROOT, ROOT / "data", ROOT / "models"))) if str(file) else ""
