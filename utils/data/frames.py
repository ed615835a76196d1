"""The picture as it travels from a source to the detector, and what a source is."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

Mode = Literal["image", "video", "stream"]


@dataclass(frozen=True)
class Frame:
    """One picture and where it comes from."""

    image: np.ndarray  # (H, W, 3) uint8 BGR, or (H, W, 4) of a file with alpha or a fourth band
    path: str  # file, URL, or address of the camera
    mode: Mode
    index: int = 0  # which item of the source (file or camera), from 0
    count: int = 0  # how many items the source has; 0 when nobody knows
    number: int = 0  # which frame of a video or stream, from 0
    frames: int = 0  # how many frames the video will give; 0 when nobody knows
    fps: float = 0.0  # frames a second that the item gives after skipping; 0 when nobody knows


class Source(Protocol):
    """Iterating gives lists of frames to be looked at together."""

    live: bool  # frames come in their own time, and the answer is wanted before the next one
    length: int | None  # how many lists come, when that is known without opening every file

    def __iter__(self) -> Generator[list[Frame], None, None]: ...  # closing it frees files and threads
