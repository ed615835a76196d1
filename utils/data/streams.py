"""Sources that never end: cameras and network streams that reconnect, and the screen."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence

import cv2
import numpy as np

from utils.console import warn
from utils.data.frames import Frame
from utils.errors import UserError
from utils.files import native_path
from utils.optional import require
from utils.pipeline import wait_until

CONNECT_TIMEOUT_MS = 10_000
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0  # seconds between attempts to reconnect, doubling
LONGEST_READ = 2 * CONNECT_TIMEOUT_MS / 1000 + 1  # seconds: a read, then an attempt to connect
ATTEMPTS = 8  # in a row without a frame, then a stream counts as gone
MOST_DIGITS = 9  # of a number that OpenCV takes
MOST_STREAMS = 256  # each takes a thread and a connection
GATHER = 0.1  # seconds that the frame of one camera waits for those of the others


def open_capture(address: str) -> cv2.VideoCapture:
    """Open a camera number, stream or video; the result may turn out not to be open.

    Without the timeouts a host that does not answer would hold the program for half a minute.
    """
    if address.isdecimal():
        if len(address) > MOST_DIGITS:
            raise UserError(f"webcam number {address[:40]} is too large; webcams count from 0")
        return cv2.VideoCapture(int(address))
    if "://" not in address:
        with native_path(address) as path:
            return cv2.VideoCapture(path)
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, CONNECT_TIMEOUT_MS]
    limits += [cv2.CAP_PROP_READ_TIMEOUT_MSEC, CONNECT_TIMEOUT_MS]
    return cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits)


class _Camera:
    """Keeps the newest frame of one stream; a thread reads, `changed` guards what it leaves."""

    def __init__(self, address: str, stride: int, changed: threading.Condition) -> None:
        self.address, self.stride, self.changed = address, stride, changed
        self.image: np.ndarray | None = None  # None once it has been taken
        self.number = -1  # of that frame
        self.ended = False
        self.stopping = threading.Event()
        self.capture = open_capture(address)
        if not self.capture.isOpened():
            kind = "webcam" if address.isdecimal() else "stream"
            raise UserError(
                f"cannot open {kind} '{address}'; check that it exists and that nothing blocks it"
            )
        rate = self.capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate / stride if 0 < rate <= 240 else 0.0  # some drivers report 90,000 or nan
        self.thread = threading.Thread(target=self._run, daemon=True, name=f"stream {address}")

    def _run(self) -> None:
        failures = 0
        while not self.stopping.is_set() and failures < ATTEMPTS:
            image = self._read()
            if image is not None:
                failures = 0
                with self.changed:
                    self.image, self.number = image, self.number + 1
                    self.changed.notify_all()
            elif not self.stopping.is_set():
                self._reconnect(failures)
                failures += 1
        if failures >= ATTEMPTS:
            warn(f"stream '{self.address}' is gone: {ATTEMPTS} attempts to reconnect failed")
        self.capture.release()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _read(self) -> np.ndarray | None:
        for _ in range(self.stride):
            if not self.capture.grab():
                return None
        good, image = self.capture.retrieve()
        return image if good else None

    def _reconnect(self, failures: int) -> None:
        delay = min(FIRST_DELAY * 2**failures, LONGEST_DELAY)
        warn(f"stream '{self.address}' gives no frames; reconnecting in {delay:g} s")
        self.capture.release()
        if not self.stopping.wait(delay):
            self.capture = open_capture(self.address)


class StreamSource:
    """Cameras and network streams, read together: a list has the newest frame of each that has one.

    A stream that breaks off is reopened after 0.5 s, 1 s, 2 s … up to 30 s; after eight attempts in a row it
    counts as gone, and the source ends with its last stream.
    """

    live = True
    length: int | None = None

    def __init__(self, addresses: Sequence[str], *, vid_stride: int = 1) -> None:
        if len(addresses) > MOST_STREAMS:
            raise UserError(f"{len(addresses):,} streams; at most {MOST_STREAMS} can be read together")
        self._changed = threading.Condition()
        self._cameras: list[_Camera] = []
        try:
            for address in addresses:
                self._cameras.append(_Camera(address, vid_stride, self._changed))
        except UserError:
            for camera in self._cameras:
                camera.capture.release()
            raise

    def __iter__(self) -> Generator[list[Frame], None, None]:
        for camera in self._cameras:
            camera.thread.start()
        try:
            while frames := self._newest():
                yield frames
        finally:
            for camera in self._cameras:
                camera.stopping.set()
            for camera in self._cameras:
                # A thread that is inside OpenCV when the interpreter ends would abort the process. Reads and
                # attempts to connect end by themselves; only a broken driver outlasts this.
                camera.thread.join(timeout=LONGEST_READ)

    def _newest(self) -> list[Frame]:
        """Wait for a frame, take what is there; nothing when every stream is gone."""
        cameras = self._cameras
        with self._changed:
            wait_until(
                self._changed,
                lambda: any(c.image is not None for c in cameras) or all(c.ended for c in cameras),
            )
            self._changed.wait_for(
                lambda: all(c.image is not None or c.ended for c in cameras), timeout=GATHER
            )
            taken = []
            for index, camera in enumerate(cameras):
                if camera.image is not None:
                    place = {"index": index, "count": len(cameras), "number": camera.number}
                    taken.append(Frame(camera.image, camera.address, "stream", fps=camera.fps, **place))
                    camera.image = None
            return taken


class ScreenSource:
    """Pictures of the screen, as many as the detector can take, at most 30 a second.

    Args:
        text: `screen [n] [left top width height]`: which monitor (0 is all of them together) and which part
            of it, in pixels.
    """

    live = True
    length: int | None = None
    fps = 30.0

    def __init__(self, text: str, *, vid_stride: int = 1) -> None:
        words = text.split()[1:]
        if len(words) not in (0, 1, 4, 5) or not all(
            word.isdecimal() and len(word) <= MOST_DIGITS for word in words
        ):
            raise UserError(
                f"source '{text}': expected 'screen [n] [left top width height]' in whole numbers"
            )
        numbers = [int(word) for word in words]
        self._text = text
        self._monitor = numbers.pop(0) if len(numbers) in (1, 5) else 0
        self._region = numbers
        self._interval = vid_stride / self.fps

    def __iter__(self) -> Generator[list[Frame], None, None]:
        mss = require("mss", "mss")
        try:
            grabber = mss.mss()
        except Exception as error:  # mss raises what the window system of the platform raises
            raise UserError(f"cannot capture the screen: {error}") from error
        with grabber:
            area = self._area(grabber.monitors)
            number, due = 0, time.monotonic()
            while True:
                pixels = np.asarray(grabber.grab(area))  # (H, W, 4) BGRA
                image = np.ascontiguousarray(pixels[..., :3])
                yield [Frame(image, self._text, "stream", count=1, number=number, fps=1 / self._interval)]
                number, due = number + 1, due + self._interval
                time.sleep(max(due - time.monotonic(), 0.0))

    def _area(self, monitors: Sequence[dict[str, int]]) -> dict[str, int]:
        if self._monitor >= len(monitors):
            raise UserError(f"source '{self._text}': there are monitors 0 to {len(monitors) - 1}")
        area = {key: monitors[self._monitor][key] for key in ("left", "top", "width", "height")}
        if self._region:
            left, top, width, height = self._region
            area = {"left": area["left"] + left, "top": area["top"] + top, "width": width, "height": height}
        return area
