"""Ranges of bytes from a disk, over HTTP or from object storage, by fsspec.

What comes over a network is tried several times, never for ever, and is exactly what was asked for or an
error: a server that sends the whole file, too little or something else is not believed, and no more is read
than was wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Unfinished
from functools import partial
from typing import Any, NamedTuple, TypeVar

from utils.data.shards.places import is_remote
from utils.errors import UserError
from utils.optional import require
from utils.pipeline import GLANCE, thread_pool

Result = TypeVar("Result")

ATTEMPTS = 5
PAUSE = 0.2  # seconds before the second attempt; each further pause is twice as long
SILENCE = 10.0  # seconds in which a server has to connect, and to send something
SLOWEST = 50_000  # bytes a second, below which an answer is given up
MOST_AT_ONCE = 1 << 30  # bytes of one range
AT_ONCE, MOST_AHEAD = 16, 8 << 20  # requests of a process that reads ahead, and bytes of each
AGAIN = (408, 425, 429, *range(500, 600))  # HTTP statuses of servers that may do better
GONE = (404, 410)
_thread = threading.local()  # `.ended`: an event after which this thread need not read any more


class Missing(UserError):
    """There is no such file."""


class State(NamedTuple):
    """What tells a file from a later one in its place."""

    size: int  # bytes
    stamp: str  # time of its last change, or what its server says instead


class _Unfit(Exception):
    """An answer that is not what was asked for; another attempt may bring it."""


def read_range(address: str, start: int, size: int) -> bytes:
    """Bytes `start` to `start + size` of a file.

    Raises:
        UserError: it is not there (`Missing`), is shorter, or its server does not answer as it should.
    """
    if size > MOST_AT_ONCE:
        raise UserError(f"{address}: {size:,} bytes at once, at most {MOST_AT_ONCE:,} are read")
    if size == 0:
        return b""
    if is_remote(address):
        job = getattr(_thread, "ahead", {}).get((address, start, size))
        return _wait(job or _begun(_attempts(address, start, size))).content
    try:
        with open(address, "rb") as file:  # noqa: PTH123
            file.seek(start)
            content = file.read(min(size, max(os.fstat(file.fileno()).st_size - start, 0)))
    except OSError as error:
        raise _untold(address, error) from error
    if len(content) < size:
        raise UserError(f"{address}: ends before byte {start + size:,}: it has changed; start again")
    return content


def state_of(address: str) -> State:
    """Size and stamp of a file.

    Raises:
        UserError: as `read_range`.
    """
    if is_remote(address):
        return _wait(_begun(_attempts(address, 0, 1))).state
    try:
        status = os.stat(address)  # noqa: PTH116
    except OSError as error:
        raise _untold(address, error) from error
    return State(status.st_size, str(status.st_mtime_ns))


def _untold(address: str, error: OSError) -> UserError:
    if isinstance(error, FileNotFoundError):
        return Missing(f"shard '{address}' does not exist; bring it, or take it out of the data yaml")
    return UserError(f"shard '{address}' cannot be read: {error.strerror or error}")


@contextlib.contextmanager
def reading_pool(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads whose reads over a network are given up when its block ends by an exception."""
    ended = threading.Event()
    with thread_pool(threads, partial(setattr, _thread, "ended", ended)) as pool:
        try:
            yield pool
        except BaseException:
            ended.set()
            raise


@contextlib.contextmanager
def reading_ahead(places: Iterable[tuple[str, int, int]]) -> Iterator[None]:
    """Context in which this thread has asked for some ranges together, before it needs them one by one.

    Args:
        places: address, start and size of each; what lies on a disk is passed over.
    """
    gate = asyncio.Semaphore(AT_ONCE)

    async def attempts(address: str, start: int, size: int) -> _Reply:
        async with gate:
            return await _attempts(address, start, size)

    wanted = [place for place in dict.fromkeys(places) if is_remote(place[0]) and 0 < place[2] <= MOST_AHEAD]
    _thread.ahead = {place: _begun(attempts(*place)) for place in wanted}
    try:
        yield
    finally:
        for job in _thread.ahead.values():
            job.cancel()
        _thread.ahead = {}


# ---- over a network ----


class _Reply(NamedTuple):
    content: bytes
    state: State


def _begun(work: Coroutine[Any, Any, _Reply]) -> Future[_Reply]:
    """Work that fsspec's thread has begun with."""
    return asyncio.run_coroutine_threadsafe(work, _fsspec("fsspec.asyn").get_loop())


def _wait(job: Future[_Reply]) -> _Reply:
    """The outcome of such work. A signal ends the waiting, and so does the end of the pool."""
    ended: threading.Event | None = getattr(_thread, "ended", None)
    try:
        while ended is None or not ended.is_set():
            with contextlib.suppress(Unfinished):
                return job.result(GLANCE)
        raise UserError("reading was given up")
    finally:
        job.cancel()


def _fsspec(module: str) -> Any:
    return require(module, "fsspec")


async def _attempts(address: str, start: int, size: int) -> _Reply:
    """Ask for a range until it comes, `ATTEMPTS` times at most; the last reason is told."""
    once = _http if address.startswith(("http://", "https://")) else _stored
    limit, reason = 3 * SILENCE + size / SLOWEST, ""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(PAUSE * 2 ** (attempt - 1))
        try:
            return await asyncio.wait_for(once(address, start, size), limit)
        except UserError:
            raise
        except FileNotFoundError as error:
            raise Missing(
                f"shard '{address}' does not exist; bring it, or take it out of the data yaml"
            ) from error
        except PermissionError as error:
            raise UserError(f"shard '{address}' may not be read: {_said(error)}") from error
        except (TimeoutError, asyncio.TimeoutError) as error:
            reason = _said(error) or "no answer in time"
        # aiohttp, botocore and their kin have no common ground
        except Exception as error:  # noqa: BLE001
            reason = _said(error)
    raise UserError(
        f"cannot get bytes {start:,} to {start + size:,} of '{address}': {reason} ({ATTEMPTS} attempts)"
    )


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@functools.cache
def _http_system() -> Any:
    aiohttp = require("aiohttp", "aiohttp")
    limits = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
    settings = {"timeout": limits, "trust_env": True}  # proxies are named by the environment
    return _fsspec("fsspec.implementations.http").HTTPFileSystem(client_kwargs=settings)


async def _http(address: str, start: int, size: int) -> _Reply:
    """One request. fsspec's own would take an answer of any length."""
    system = _http_system()
    session = await system.set_session()
    headers = {"Range": f"bytes={start}-{start + size - 1}", "Accept-Encoding": "identity"}
    async with session.get(system.encode_url(address), headers=headers) as reply:
        if reply.status in GONE:
            raise Missing(f"shard '{address}' does not exist (HTTP {reply.status})")
        if reply.status in AGAIN:
            raise _Unfit(f"HTTP {reply.status} {reply.reason}")
        if reply.status == 416:
            raise UserError(f"{address}: ends before byte {start + size:,}: it has changed; start again")
        if reply.status not in (200, 206):
            raise UserError(f"shard '{address}' may not be read: HTTP {reply.status} {reply.reason}")
        total = _total(reply, start, size)
        if total is None:
            raise UserError(
                f"{address}: its server sends the whole file where a part was asked for; "
                "take one that knows Range requests"
            )
        content = await reply.content.readexactly(size)
        stamp = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
        return _Reply(content, State(total, stamp))


def _total(reply: Any, start: int, size: int) -> int | None:
    """Bytes of the whole file; None when the reply does not begin where it was asked to.

    Raises:
        _Unfit: it is another part, or of another length.
    """
    if reply.status == 200:
        return reply.content_length if start == 0 and reply.content_length == size else None
    words = reply.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
    if words[0] != f"{start}-{start + size - 1}" or not words[2].isdigit() or len(words[2]) > 18:
        raise _Unfit(
            f"another part than asked for: {reply.headers.get('Content-Range', 'none named')!r}"[:120]
        )
    if reply.content_length not in (None, size):
        raise _Unfit(f"{reply.content_length} bytes instead of {size}")
    return int(words[2])


@functools.cache
def _system_of(protocol: str) -> Any:
    """The file system of an address that is not HTTP's."""
    fsspec = _fsspec("fsspec")
    try:
        return fsspec.filesystem(protocol)
    except ImportError as error:  # names the package
        raise UserError(f"{protocol}:// needs a package: {_said(error)}; pip install it") from error
    except ValueError as error:
        raise UserError(f"{protocol}:// is no kind of address that fsspec knows") from error


async def _stored(address: str, start: int, size: int) -> _Reply:
    """The same by a file system of fsspec: object storage, mostly."""
    system = await asyncio.to_thread(_system_of, address.partition("://")[0])
    path = system._strip_protocol(address)
    info = await _call(system, "info", path) if (start, size) == (0, 1) else {"size": start + size}
    if info.get("size") is None or info["size"] < start + size:
        raise UserError(f"{address}: ends before byte {start + size:,}")
    content = await _call(system, "cat_file", path, start=start, end=start + size)
    if len(content) != size:
        raise _Unfit(f"{len(content)} bytes instead of {size}")
    stamp = next(
        (str(info[key]) for key in ("ETag", "etag", "LastModified", "mtime", "created") if info.get(key)), ""
    )
    return _Reply(content, State(int(info["size"]), stamp))


def _call(system: Any, name: str, *args: Any, **kwargs: Any) -> Awaitable[Any]:
    function: Callable[..., Any] = getattr(system, f"_{name}" if system.async_impl else name)
    return function(*args, **kwargs) if system.async_impl else asyncio.to_thread(function, *args, **kwargs)
