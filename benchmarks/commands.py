"""Command lines: of a configuration, as a page shows them, and as one types them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence

from utils.flags import CommandConfig, option

WIDTH = 100  # columns of a command


def arguments(config: CommandConfig, leave_out: Sequence[str] = ()) -> list[str]:
    """The command line that makes `config`: a flag for every value that is not the default.

    Args:
        leave_out: fields without a flag.
    """
    words: list[str] = []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # every subclass is a dataclass
        value = getattr(config, field.name)
        if value != field.default and field.name not in leave_out:
            values = value if isinstance(value, tuple) else () if value is True else (value,)
            words += [option(field), *map(str, values)]
    return words


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
