"""Pages that commands write: templates of `templates/`, tables for a page or a console, and commands on them.

A command replaces its own pages and nobody else's: it knows them by the mark near the top, the line of the
template that begins with `<!-- Written by`.
"""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from utils.data.report import counted
from utils.errors import UserError
from utils.flags import CommandConfig, arguments

TEMPLATES = Path(__file__).with_name("templates")
HEAD = 1000  # bytes among which the mark of a page stands
WIDTH = 100  # columns of a command


def render(template: str, folder: Path = TEMPLATES, /, **values: Any) -> str:
    """A template filled in; what comes into HTML is escaped. One of another folder may include ours."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, TEMPLATES]),
        autoescape=jinja2.select_autoescape(("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(bare=bare, shell=shell, markdown=markdown_table, counted=counted)
    return environment.get_template(template).render(values)


def mark_of(template: str) -> str:
    """The line by which a command knows the pages that it made from a template."""
    lines = (TEMPLATES / template).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("<!-- Written by"))


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


def markdown_table(rows: Sequence[Sequence[str]], align: str) -> str:
    """A table in Markdown; the first row has the titles, `align` a letter l or r for each column."""
    rule = [":---" if side == "l" else "---:" for side in align]
    lines = ([cell.replace("|", "\\|") for cell in row] for row in (rows[0], rule, *rows[1:]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def console_table(rows: Sequence[Sequence[str]], align: str) -> str:
    """The same for a console."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    pad = {"l": str.ljust, "r": str.rjust}
    return "\n".join(
        "  ".join(pad[side](cell, width) for cell, width, side in zip(row, widths, align)).rstrip()
        for row in rows
    )


def command_line(subcommand: str, config: CommandConfig) -> tuple[str, ...]:
    """The call of `benchmark.py` that made a page, without the folders of this machine."""
    return ("python", "benchmark.py", subcommand, *map(bare, arguments(config)))


def bare(path: str) -> str:
    """A path as it was typed; of an absolute one, which says where someone keeps files, only the name."""
    absolute = path.startswith(("/", "~", "\\")) or path[1:2] == ":"
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2] if absolute else path


def shell(words: Sequence[str]) -> str:
    """A command as one types it, continued on the next line where it is long, if possible before a flag."""
    lines: list[str] = []
    for word in map(shlex.quote, words):
        room = WIDTH - (30 if word.startswith("--") else 0)  # for what belongs to the flag
        if lines and len(lines[-1]) + len(word) < room:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}" if lines else word)
    return " \\\n".join(lines)
