"""Pages of YouTube as a source: yt-dlp itself, with an answer of ours in place of the site's."""

from __future__ import annotations

import functools
import http.server
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from utils.data import sources
from utils.data.sources import open_source
from utils.data.youtube import find_video, is_youtube
from utils.errors import UserError

PAGE = "https://www.youtube.com/watch?v=LNwODJXcvt4"
Answer = Callable[[Callable[[], dict[str, Any]]], None]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Sets what YouTube says of any page: formats, as yt-dlp reads them from it, or an error."""
    library = pytest.importorskip("yt_dlp")
    extractor = type(library.YoutubeDL({"quiet": True}).get_info_extractor("Youtube"))

    def sets(make: Callable[[], dict[str, Any]]) -> None:
        monkeypatch.setattr(extractor, "_real_extract", lambda self, url: make())

    return sets


@pytest.fixture
def video(tmp_path: Path) -> Iterator[str]:
    """The address of a video of 7 frames, brighter and brighter."""
    writer = cv2.VideoWriter(str(tmp_path / "a.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for number in range(7):
        writer.write(np.full((48, 64, 3), 30 * number, np.uint8))
    writer.release()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/a.mp4"
        server.shutdown()


def formats(address: str) -> list[dict[str, Any]]:
    """What a page offers: a list of pieces, a file with sound, and a larger one of sound alone."""
    common = {"ext": "mp4", "protocol": "https", "vcodec": "avc1", "acodec": "mp4a"}
    return [
        {**common, "format_id": "18", "url": address, "height": 360},
        {**common, "format_id": "140", "url": "https://example.invalid/sound", "vcodec": "none"},
        {
            **common,
            "format_id": "96",
            "url": "https://example.invalid/m3u8",
            "protocol": "m3u8_native",
            "height": 1080,
        },
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PAGE, True),
        ("https://youtu.be/LNwODJXcvt4", True),
        ("http://m.youtube.com/shorts/LNwODJXcvt4", True),
        ("https://youtube.com.example.org/watch?v=x", False),
        ("https://example.org/youtube.com/a.mp4", False),
        ("rtsp://youtube.com/x", False),
        ("youtube.com.jpg", False),
        ("https://[::1/watch", False),
    ],
)
def test_which_addresses_are_meant(text: str, expected: bool) -> None:
    assert is_youtube(text) == expected


def test_every_frame_of_a_video_comes_in_order(answer: Answer, video: str) -> None:
    answer(lambda: {"id": "LNwODJXcvt4", "title": "x", "formats": formats(video)})
    source = open_source(PAGE, vid_stride=2)
    frames = [frame for group in source for frame in group]
    assert [round(frame.image.mean() / 30) for frame in frames] == [0, 2, 4, 6]
    assert {(frame.path, frame.mode) for frame in frames} == {("LNwODJXcvt4.mp4", "video")}


def test_what_is_broadcast_is_a_stream(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[str]] = []
    monkeypatch.setattr(sources, "StreamSource", lambda addresses, vid_stride: opened.append(addresses))
    live = [form for form in formats("") if form["format_id"] == "96"]
    answer(lambda: {"id": "x", "title": "x", "is_live": True, "formats": live})
    open_source(PAGE)
    assert opened == [["https://example.invalid/m3u8"]]


def test_a_video_that_is_gone_is_named_without_its_long_address(answer: Answer) -> None:
    answer(lambda: {"id": "x", "title": "x", "formats": formats("http://127.0.0.1:9/no.mp4?much=more")})
    with pytest.raises(UserError, match=r"^cannot open video 'x\.mp4': "):
        [*open_source(PAGE)]


def raised(kind: str, message: str) -> Callable[[], dict[str, Any]]:
    def fail() -> dict[str, Any]:
        import yt_dlp.networking.exceptions
        import yt_dlp.utils

        if kind == "network":
            raise yt_dlp.networking.exceptions.TransportError(message)
        raise yt_dlp.utils.ExtractorError(message, expected=kind == "expected", video_id="LNwODJXcvt4")

    return fail


@pytest.mark.parametrize(
    ("kind", "message", "said"),
    [
        ("expected", "Private video. Sign in if you've been granted access", "Private video. Sign in if"),
        ("expected", "This live event will begin in 3 hours.", "This live event will begin in 3 hours."),
        ("network", "Failed to resolve 'www.youtube.com'", "Failed to resolve 'www.youtube.com'"),
        ("unexpected", "Unable to extract player", "Unable to extract player"),
    ],
)
def test_what_cannot_be_seen_is_one_line(
    kind: str, message: str, said: str, answer: Answer, capfd: pytest.CaptureFixture[str]
) -> None:
    answer(raised(kind, message))
    with pytest.raises(UserError) as caught:
        find_video(PAGE)
    line = str(caught.value)
    assert line.startswith(f"source '{PAGE}': {said}") and "\n" not in line and "report this" not in line
    assert capfd.readouterr() == ("", "")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(UserError, match=r"^this needs the package yt_dlp: pip install yt-dlp$"):
        open_source(PAGE)
