"""Helpers that let reading, computing and writing overlap: prefetching, a parallel map, a job queue."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Shelf:
    """What `prefetch`'s two threads share."""

    def __init__(self) -> None:
        self.items: deque[tuple[object, int]] = deque()
        self.held = 0  # cost of all that lies on the shelf
        self.finished = False
        self.abandoned = False
        self.error: BaseException | None = None
        self.changed = threading.Condition()


def prefetch(
    items: Iterable[Item], *, budget: int, cost: Callable[[Item], int] = lambda item: 1
) -> Generator[Item, None, None]:
    """Iterate over `items` in a thread of its own, ahead of the consumer.

    Args:
        items: its errors are raised here, after the items that came before them.
        budget: reading pauses while the items that wait cost this much or more; one may always wait.
        cost: what an item costs, for example its bytes.

    Reading begins with the call, not with the first `next`.
    """
    shelf = _Shelf()
    threading.Thread(target=_fill, args=(shelf, items, budget, cost), daemon=True, name="prefetch").start()
    return _drain(shelf)


def _fill(shelf: _Shelf, items: Iterable[Item], budget: int, cost: Callable[[Item], int]) -> None:
    try:
        for item in items:
            price = cost(item)
            with shelf.changed:
                shelf.changed.wait_for(lambda: shelf.abandoned or not shelf.items or shelf.held < budget)
                if shelf.abandoned:
                    return
                shelf.items.append((item, price))
                shelf.held += price
                shelf.changed.notify_all()
    except BaseException as error:  # handed to the consumer, who raises it
        shelf.error = error
    finally:
        with shelf.changed:
            shelf.finished = True
            shelf.changed.notify_all()


def _drain(shelf: _Shelf) -> Generator[Item, None, None]:
    try:
        while True:
            with shelf.changed:
                shelf.changed.wait_for(lambda: shelf.items or shelf.finished)
                if not shelf.items:
                    break
                item, price = shelf.items.popleft()
                shelf.held -= price
                shelf.changed.notify_all()
            yield item  # type: ignore[misc]
        if shelf.error is not None:
            raise shelf.error
    finally:
        with shelf.changed:
            shelf.abandoned = True
            shelf.changed.notify_all()


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
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        self._raise_error()

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
