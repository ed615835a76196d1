"""Fixtures of the tests of benchmark.py."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def messages_go_where_they_went() -> Iterator[None]:
    """Undo what a command does to the loggers when it sets up the console, for the tests after it."""
    loggers = [logging.getLogger(name) for name in ("lean5", "models", "utils")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before):
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
