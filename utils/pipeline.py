"""Helpers that let reading, computing and writing overlap: prefetching, a parallel map, a job queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Unfinished
from contextlib import contextmanager
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

GLANCE = 0.5  # seconds after which a wait looks up: on Windows a signal is noticed between two waits only
LONGEST_CLOSE = 10.0  # seconds that a reader may still be at its last item


@contextmanager
def thread_pool(
    threads: int | None, initializer: Callable[[], object] | None = None
) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what has not begun when its block ends, and waits for the rest."""
    pool = ThreadPoolExecutor(threads, initializer=initializer)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def outcome(job: Future[Result]) -> Result:
    """A job's result, or its error; a signal ends the waiting on every system."""
    while True:
        try:
            return job.result(GLANCE)
        except Unfinished:
            if job.done():  # its own error, or it has just ended
                return job.result()


def wait_until(changed: threading.Condition, condition: Callable[[], object]) -> None:
    """Wait until a condition holds that others tell of by `changed`; a signal ends the waiting."""
    while not changed.wait_for(condition, GLANCE):
        pass


class Prefetch(Generic[Item]):
    """Iterates over `items` in a thread of its own, ahead of the consumer.

    Reading begins with the construction, not with the first `next`. It has to be closed in any case: a thread
    that is still inside a C library when the interpreter ends would abort the process.

    Args:
        items: its errors are raised by `next`, after the items that came before them.
        budget: reading pauses while the items that wait cost this much or more; one may always wait.
        cost: what an item costs, for example its bytes.
    """

    def __init__(
        self, items: Iterable[Item], *, budget: int, cost: Callable[[Item], int] = lambda item: 1
    ) -> None:
        self._budget, self._cost = budget, cost
        self._waiting: deque[tuple[Item, int]] = deque()
        self._held = 0  # cost of all that waits
        self._ended = False  # nothing more will come: the items are at their end, or `close` was called
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(items,), daemon=True, name="prefetch")
        self._thread.start()

    def __iter__(self) -> Prefetch[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            wait_until(self._changed, lambda: self._waiting or self._ended)
            if self._waiting:
                item, price = self._waiting.popleft()
                self._held -= price
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        raise error or StopIteration

    def close(self) -> None:
        """Stop reading and wait for the thread, which first finishes the item that it is at.

        A thread that waits for a disk or a pipe without an answer is left behind.
        """
        with self._changed:
            self._ended = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(LONGEST_CLOSE)
        self._error = None

    def _read(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                price = self._cost(item)
                with self._changed:
                    self._changed.wait_for(
                        lambda: self._ended or not self._waiting or self._held < self._budget
                    )
                    if self._ended:
                        return
                    self._waiting.append((item, price))
                    self._held += price
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the consumer raises it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


def ordered_map(
    pool: Executor, function: Callable[[Item], Result], items: Iterable[Item], *, depth: int
) -> Generator[Result, None, None]:
    """`map` in a pool; results come in the order of the items, an error in its place.

    At most `depth` items are under way at once. What has not begun when the map is closed is cancelled.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= depth:
                yield outcome(pending.popleft())
        while pending:
            yield outcome(pending.popleft())
    finally:
        for job in pending:
            job.cancel()


class JobQueue:
    """Runs jobs in order in one thread, at most `depth` of them unfinished; the place for slow writes.

    A job's error ends the work: later jobs are dropped and the error is raised by the next `submit` or by
    `close`. As a context manager it closes at the end of the block, also after an exception, so that what was
    submitted before a Ctrl-C is still written. `initializer` runs first in the thread.
    """

    def __init__(self, depth: int = 16, initializer: Callable[[], object] | None = None) -> None:
        self._depth = depth
        self._failed = False
        self._jobs: deque[Future[None]] = deque()  # that were submitted and not looked at since
        self._thread = ThreadPoolExecutor(1, "jobs", initializer)

    def submit(self, job: Callable[[], object]) -> None:
        """Queue a job; waits while the queue is full. Raises what an earlier job raised."""
        while self._jobs and (self._jobs[0].done() or len(self._jobs) >= self._depth):
            outcome(self._jobs.popleft())
        self._jobs.append(self._thread.submit(self._run, job))

    def drop(self) -> None:
        """Forget the jobs that have not begun; nothing more is raised."""
        self._failed = True
        self._jobs.clear()

    def close(self) -> None:
        """Wait until all jobs have run, then raise what one of them raised."""
        try:
            while self._jobs:
                outcome(self._jobs.popleft())
        finally:
            self._failed = True  # after an error or a second Ctrl-C: what still waits is dropped
            self._thread.shutdown()

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.close()
        except BaseException:
            if error is None:  # otherwise the block's own error matters more
                raise

    def _run(self, job: Callable[[], object]) -> None:
        if not self._failed:
            try:
                job()
            except BaseException:
                self._failed = True
                raise
