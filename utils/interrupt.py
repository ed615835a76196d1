"""Ctrl-C, SIGTERM and their kin: a command ends by an exception or at its next safe point, and within seconds
in any case.

A handler in Python runs when the main thread is back from the call it is in. A file system that does not
answer or a library that computes may keep it, so a thread waits as well: what has not ended in `PATIENCE`
seconds is cut off, after temporary files have been removed and child processes have been told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

Item = TypeVar("Item")

# SIGHUP: the terminal has gone; SIGBREAK: Ctrl-Break on Windows
STOPPING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
PATIENCE = 3.0  # seconds from the first signal to the end by force
AGAIN, MOMENT = 255, 0.02  # what stands for a lost exception; seconds until it is raised again
# the environment of a command that ends, as by SIGTERM, with the process that holds its standard input
LEASHED = {"LEAN5_LEASHED": "1"}
CLEANING = 1.5  # seconds that saving and removing temporary files may take then: the disk may be what hangs

_clean_ups: dict[object, Callable[[], object]] = {}
_cleaner = 0  # the thread that calls them, once the process is ended by force


class Stopped(BaseException):
    """A signal came to a `StopRequest` during work that can be done again."""


class StopRequest:
    """Context in which the first signal only sets `requested`; a second SIGINT interrupts at once.

    Attributes:
        requested: the number of the signal that came, or 0.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._raising = False

    def __enter__(self) -> StopRequest:
        # `nohup` ignores SIGHUP, and means it; a script ignores SIGINT for whatever it starts with `&`
        hears = [n for n in STOPPING if n == signal.SIGINT or signal.getsignal(n) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._note) for number in hears}
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

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Context of work that can be done again: a signal ends it at once by `Stopped`."""
        self._raising = True
        try:
            self._check()
            yield
            self._check()  # an exception may get lost, in a `__del__` for example
        finally:
            self._raising = False

    def awaiting(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; a signal ends the waiting for the next one by `Stopped`."""
        source = iter(items)
        while True:
            with self.raising():
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item

    def _check(self) -> None:
        if self.requested:
            raise Stopped

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = number
        if self._raising:
            raise Stopped


class Watch:
    """Ends a command on a signal: by an exception in the main thread, and by force when that does not do.

    The exception is KeyboardInterrupt for SIGINT, SystemExit for the others, and it is raised once, so that
    further signals do not disturb the cleaning up; again only where it got lost, as in a `__del__` or another
    callback. A `StopRequest` may stand in for it.

    Attributes:
        number: the number of the signal that has raised, or 0.
    """

    def __init__(self) -> None:
        self.number = 0
        self._handled: list[int] = []

    def begin(self) -> None:
        """Listen until the process ends. A signal that is ignored stays so (`nohup`, `&` in scripts)."""
        if threading.current_thread() is not threading.main_thread():
            return  # handlers are the main thread's
        for number in STOPPING:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._raise)
                self._handled.append(number)
        self._told, self._tell = socket.socketpair()
        self._tell.setblocking(False)
        # whatever the main thread is doing, the number of the signal is written there at once
        signal.set_wakeup_fd(self._tell.fileno(), warn_on_full_buffer=False)
        self._unraisable, sys.unraisablehook = sys.unraisablehook, self._lost
        threading.Thread(target=self._wait, daemon=True, name="signals").start()
        if os.environ.items() >= LEASHED.items():
            threading.Thread(target=_end_with_input, daemon=True, name="leash").start()

    def end(self) -> None:
        """Nothing is left to be cleaned up: from now on a signal ends the process as it is."""
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number = number
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _lost(self, what: sys.UnraisableHookArgs) -> None:
        if self.number and issubclass(what.exc_type, (KeyboardInterrupt, SystemExit)):
            self._tell.send(bytes([AGAIN]))  # by the thread, when this callback is done
        else:
            self._unraisable(what)

    def _wait(self) -> None:
        number = 0
        with contextlib.suppress(TimeoutError):
            while True:
                told = self._told.recv(1)[0]
                if told in STOPPING and not number:
                    number, end = told, time.monotonic() + PATIENCE
                elif told == AGAIN:
                    time.sleep(MOMENT)
                    lost, self.number = self.number, 0
                    _signal_main_thread(lost)
                if number:
                    self._told.settimeout(max(end - time.monotonic(), MOMENT))
        cleaning = threading.Thread(target=_cut_off, daemon=True)
        cleaning.start()
        cleaning.join(CLEANING)
        os._exit(128 + number)


@contextmanager
def on_cut_off(clean: Callable[[], object]) -> Iterator[None]:
    """Context in which `clean` is called, by another thread, before the process is ended by force.

    Once that has begun no other thread enters any more: what it left then would stay.
    """
    if _cleaner not in (0, threading.get_ident()):
        time.sleep(2 * CLEANING)  # which nobody survives
    key = object()
    _clean_ups[key] = clean
    try:
        yield
    finally:
        del _clean_ups[key]


def _end_with_input() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    _signal_main_thread(signal.SIGTERM)


def _signal_main_thread(number: int) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)  # also ends a system call that it is in
    else:
        signal.raise_signal(number)


def _cut_off() -> None:
    global _cleaner
    _cleaner = threading.get_ident()
    for clean in reversed(list(_clean_ups.values())):
        with contextlib.suppress(Exception):  # each has its chance
            clean()
    line = f"cut off: what was under way did not end within {PATIENCE:g} s; files are as they were before\n"
    with contextlib.suppress(OSError):
        os.write(2, line.encode())


def run_child(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """`subprocess.run`; the child ends with this process when a signal comes.

    Its standard input is a pipe that closes when this process ends, in whatever way.
    """
    with subprocess.Popen(command, stdin=subprocess.PIPE, **options) as process, on_cut_off(process.kill):
        # communicate() would close the pipe at once
        pipe, process.stdin = process.stdin, None
        try:
            output = process.communicate()
        except BaseException:
            process.kill()
            raise
        finally:
            process.stdin = pipe
    return subprocess.CompletedProcess(command, process.returncode, *output)


def quiet_until_watched() -> None:
    """Let Ctrl-C end the process without a traceback while it loads its packages."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
