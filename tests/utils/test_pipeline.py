from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from utils import pipeline
from utils.pipeline import JobQueue, Prefetch, ordered_map, outcome, thread_pool


def test_prefetch_keeps_order_and_ends() -> None:
    assert list(Prefetch(range(100), budget=3)) == list(range(100))


def test_prefetch_begins_before_the_first_next() -> None:
    started = threading.Event()

    def items() -> Iterator[int]:
        started.set()
        yield 1

    stream = Prefetch(items(), budget=1)
    assert started.wait(5)
    assert list(stream) == [1]


def test_prefetch_reads_ahead_as_far_as_the_budget() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(50):
            read.append(number)
            yield number

    stream = Prefetch(items(), budget=30, cost=lambda item: 10)
    deadline = time.monotonic() + 5
    while len(read) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert len(read) == 4  # three on the shelf cost 30, the fourth waits in the reader's hand
    assert list(stream) == list(range(50))


def test_an_item_above_the_budget_still_passes() -> None:
    assert list(Prefetch([1, 2, 3], budget=1, cost=lambda item: 100)) == [1, 2, 3]


def test_prefetch_raises_after_what_came_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    stream = Prefetch(items(), budget=10)
    assert next(stream) == 1
    with pytest.raises(KeyError, match="broken"):
        next(stream)


def test_a_closed_prefetch_stops_its_reader() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for number in range(10_000):
            read.append(number)
            yield number

    stream = Prefetch(items(), budget=2)
    next(stream)
    stream.close()
    time.sleep(0.05)
    count = len(read)
    assert count < 10
    time.sleep(0.05)
    assert len(read) == count


def test_ordered_map_keeps_the_order_whatever_finishes_first() -> None:
    def slow_start(number: int) -> int:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return number * number

    with ThreadPoolExecutor(3) as pool:
        assert list(ordered_map(pool, slow_start, range(20), depth=6)) == [n * n for n in range(20)]
        assert list(ordered_map(pool, slow_start, [], depth=6)) == []


def test_ordered_map_works_side_by_side_and_takes_few_items_ahead() -> None:
    together = threading.Barrier(2, timeout=5)  # breaks unless two are in it at once
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda number: together.wait() * 0 + number, items(), depth=4)
        assert next(results) == 0 and len(taken) == 4
        results.close()
        assert len(taken) == 4


def test_a_closed_ordered_map_cancels_what_has_not_begun() -> None:
    done: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        results = ordered_map(pool, lambda n: (time.sleep(0.05), done.append(n)), range(100), depth=20)
        next(results)
        results.close()
    assert len(done) <= 3


def test_ordered_map_raises_an_error_in_its_place() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = ordered_map(pool, lambda number: 6 // (3 - number), range(5), depth=4)
        assert [next(results), next(results), next(results)] == [2, 3, 6]
        with pytest.raises(ZeroDivisionError):
            next(results)


def test_jobs_run_in_order_and_close_waits() -> None:
    done: list[int] = []
    with JobQueue(depth=2) as jobs:
        for number in range(20):
            jobs.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    assert done == list(range(20))


def test_a_job_error_surfaces_and_later_jobs_are_dropped() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), JobQueue() as jobs:
        jobs.submit(fail)
        while True:  # until the error comes back
            jobs.submit(lambda: done.append(1))
            time.sleep(0.001)
    assert not done


def test_the_error_of_the_block_wins_and_jobs_are_still_done() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt), JobQueue() as jobs:
        jobs.submit(lambda: done.append(1))
        raise KeyboardInterrupt
    assert done == [1]


def test_a_queue_of_one_waits_for_the_job_before() -> None:
    running, done, prepared = threading.Event(), [], []

    def slow() -> None:
        running.set()
        time.sleep(0.05)
        done.append(1)

    with JobQueue(depth=1, initializer=lambda: prepared.append(threading.current_thread())) as jobs:
        jobs.submit(slow)
        assert running.wait(5) and not done
        jobs.submit(lambda: done.append(2))
        assert done[0] == 1
    assert done == [1, 2] and len(prepared) == 1 and prepared[0] is not threading.current_thread()


def test_an_error_is_raised_once_and_ends_the_work() -> None:
    done: list[int] = []
    both = threading.Event()
    jobs = JobQueue()
    jobs.submit(lambda: 1 // (not both.wait(5)))
    jobs.submit(lambda: done.append(1))
    both.set()
    with pytest.raises(ZeroDivisionError):
        jobs.close()
    jobs.close()
    assert not done


def test_a_second_interrupt_drops_what_waits_and_ends_the_job_at_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[int] = []
    jobs = JobQueue()
    started = threading.Event()

    def slow() -> None:
        started.set()
        time.sleep(0.1)
        done.append(1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    jobs.submit(slow)
    jobs.submit(lambda: done.append(2))
    assert started.wait(5)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("concurrent.futures.Future.result", interrupted)
        jobs.close()
    assert done == [1]


def test_a_prefetch_that_was_never_iterated_ends_with_its_block() -> None:
    started, threads = threading.Event(), threading.active_count()

    def items() -> Iterator[int]:
        while True:
            started.set()
            yield 1

    with pytest.raises(KeyError), contextlib.closing(Prefetch(items(), budget=1)):
        started.wait()
        raise KeyError("the consumer fails first")
    assert threading.active_count() == threads


def test_a_closed_prefetch_gives_nothing() -> None:
    stream = Prefetch([1, 2, 3], budget=10)
    stream.close()
    assert list(stream) == []


def test_a_reader_that_waits_without_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "LONGEST_CLOSE", 0.05)
    answer = threading.Event()

    def never() -> Iterator[int]:
        answer.wait()
        yield 1

    started = time.monotonic()
    Prefetch(never(), budget=1).close()
    assert time.monotonic() - started < 30  # it would have waited for ever
    answer.set()


def test_a_pool_of_threads_drops_what_has_not_begun() -> None:
    done: list[int] = []
    begun, go = threading.Event(), threading.Event()

    def work(number: int) -> None:
        begun.set()
        go.wait()
        done.append(number)

    with pytest.raises(KeyboardInterrupt), thread_pool(1) as pool:
        for number in range(5):
            pool.submit(work, number)
        begun.wait()
        go.set()
        raise KeyboardInterrupt
    assert len(done) < 5


def test_dropped_jobs_do_not_run() -> None:
    go, done = threading.Event(), []
    queue = JobQueue()
    queue.submit(go.wait)
    queue.submit(lambda: done.append(1))
    queue.drop()
    go.set()
    queue.close()
    assert not done


def test_a_jobs_own_timeout_is_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "GLANCE", 0.01)

    def late() -> None:
        time.sleep(0.05)
        raise TimeoutError("of the job")

    with thread_pool(1) as pool, pytest.raises(TimeoutError, match="of the job"):
        outcome(pool.submit(late))
