"""Where detect.py's pictures come from: one text, as given to --source, becomes a source of frames."""

from __future__ import annotations

import dataclasses
import glob
import http.client
import itertools
import math
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.console import warn
from utils.data.frames import Frame, Source
from utils.data.images import IMAGE_SUFFIXES, MOST_BYTES, read_image
from utils.data.report import counted
from utils.data.streams import ScreenSource, StreamSource, open_capture
from utils.data.youtube import Found, find_video, is_youtube
from utils.errors import Incomplete, UserError
from utils.files import ROOT, from_root
from utils.files import expand as expand_home
from utils.reading import read_lines

VIDEOS = frozenset(
    {".asf", ".avi", ".flv", ".gif", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"}
    | {".3gp", ".ts", ".webm", ".wmv"}
)
MEDIA = IMAGE_SUFFIXES | VIDEOS
WEB = frozenset({"http", "https"})
STREAMS = WEB | {"rtsp", "rtsps", "rtmp", "rtp", "tcp", "udp", "srt"}
WILDCARDS = frozenset("*?[")
PROMISED = 0.9  # of the frames that a video's header tells must be there; some headers only guess
TIMEOUT = 20  # seconds for the download of a picture
NONE_READABLE = "none of the {} files could be read"
MOST_FILES = 2_000_000  # of a source
MOST_LISTS = 8  # inside one another


def open_source(text: str, *, vid_stride: int = 1) -> Source:
    """The source that a text names.

    Args:
        text: an image or video file, a folder, a glob, a list file (`*.txt`: files; `*.streams`: cameras), a
            webcam number, the URL of a picture, video, stream or page of YouTube's, `screen …` (see
            `ScreenSource`), or `-` for paths on standard input. A relative path is looked up in the working
            directory, then beside the program.
        vid_stride: use every this manieth frame of videos and streams.

    Raises:
        UserError: nothing is there, or it is nothing that can be read.
    """
    if not is_live(text):
        return FileSource(expand(text), vid_stride=vid_stride)
    if text == "-":
        return StdinSource(sys.stdin, vid_stride=vid_stride)
    if text.split()[:1] == ["screen"]:
        return ScreenSource(text, vid_stride=vid_stride)
    if Path(text).suffix == ".streams":
        return StreamSource(_listed(find_path(text)), vid_stride=vid_stride)
    if is_youtube(text):
        found = find_video(text)
        if found.live:
            return StreamSource([found.address], vid_stride=vid_stride)
        return RemoteVideo(found, vid_stride)
    return StreamSource([text], vid_stride=vid_stride)


def is_live(text: str) -> bool:
    """Whether a source's pictures come in their own time: all but files.

    Raises:
        UserError: as `is_stream`.
    """
    screen = text.split()[:1] == ["screen"] and not Path(text).exists()
    return text == "-" or screen or Path(text).suffix == ".streams" or is_stream(text)


def is_stream(text: str) -> bool:
    """Whether a text names a camera or stream, in contrast to files and to URLs of picture or video files.

    Raises:
        UserError: a URL of a kind that nobody here can open.
    """
    if text.isdecimal():
        return not Path(text).exists()
    if "://" not in text:
        return False
    scheme = _split_url(text).scheme.lower()
    if scheme not in STREAMS:
        raise UserError(f"source '{text}': cannot open '{scheme}://'; known are {', '.join(sorted(STREAMS))}")
    return scheme not in WEB or suffix_of(text) not in MEDIA


def suffix_of(item: str) -> str:
    """File suffix of a path or URL in lower case, without the query of a URL."""
    return Path(_split_url(item).path if "://" in item else item).suffix.lower()


def _split_url(url: str) -> urllib.parse.SplitResult:
    try:
        return urllib.parse.urlsplit(url)
    except ValueError as error:
        raise UserError(f"'{url}' is no valid URL: {error}") from error


def find_path(text: str) -> Path:
    """An existing file or folder, relative to the working directory or to the program's folder."""
    path = from_root(text)
    if not path.exists():
        places = " and ".join(dict.fromkeys((str(Path.cwd()), str(ROOT))))
        raise UserError(f"source '{text}' not found (looked in {places})")
    return path


def expand(text: str) -> list[str]:
    """The image and video files that a file, folder, glob, list file or file URL names.

    Raises:
        UserError: nothing is there, it is nothing that can be read, a list names itself, or too many files.
    """
    files = list(itertools.islice(_expand(text, ()), MOST_FILES + 1))
    if len(files) > MOST_FILES:
        raise UserError(f"source '{text}' names more than {MOST_FILES:,} files")
    return files


def _expand(text: str, lists: Sequence[Path]) -> Iterable[str]:
    """The files that `text` names, one by one: a list may name lists, and a few of them a billion files.

    Args:
        lists: the list files that `text` stands in, the innermost last; relative paths are tried beside that
            one first.
    """
    if "://" in text:
        if is_stream(text):
            raise UserError(f"'{text}' is a stream; give streams as --source or in a list named *.streams")
        return [text]
    if lists and (lists[-1].parent / text).exists():
        text = str(lists[-1].parent / text)
    if WILDCARDS & set(text) and not Path(text).exists():
        pattern = str(expand_home(text))
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob refuses absolute ones
        return _media(matches, f"source '{text}' matches")
    path = find_path(text)
    if path.is_dir():
        return _media([str(p) for p in sorted(path.iterdir())], f"folder '{text}' has")
    if path.suffix == ".txt":
        if any(path.samefile(outer) for outer in lists):
            raise UserError(f"list file '{path}' names itself; the entry stands in '{lists[-1]}'")
        if len(lists) >= MOST_LISTS:
            raise UserError(
                f"list file '{path}' is the {len(lists) + 1}th inside one another; name files instead"
            )
        return (file for line in _listed(path) for file in _expand(line, (*lists, path)))
    if path.suffix.lower() not in MEDIA:
        raise UserError(
            f"source '{text}': '{path.suffix}' is no image or video format; known are "
            f"{' '.join(sorted(MEDIA))}, and .txt and .streams for lists"
        )
    return [str(path)]


def _media(paths: Iterable[str], subject: str) -> list[str]:
    chosen = [p for p in paths if suffix_of(p) in MEDIA and Path(p).is_file()]
    if not chosen:
        raise UserError(f"{subject} no image or video files")
    return chosen


def _listed(path: Path) -> list[str]:
    entries = read_lines(path)
    if not entries:
        raise UserError(f"list file '{path}' is empty")
    return entries


@dataclass(frozen=True)
class Unread:
    """A file that could not be read, or not to its end.

    Attributes:
        index: its place in the source.
        partly: whether some of it was read.
    """

    index: int
    reason: str
    partly: bool = False

    def __str__(self) -> str:
        return f"{'read in part' if self.partly else 'left out'}: {self.reason}"


def incomplete(faults: int, files: int) -> Incomplete:
    """The error of a command that could not read all files."""
    return Incomplete(f"{faults} of {counted(files, 'file')} could not be read, or not to their end")


class Files:
    """Reads files one after the other; what cannot be read is told, counted and passed over.

    Attributes:
        files: that came so far.
        faults: those of them that could not be read, or not to their end.
        tell: is given each of the latter.
    """

    def __init__(self, vid_stride: int) -> None:
        self.vid_stride, self.files, self.faults = vid_stride, 0, 0
        self.tell: Callable[[Unread], object] = lambda fault: warn(str(fault))

    def frames_of(self, file: str, index: int, count: int, *, alone: bool = False) -> Iterator[list[Frame]]:
        """The frames of the next file, which has this place among `count`, 0 when nobody knows how many.

        Raises:
            UserError: it is `alone`, and there is nothing to be read.
        """
        some, self.files = False, self.files + 1
        try:
            for frame in read_file(file, index, count, self.vid_stride):
                some = True
                yield [frame]
        except UserError as error:
            if alone and not some:
                raise
            self.leave_out(Unread(index, str(error), some))

    def leave_out(self, fault: Unread) -> None:
        """Count and tell."""
        self.faults += 1
        self.tell(fault)

    def shortfall(self) -> Incomplete | None:
        """What a command ends with that could not read all files."""
        return incomplete(self.faults, self.files) if self.faults else None


class FileSource(Files):
    """Image and video files (or URLs of such), one after the other.

    Attributes:
        rank, world_size: several processes share the files: each reads those at `rank`, `rank + world_size` …

    Raises (while iterating, where nobody shares them):
        UserError: the only file, or every file, is unreadable.
    """

    live = False

    def __init__(self, places: Sequence[str], *, vid_stride: int = 1) -> None:
        super().__init__(vid_stride)
        self.places = list(places)
        self.rank, self.world_size = 0, 1
        videos = any(suffix_of(place) in VIDEOS for place in places)
        self.length: int | None = None if videos else len(self.places)

    def __iter__(self) -> Generator[list[Frame], None, None]:
        some, count, shared = False, len(self.places), self.world_size > 1
        for index in range(self.rank, count, self.world_size):
            for group in self.frames_of(self.places[index], index, count, alone=count == 1 and not shared):
                some = True
                yield group
        if not some and not shared:
            raise UserError(NONE_READABLE.format(count))


class RemoteVideo(FileSource):
    """One video behind an address that says nothing of it, frame by frame to its end."""

    def __init__(self, found: Found, vid_stride: int) -> None:
        super().__init__([f"{found.name}.mp4"], vid_stride=vid_stride)
        self.address = found.address

    def frames_of(self, file: str, index: int, count: int, *, alone: bool = False) -> Iterator[list[Frame]]:
        """Its frames, under the name that results have.

        Raises:
            UserError: it cannot be read, or not to its end.
        """
        self.files += 1
        try:
            for frame in _read_video(self.address, 0, 1, self.vid_stride):
                yield [dataclasses.replace(frame, path=file)]
        except UserError as error:  # the address is as long as a page and of no use to anybody
            raise UserError(str(error).replace(self.address, file)) from error


class StdinSource(Files):
    """Image and video files whose paths come on standard input, a line each, as they come."""

    live = True  # whoever writes the paths may wait for an answer before the next one
    length: int | None = None

    def __init__(self, lines: Iterable[str], *, vid_stride: int = 1) -> None:
        super().__init__(vid_stride)
        self.lines = lines

    def __iter__(self) -> Generator[list[Frame], None, None]:
        for line in filter(None, map(str.strip, self.lines)):
            try:
                places = expand(line)
            except UserError as error:
                self.files += 1
                self.leave_out(Unread(self.files - 1, str(error)))
                continue
            for place in places:
                yield from self.frames_of(place, self.files, 0)
        if self.files == self.faults:
            raise UserError("standard input named no readable image; give one path a line")


def read_file(file: str, index: int, count: int, vid_stride: int) -> Iterator[Frame]:
    """The frames of one image or video file or URL; `index` of `count` is its place in the source."""
    if suffix_of(file) in VIDEOS:
        yield from _read_video(file, index, count, vid_stride)
    else:
        yield Frame(read_picture(file), file, "image", index=index, count=count)


def read_picture(place: str) -> np.ndarray:
    """The picture in a file or behind a URL: (H, W, 3) uint8 BGR, or (H, W, 4) where it has a fourth."""
    return _fetch_image(place) if "://" in place else read_image(place, channels=None)


def _read_video(file: str, index: int, count: int, vid_stride: int) -> Iterator[Frame]:
    capture = open_capture(file)
    try:
        if not capture.isOpened():
            raise UserError(f"cannot open video '{file}': damaged, or a codec that OpenCV does not have")
        total = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)  # the container's guess, may be negative
        rate = capture.get(cv2.CAP_PROP_FPS)
        fps = rate / vid_stride if 0 < rate <= 1000 else 0.0
        frames = math.ceil(total / vid_stride)
        number = lost = 0
        while capture.grab():
            if number % vid_stride == 0:
                good, image = capture.retrieve()
                if not good:
                    number, lost = number + 1, lost + 1
                    continue
                place = number // vid_stride
                yield Frame(image, file, "video", index, count, place, max(frames, place + 1), fps)
            number += 1
        if number == 0:
            raise UserError(f"video '{file}' has no readable frame")
        if lost:
            raise UserError(f"video '{file}': {lost} frames are damaged")
        if number < PROMISED * total:
            raise UserError(f"video '{file}' ends after {number} of {total} frames: damaged, or cut off")
    finally:
        capture.release()


def _fetch_image(url: str) -> np.ndarray:
    """The picture behind a URL that the user gave."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as reply:
            data = reply.read(MOST_BYTES)
    except (OSError, ValueError, http.client.HTTPException) as error:  # URLError is an OSError
        raise UserError(f"cannot get '{url}': {error}") from error
    try:
        return read_image(data, channels=None)
    except UserError as error:
        raise UserError(f"'{url}' is no readable image: {error}") from error
