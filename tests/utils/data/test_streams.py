"""Streams are served here by a small MJPEG camera on 127.0.0.1 that can be told to hang up."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from utils.data import streams
from utils.data.frames import Frame
from utils.data.streams import StreamSource
from utils.errors import UserError


class Camera:
    """An MJPEG server whose picture number n has the grey level n % 250."""

    def __init__(self, hang_up_after: int = 10_000, size: tuple[int, int] = (48, 64)) -> None:
        self.hang_up_after, self.size = hang_up_after, size
        self.connections, self.sent = 0, 0
        camera = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *values: object) -> None: ...

            def do_GET(self) -> None:
                camera.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                try:
                    for _ in range(camera.hang_up_after):
                        self.wfile.write(camera.part())
                        time.sleep(0.01)
                except OSError:
                    return  # the client has left

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/feed"

    def part(self) -> bytes:
        picture = np.full((*self.size, 3), self.sent % 250, np.uint8)
        self.sent += 1
        data = cv2.imencode(".jpg", picture)[1].tobytes()
        return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera()
    yield camera
    camera.close()


def take(source: StreamSource, groups: int) -> list[list[Frame]]:
    taken = []
    stream = iter(source)
    for group in stream:
        taken.append(group)
        if len(taken) == groups:
            break
    stream.close()  # type: ignore[attr-defined]
    return taken


def test_frames_come_in_order(camera: Camera) -> None:
    groups = take(StreamSource([camera.address]), 5)
    frames = [group[0] for group in groups]
    assert all(
        f.mode == "stream" and f.path == camera.address and f.image.shape == (48, 64, 3) for f in frames
    )
    numbers = [f.number for f in frames]
    assert numbers == sorted(set(numbers))


def test_a_slow_user_gets_the_newest_frame(camera: Camera) -> None:
    stream = iter(StreamSource([camera.address]))
    first = next(stream)[0].number
    time.sleep(0.5)
    next(stream)  # may have been waiting since before the pause ended
    assert next(stream)[0].number > first + 10
    stream.close()  # type: ignore[attr-defined]


def test_two_cameras_give_batches(camera: Camera) -> None:
    other = Camera(size=(32, 32))
    try:
        groups = take(StreamSource([camera.address, other.address]), 4)
    finally:
        other.close()
    assert {tuple(f.index for f in group) for group in groups} >= {(0, 1)}
    assert {f.image.shape for f in max(groups, key=len)} == {(48, 64, 3), (32, 32, 3)}


def test_a_broken_stream_is_reopened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "FIRST_DELAY", 0.05)
    camera = Camera(hang_up_after=40)
    stream = iter(StreamSource([camera.address]))
    try:
        for _ in stream:
            if camera.connections >= 3:
                break
    finally:
        stream.close()  # type: ignore[attr-defined]
        camera.close()
    assert "reconnecting in 0.05 s" in capsys.readouterr().err


def test_a_stream_that_stays_away_ends_the_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(streams, "ATTEMPTS", 3)
    monkeypatch.setattr(streams, "FIRST_DELAY", 0.02)
    camera = Camera(hang_up_after=40)
    source = StreamSource([camera.address])
    camera.close()  # no new connection; the one that is open goes on to its end
    assert len(list(source)) > 0
    messages = capsys.readouterr().err
    delays = [line.split("reconnecting in ")[1] for line in messages.splitlines() if "reconnecting" in line]
    assert delays == ["0.02 s", "0.04 s", "0.08 s"]
    assert "is gone: 3 attempts" in messages


def test_one_dead_address_among_several_is_an_error(camera: Camera) -> None:
    with pytest.raises(UserError, match=r"cannot open stream .http:..127\.0\.0\.1:9.feed."):
        StreamSource([camera.address, "http://127.0.0.1:9/feed"])
