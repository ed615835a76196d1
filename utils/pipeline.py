"""Helpers that let reading, computing and writing overlap: prefetching, a parallel map, a job queue."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Prefetch(Generic[Item]):
    """Iterates over `items` in a thread of its own, ahead of the consumer.

    Reading begins with the construction, not with the first `next`. As a context manager it closes at the end
    of the block: a thread that is still inside a C library when the interpreter ends would abort the process.

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
        self._finished = self._abandoned = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, args=(items,), daemon=True, name="prefetch")
        self._thread.start()

    def __iter__(self) -> Prefetch[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._finished or self._abandoned)
            if self._waiting and not self._abandoned:
                item, price = self._waiting.popleft()
                self._held -= price
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None and not self._abandoned:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop reading and wait for the thread, which first finishes the item that it is at."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        self._thread.join()
        self._waiting.clear()

    def __enter__(self) -> Prefetch[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, items: Iterable[Item]) -> None:
        try:
            for item in items:
                price = self._cost(item)
                with self._changed:
                    self._changed.wait_for(self._may_go_on)
                    if self._abandoned:
                        return
                    self._waiting.append((item, price))
                    self._held += price
                    self._changed.notify_all()
        except BaseException as error:  # handed to the consumer, who raises it
            self._error = error
        finally:
            with self._changed:
                self._finished = True
                self._changed.notify_all()

    def _may_go_on(self) -> bool:
        return self._abandoned or not self._waiting or self._held < self._budget


def ordered_map(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    initializer: Callable[[], object] | None = None,
) -> Generator[Result, None, None]:
    """`map` with `workers` threads at once; results come in the order of the items, an error in its place.

    Twice as many items as workers are taken ahead. `initializer` runs first in each thread.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="worker", initializer=initializer)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


class JobQueue:
    """Runs jobs in order in one thread, at most `depth` waiting; the place for slow writes.

    A job's error ends the work: later jobs are dropped and the error is raised by the next `submit` or by
    `close`. As a context manager it closes at the end of the block, also after an exception, so that what was
    submitted before a Ctrl-C is still written.
    """

    def __init__(self, depth: int = 16) -> None:
        self._jobs: queue.Queue[Callable[[], object] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._failed = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="writer")
        self._thread.start()

    def submit(self, job: Callable[[], object]) -> None:
        """Queue a job; waits while the queue is full. Raises what an earlier job raised."""
        self._raise_error()
        self._jobs.put(job)

    def close(self) -> None:
        """Wait until all jobs have run, then raise what one of them raised."""
        try:
            self._finish()
        except BaseException:  # a second Ctrl-C: what still waits is dropped, the job at work ends
            self._failed = True
            self._finish()
            raise
        self._raise_error()

    def _finish(self) -> None:
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def __enter__(self) -> JobQueue:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BaseException:
            if error is None:  # otherwise the block's own error matters more
                raise

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not self._failed:
                try:
                    job()
                except BaseException as error:  # raised in the submitting thread
                    self._error, self._failed = error, True

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
