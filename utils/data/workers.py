"""Worker processes: forked from a server that has no threads, and gone when their parent is.

A fork of a process with threads copies locks that nobody will release. So where the system can fork, workers
come from Python's fork server, which is a fresh process; elsewhere they start from nothing (`spawn`).
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import cv2

from utils.files import temporary_folder
from utils.interrupt import STOPPING

Result = TypeVar("Result")

PRELOADED = ["cv2", "numpy", "yaml", "tqdm"]  # packages that workers need; they do without torch
LAST_JOBS = 1.0  # seconds in which processes that are not needed any more may finish what they are at
BLAS = "OPENBLAS_NUM_THREADS"  # NumPy would start threads when it is imported


def context() -> BaseContext:
    """How workers are started on this system."""
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if forks else "spawn")


def start_server() -> None:
    """Let the fork server load its packages while other work goes on; where there is none, do nothing.

    The signals by which a group of processes is stopped are blocked in it: its end, and that of the workers,
    is up to this process, which first saves where it is.
    """
    if context().get_start_method() == "forkserver":
        from multiprocessing import forkserver, resource_tracker  # not on Windows

        _keep_files_together()
        forkserver.set_forkserver_preload(PRELOADED)
        before = os.environ.get(BLAS)
        os.environ[BLAS] = "1"
        resource_tracker.ensure_running()  # by itself the server starts it, which unblocks the signals
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        try:
            forkserver.ensure_running()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.environ.pop(BLAS) if before is None else os.environ.update({BLAS: before})


@functools.cache
def _keep_files_together() -> None:
    """Let Python put the sockets and files that processes share into a folder of ours until this one ends.

    Its own folder would stay after a kill; ours is removed when one is made the next time.
    """
    stack, before = contextlib.ExitStack(), tempfile.tempdir
    tempfile.tempdir = str(stack.enter_context(temporary_folder()))
    try:
        multiprocessing.util.get_temp_dir()  # made now, and used from now on
    finally:
        tempfile.tempdir = before
    # after that of Python, which has -100
    multiprocessing.util.Finalize(None, stack.close, exitpriority=-200)


class WorkerPool(ProcessPoolExecutor):
    """Processes that run functions of this project; they start when the first jobs come.

    A job's result raises `BrokenProcessPool` when a process has died.

    Args:
        workers: how many, at most.
        prepare: called once in each of them with `arguments`, which may hold `SharedArray`s.
    """

    def __init__(self, workers: int, prepare: Callable[..., object] | None = None, *arguments: Any) -> None:
        start_server()
        super().__init__(workers, context(), _begin, (prepare, *arguments))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As of any pool; with `cancel_futures`, a process that does not end by itself is killed.

        It may wait for a disk that does not answer, and the result is not wanted.
        """
        manager: Any = self._executor_manager_thread
        processes = list((self._processes or {}).values())
        super().shutdown(wait=wait and not cancel_futures, cancel_futures=cancel_futures)
        if wait and cancel_futures and manager is not None:
            manager.join(LAST_JOBS)
            if manager.is_alive():
                for process in processes:
                    process.kill()
                manager.join(LAST_JOBS)

    def submit(self, function: Callable[..., Result], /, *args: Any, **kwargs: Any) -> Future[Result]:
        with _nameless_program():
            return super().submit(function, *args, **kwargs)


@contextlib.contextmanager
def _nameless_program() -> Iterator[None]:
    """Keep a new process from running the program that starts it once more, as Python would have it.

    A worker needs nothing of it; and a script without `if __name__ == "__main__"` would start itself again.
    """
    program = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program


def _begin(prepare: Callable[..., object] | None, *arguments: Any) -> None:
    """One thread each, deaf to Ctrl-C and to signals for the whole group: their end is up to the parent."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
        for number in STOPPING:
            before = signal.signal(number, signal.SIG_IGN)  # forgets one that came for the group meanwhile
            signal.signal(number, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # one that is named can be ended
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)


def _end_with_parent() -> None:
    """A parent that was killed can tell nobody; a worker that waits for its next job would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
