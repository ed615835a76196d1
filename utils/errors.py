"""The one kind of error that a user is meant to read, and how commands end on it."""

from __future__ import annotations

import errno
import io
import sys
import unicodedata
from collections.abc import Callable
from typing import NoReturn

from utils.interrupt import Watch

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HEAD, TAIL = 1000, 500  # letters of a message that are shown: it begins with the place and ends with the cure


class UserError(ValueError):
    """Something the user can mend: the message is one line that says what, where and what to do."""

    status = 2  # with which a command ends


class Incomplete(UserError):
    """The work is done but for a part, which the message counts."""

    status = 1


def run_command(main: Callable[[], object]) -> NoReturn:
    """Run a command's `main` and end the process: status 0, 1 when a part of the work was not possible, 2
    after a user's fault, 128 + the number of the signal that stopped it: 130 after Ctrl-C, 143 after SIGTERM.

    A `UserError` or an `OSError` (missing file, no permission, disk full) ends with one line on stderr. Any
    other exception is a defect of ours and keeps its traceback. What the console's encoding lacks is shown by
    its number, and so are the bytes of file names that are no text.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not when it is closed
            stream.reconfigure(errors="backslashreplace")
    watch, status, message = Watch(), 0, ""
    watch.begin()
    try:
        status, message = _outcome(main)
    except (Exception, SystemExit):
        if not watch.number:
            raise
    finally:
        watch.end()
    if watch.number:  # whatever a library has made of it
        status, message = 128 + watch.number, "interrupted"
    if message:
        print(message, file=sys.stderr)
    sys.exit(status)


def one_line(text: str) -> str:
    """A message as the console shows it.

    What a file or a name brings into it breaks no line, is no command to a terminal and fills no screen.
    """
    line = " ".join(text.split())
    if len(line) > HEAD + TAIL:
        line = f"{line[:HEAD]}…{line[-TAIL:]}"
    return "".join("?" if unicodedata.category(letter) == "Cc" else letter for letter in line)


def _outcome(main: Callable[[], object]) -> tuple[int, str]:
    """The status with which a command ends, and the line that says why."""
    try:
        main()
    except UserError as error:
        return error.status, one_line(f"error: {error}")
    except OSError as error:
        # of two files the second one is written
        full, place = error.errno in FULL, error.filename
        place = (error.filename2 or place) if full else place
        place = f"{place}: " if place else ""
        advice = "; free some space, nothing was overwritten" if full else ""
        return 2, one_line(f"error: {place}{error.strerror or error}{advice}")
    except KeyboardInterrupt:
        return 130, "interrupted"
    return 0, ""
