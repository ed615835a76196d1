"""The one kind of error that a user is meant to read, and how commands end on it."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable
from typing import NoReturn

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(ValueError):
    """Something the user can mend: the message is one line that says what, where and what to do."""

    status = 2  # with which a command ends


class Incomplete(UserError):
    """The work is done but for a part, which the message counts."""

    status = 1


def run_command(main: Callable[[], object]) -> NoReturn:
    """Run a command's `main` and end the process: status 0, 1 when a part of the work was not possible, 2
    after a user's fault, 130 after Ctrl-C.

    A `UserError` or an `OSError` (missing file, no permission, disk full) ends with one line on stderr. Any
    other exception is a defect of ours and keeps its traceback. What the console's encoding lacks is shown by
    its number, and so are the bytes of file names that are no text.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not when it is closed
            stream.reconfigure(errors="backslashreplace")
    try:
        main()
    except UserError as error:
        _fail(" ".join(str(error).split()), error.status)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        advice = "; free some space, nothing was overwritten" if error.errno in FULL else ""
        _fail(f"{place}{error.strerror or error}{advice}")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _fail(message: str, status: int = 2) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)
