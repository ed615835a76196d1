"""Pages that commands write: they replace their own and nobody else's."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from utils.errors import UserError

HEAD = 1000  # bytes among which the mark of a page stands


def check_page(path: Path, mark: str, flag: str, beside: Sequence[Path] = ()) -> None:
    """Make the folder of a page, and refuse to replace what someone else wrote.

    Args:
        mark: a text near the beginning of every page that the command writes.
        flag: that names the page.
        beside: other files that are written with it.

    Raises:
        OSError: nothing can be written to the folder.
        UserError: the page, or a file beside it, is there and the page does not have the mark.
    """
    own = path.is_file() and mark.encode() in path.read_bytes()[:HEAD]
    foreign = [file for file in (path, *beside) if file.exists()]
    if foreign and not own:
        raise UserError(
            f"{flag}: {foreign[0]} was not written by this command; choose another name, or remove it"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):  # before hours are spent on what cannot be written
        pass


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines for a console."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def escaped(cells: Sequence[str]) -> list[str]:
    """The cells of a row of a Markdown table."""
    return [cell.replace("|", "\\|") for cell in cells]
