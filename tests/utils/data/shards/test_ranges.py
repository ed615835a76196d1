"""Bytes over a network that fails: exactly what was asked for, or one line, and never for ever."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.utils.data.shards.server import serving
from utils.data.shards import ranges
from utils.data.shards.ranges import (
    ATTEMPTS,
    Missing,
    State,
    read_range,
    reading_ahead,
    reading_pool,
    state_of,
)
from utils.errors import UserError

pytest.importorskip("aiohttp")
CONTENT = bytes(range(256)) * 100
PASSING = ("drop", "cut", "longer", "shorter", "other", "500", "502", "503", "429", "408")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(ranges, "PAUSE", 0.001)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "a.tar").write_bytes(CONTENT)
    return tmp_path


def test_a_range_is_what_was_asked_for(root: Path) -> None:
    with serving(root) as server:
        address = f"{server.address}/a.tar"
        assert state_of(address) == State(len(CONTENT), '"1"')
        assert read_range(address, 1000, 5000) == CONTENT[1000:6000]
        assert read_range(address, len(CONTENT) - 3, 3) == CONTENT[-3:]
        assert read_range(address, 7, 0) == b""
        assert server.requests == 3
    assert read_range(str(root / "a.tar"), 1000, 5000) == CONTENT[1000:6000]
    assert state_of(str(root / "a.tar")).size == len(CONTENT)


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_tried_again(kind: str, root: Path) -> None:
    with serving(root, lambda number: kind if number < ATTEMPTS - 1 else "") as server:
        assert read_range(f"{server.address}/a.tar", 1000, 5000) == CONTENT[1000:6000]
        assert server.requests >= ATTEMPTS  # aiohttp asks once more itself where a kept connection has gone


LASTING = {
    **dict.fromkeys(
        ("drop", "cut"), r"cannot get bytes 1,000 to 6,000 of 'http://.*/a.tar': .+ \(5 attempts\)"
    ),
    "longer": "5001 bytes instead of 5000",
    "shorter": "4999 bytes instead of 5000",
    "other": "another part than asked for: 'bytes 1001-6000/25600'",
    "500": "HTTP 500 Internal Server Error",
    "429": "HTTP 429 Too Many Requests",
    "403": "may not be read: HTTP 403 Forbidden",
    "404": r"shard 'http://.*/a.tar' does not exist \(HTTP 404\)",
    "416": "ends before byte 6,000: it has changed",
    "whole": "its server sends the whole file where a part was asked for",
}


@pytest.mark.parametrize("kind", LASTING)
def test_what_lasts_is_one_line(kind: str, root: Path) -> None:
    with serving(root, lambda number: kind) as server:
        with pytest.raises(UserError, match=LASTING[kind]) as caught:
            read_range(f"{server.address}/a.tar", 1000, 5000)
        assert "\n" not in str(caught.value)
        assert server.requests <= 2 * ATTEMPTS


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"cannot get bytes 0 to 10 of 'http://127.0.0.1:9/a.tar'"):
        read_range("http://127.0.0.1:9/a.tar", 0, 10)


@pytest.mark.parametrize("kind", ["hang", "stall"])
def test_silence_has_an_end(kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "SILENCE", 0.1)
    ranges._http_system.cache_clear()
    try:
        with (
            serving(root, lambda number: kind) as server,
            pytest.raises(UserError, match=r"imeout|no answer"),
        ):
            read_range(f"{server.address}/a.tar", 0, 5000)
    finally:
        ranges._http_system.cache_clear()


def test_an_error_in_the_main_thread_ends_the_reads_of_a_pool(root: Path) -> None:
    with serving(root, lambda number: "hang") as server:
        begin = time.monotonic()
        with pytest.raises(KeyboardInterrupt), reading_pool(4) as pool:
            jobs = [pool.submit(read_range, f"{server.address}/a.tar", 0, 10) for _ in range(8)]
            while server.requests < 4:
                time.sleep(0.01)
            raise KeyboardInterrupt
        assert time.monotonic() - begin < ranges.SILENCE / 2
        assert all(job.cancelled() or isinstance(job.exception(), UserError) for job in jobs)


def test_ranges_are_asked_for_together(root: Path) -> None:
    """Thirty answers that take 0.1 s each: one after the other, they would take 3 s."""
    with serving(root) as server:
        server.latency = 0.1
        places = [(f"{server.address}/a.tar", start, 10) for start in range(30)]
        begin = time.monotonic()
        with reading_ahead([*places, *places, (str(root / "a.tar"), 0, 5)]):
            assert [read_range(*place) for place in places] == [CONTENT[n : n + 10] for n in range(30)]
        assert time.monotonic() - begin < 2
        assert server.requests == 30
        server.mischief = lambda number: "404"
        with reading_ahead(places), pytest.raises(Missing):
            read_range(*places[3])
        server.mischief = lambda number: ""
        assert read_range(*places[3]) == CONTENT[3:13]  # nothing is left over


def test_shards_that_are_not_there(root: Path) -> None:
    with pytest.raises(Missing, match=r"shard '.*b.tar' does not exist"):
        state_of(str(root / "b.tar"))
    with pytest.raises(UserError, match="ends before byte 26,000: it has changed"):
        read_range(str(root / "a.tar"), 25_000, 1000)
    with pytest.raises(UserError, match="at most 1,073,741,824 are read"):
        read_range(str(root / "a.tar"), 0, 1 << 40)
    with pytest.raises(UserError, match="cannot be read"):
        read_range(str(root), 0, 10)


def test_object_storage_by_fsspec(root: Path) -> None:
    """Its file system in memory stands for s3:// and its kin."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.tar", CONTENT)
    try:
        assert state_of("memory://bucket/a.tar").size == len(CONTENT)
        assert read_range("memory://bucket/a.tar", 300, 700) == CONTENT[300:1000]
        with pytest.raises(Missing, match="does not exist"):
            read_range("memory://bucket/b.tar", 0, 5)
        with pytest.raises(UserError, match=r"bytes instead of|ends before"):
            read_range("memory://bucket/a.tar", len(CONTENT) - 300, 700)
    finally:
        memory.rm("/bucket", recursive=True)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [("klingon://x/a.tar", "is no kind of address"), ("s3://x/a.tar", "needs a package: .*s3fs")],
)
def test_addresses_that_nobody_can_open(
    address: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=complaint):
        read_range(address, 0, 5)


def test_memory_stays_small_whatever_a_server_sends(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 MB that come where 10 bytes were asked for, aiohttp's buffers are all that is taken."""
    import tracemalloc

    (root / "a.tar").write_bytes(bytes(64 << 20))
    with serving(root, lambda number: "whole") as server:
        tracemalloc.start()
        with pytest.raises(UserError, match="sends the whole file"):
            read_range(f"{server.address}/a.tar", 100, 10)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < (64 << 20) + (8 << 20)  # the server holds the file once
