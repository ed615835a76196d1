"""A local HTTP server that gives ranges of files, and does what servers and networks do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

HANG = 60.0  # seconds


class Server(ThreadingHTTPServer):
    """Serves a folder. `mischief` is asked at each request: its number from 0 -> what goes wrong, "" nothing.

    drop: the connection ends before an answer; cut: in the middle of the body; hang: no answer;
    stall: the body stops in the middle; whole: Range is ignored; longer, shorter: another length than asked
    for; other: another range; or an HTTP status.
    """

    daemon_threads = True

    def __init__(self, root: Path, mischief: Callable[[int], str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root, self.mischief, self.requests = root, mischief, 0
        self.counting = threading.Lock()
        self.latency = 0.0  # seconds before each answer

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that has gone


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with self.server.counting:
            number, self.server.requests = self.server.requests, self.server.requests + 1
        kind = self.server.mischief(number)
        time.sleep(self.server.latency)
        file = self.server.root / self.path.partition("?")[0].lstrip("/")
        if kind in ("drop", "hang"):
            time.sleep(HANG if kind == "hang" else 0)
            self.close_connection = True
            return
        if kind.isdecimal() or not file.is_file():
            self._head(int(kind or 404), 0)
            return
        content = file.read_bytes()
        first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last), len(content) - 1)
        if start >= len(content):
            self._head(416, 0)
            return
        if kind == "whole":
            self._head(200, len(content))
            self.wfile.write(content)
            return
        if kind == "other":
            start, end = start + 1, end + 1
        body = content[start : end + 1] + b"x" * (kind == "longer")
        body = body[:-1] if kind == "shorter" else body
        shown = f"bytes {start}-{end}/{len(content)}"
        self._head(206, len(body), {"Content-Range": shown})
        half = len(body) // 2
        self.wfile.write(body[:half])
        if kind in ("cut", "stall"):
            self.wfile.flush()
            time.sleep(HANG if kind == "stall" else 0)
            self.close_connection = True
            return
        self.wfile.write(body[half:])

    def _head(self, status: int, length: int, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), "ETag": '"1"', **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving(root: Path, mischief: Callable[[int], str] = lambda number: "") -> Iterator[Server]:
    """A server of a folder, until the block ends."""
    server = Server(root, mischief)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
