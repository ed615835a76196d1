"""Ctrl-C and SIGTERM as a request that a loop honours at its next safe point."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Context in which the first SIGINT or SIGTERM only sets `requested`; a second SIGINT interrupts at once.

    Attributes:
        requested: the number of the signal that came, or 0.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = 0

    def __enter__(self) -> StopRequest:
        self._previous = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def exit_status(self) -> int:
        """What shells expect of a process that ended because of the signal: 128 + its number.

        A process that stops because another one was signalled counts as terminated.
        """
        return 128 + (self.requested or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = number


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """Context in which SIGTERM ends the process by an exception, as Ctrl-C does: temporary files go."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # handlers are the main thread's
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
