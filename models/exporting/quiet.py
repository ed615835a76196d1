"""Silence for converters, which tell whoever runs them about themselves."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing is heard of what runs inside: no warning, message, progress bar or print, not even C++'s."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            _standard_output_to_nowhere(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextlib.contextmanager
def _standard_output_to_nowhere() -> Iterator[None]:
    """What does not go through Python: before an error, torch prints the whole graph there."""
    if sys.stdout is None:  # it is closed, and its number may be that of another file
        yield
        return
    sys.stdout.flush()
    before = os.dup(1)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)
