"""What commands say: messages, warnings and progress bars."""

from __future__ import annotations

import logging
import sys
import unicodedata
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

from utils.errors import one_line

LOGGER = logging.getLogger("lean5")
Item = TypeVar("Item")
BREAKING = ("Cc", "Cs", "Zl", "Zp")  # kinds of letters that no line of text has


def setup_console(is_main: bool = True) -> None:
    """Send messages to standard output; processes other than the main one only warn."""
    logging.raiseExceptions = False  # a reader that leaves, as in `| head`, is no reason for a traceback
    LOGGER.handlers[:] = [logging.StreamHandler(sys.stdout)]
    LOGGER.setLevel(logging.INFO if is_main else logging.WARNING)
    LOGGER.propagate = False


def printable(text: str) -> str:
    """A text that can be drawn on a line: without control characters and bytes of names that are none."""
    return "".join("?" if unicodedata.category(letter) in BREAKING else letter for letter in text)


def warn(message: str) -> None:
    """A fault that does not end the run, as one line on stderr."""
    print(one_line(f"warning: {message}"), file=sys.stderr)


def progress(
    items: Iterable[Item],
    title: str,
    *,
    total: int | None = None,
    done: int = 0,
    unit: str = " batches",
    visible: bool | None = None,
) -> tqdm[Item]:
    """A bar over `items` that appears when the work takes longer than a moment.

    Args:
        total: how many there are, when `items` does not know it.
        done: how many of them were done before.
        visible: by default only where the console is a terminal.
    """
    return tqdm(
        items,
        desc=title,
        total=total,
        initial=done,
        unit=unit,
        delay=1,
        leave=False,
        disable=None if visible is None else not visible,
    )


class Tenths:
    """What stands for a bar where the console is no terminal: a line for every tenth of the work.

    Args:
        total: of the work; 0 when nobody knows, and then nothing is printed.
        unit: what is counted.
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, 0

    def update(self, count: int) -> None:
        """That so many more are done."""
        before, self.done = self.done, self.done + count
        if self.total and (tenth := self.done * 10 // self.total) > before * 10 // self.total and tenth <= 10:
            # a pipe would hold it back until there are thousands of letters
            print(f"{self.title}: {tenth * 10} %, {self.done} of {self.total} {self.unit}", flush=True)
