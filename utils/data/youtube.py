"""Videos of YouTube, which `yt-dlp` finds: the address of the page becomes that of the pictures.

Untested against the site itself: tests answer in its place (`tests/utils/data/test_youtube.py`).
"""

from __future__ import annotations

import logging
import re
import urllib.parse
from dataclasses import dataclass

from utils.errors import UserError
from utils.optional import require

HOSTS = re.compile(r"(?:(?:www|m|music)\.)?(?:youtube\.com|youtube-nocookie\.com|youtu\.be)")
TIMEOUT = 15  # seconds without an answer
# one file with pictures that OpenCV reads: no separate sound, no list of pieces where that can be had
FORMAT = "best[protocol^=http][ext=mp4]/bestvideo[protocol^=http][ext=mp4]/best/bestvideo"

SILENT = logging.getLogger("lean5.youtube")
SILENT.propagate = False
SILENT.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Found:
    """A video behind a page.

    Attributes:
        address: of its pictures, for some hours.
        name: under which results are kept.
        live: whether it is being broadcast.
    """

    address: str
    name: str
    live: bool


def is_youtube(text: str) -> bool:
    """Whether a text is the address of a page of YouTube's."""
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(HOSTS.fullmatch((parts.hostname or "").lower()))


def find_video(page: str) -> Found:
    """Ask YouTube where the pictures of a video are; nothing is downloaded.

    Raises:
        UserError: `yt-dlp` is not installed, there is no network, or the video cannot be seen.
    """
    library = require("yt_dlp", "yt-dlp")
    options = {
        **dict.fromkeys(("quiet", "no_warnings", "noprogress", "skip_download", "noplaylist"), True),
        "format": FORMAT,
        "socket_timeout": TIMEOUT,
        "extractor_retries": 0,
        "cachedir": False,
        "color": "no_color",
        "logger": SILENT,  # what it has to say comes with its error
    }
    try:
        with library.YoutubeDL(options) as client:
            told = client.extract_info(page, download=False)
    except (library.utils.YoutubeDLError, OSError) as error:
        raise UserError(f"source '{page}': {_reason(str(error))}") from error
    address = told.get("url") if isinstance(told, dict) else None
    if not isinstance(address, str):
        raise UserError(f"source '{page}': no single video; give the address of one, …/watch?v=…")
    return Found(address, str(told.get("id") or "youtube"), bool(told.get("is_live")))


def _reason(message: str) -> str:
    """What yt-dlp says, without its prefix and the advice on reporting it."""
    told = " ".join(message.split()).removeprefix("ERROR: ")
    told = re.sub(r"^\[[\w:]+\] (?:[\w-]+: )?", "", told)
    return told.partition("; please report this issue")[0][:200]
