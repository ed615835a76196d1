"""Pictures, videos and streams as YOLOv5's data loaders give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from utils.data import letterbox as own
from utils.data.channels import with_channels
from utils.data.frames import Frame
from utils.data.images import IMAGE_SUFFIXES
from utils.data.sources import VIDEOS, FileSource, expand, suffix_of
from utils.data.streams import StreamSource
from utils.errors import UserError
from utils.reading import read_lines

IMG_FORMATS = tuple(sorted(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES))
VID_FORMATS = tuple(sorted(suffix.removeprefix(".") for suffix in VIDEOS))
Transform = Callable[[np.ndarray], Any]
Side = int | Sequence[int]


def letterbox(
    im: np.ndarray,
    new_shape: Side = (640, 640),
    color: tuple[int, int, int] = (own.BACKGROUND,) * 3,
    auto: bool = True,
    scaleFill: bool = False,
    scaleup: bool = True,
    stride: int = 32,
) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """An (H, W, C) uint8 picture resized and padded, its ratio (w, h) and the padding (left, top).

    Raises:
        ValueError: another colour than (114, 114, 114), or `scaleFill`, which networks are not trained with.
    """
    if scaleFill or set(color) != {own.BACKGROUND}:
        raise ValueError("letterbox pads with (114, 114, 114) and keeps proportions; resize with cv2 instead")
    return own.letterbox(im, _pair(new_shape), stride=int(stride), auto=auto, scaleup=scaleup)


def _pair(side: Side) -> tuple[int, int]:
    return (side, side) if isinstance(side, int) else (int(side[0]), int(side[-1]))


class Capture:
    """What scripts ask of the `cv2.VideoCapture` of a video: its `get`."""

    def __init__(self, frame: Frame) -> None:
        height, width = frame.image.shape[:2]
        self._known = {
            cv2.CAP_PROP_FPS: frame.fps, cv2.CAP_PROP_FRAME_COUNT: frame.frames,
            cv2.CAP_PROP_POS_FRAMES: frame.number + 1,
            cv2.CAP_PROP_FRAME_WIDTH: width, cv2.CAP_PROP_FRAME_HEIGHT: height,
        }  # fmt: skip

    def get(self, prop: int) -> float:
        """A property of the video; 0 for those that are not known, as OpenCV answers."""
        return float(self._known.get(prop, 0))


class _Loader:
    mode = "image"
    count = frame = frames = 0

    def __init__(self, img_size: Side, stride: int, auto: bool, transforms: Transform | None) -> None:
        self.img_size, self.stride, self.auto, self.transforms = img_size, int(stride), auto, transforms

    def prepared(self, image: np.ndarray, auto: bool) -> Any:
        """(3, H, W) uint8 RGB, or what `transforms` make of the picture."""
        if self.transforms:
            return self.transforms(image)
        boxed, _, _ = letterbox(image, self.img_size, stride=self.stride, auto=auto)
        return np.ascontiguousarray(boxed[..., ::-1].transpose(2, 0, 1))


class LoadImages(_Loader):
    """Image and video files: yields path, im (3, H, W) uint8 RGB, im0 (H, W, 3) uint8 BGR, capture, text.

    Attributes:
        mode: "image" or "video", what the newest picture is from.
        count: files that have ended; frame, frames: place in a video, from 1, and its length.
        nf: number of files; video_flag: which of them are videos.

    Raises:
        UserError: nothing is there, or it is nothing that can be read.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str | Path],
        img_size: Side = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transform | None = None,
        vid_stride: int = 1,
    ) -> None:
        super().__init__(img_size, stride, auto, transforms)
        several = [path] if isinstance(path, (str, Path)) else path
        self.files = [file for item in several for file in expand(str(item))]
        self.nf = len(self.files)
        self.video_flag = [suffix_of(file) in VIDEOS for file in self.files]
        self.source = FileSource(self.files, vid_stride=vid_stride)

    def __len__(self) -> int:
        return self.nf

    def __iter__(self) -> Iterator[tuple[str, Any, np.ndarray, Capture | None, str]]:
        for group in self.source:
            for found in group:
                self.mode, self.count = found.mode, found.index + (found.mode == "image")
                self.frame, self.frames = found.number + 1, found.frames
                im0 = with_channels(found.image, 3)
                place = f"{found.mode} {found.index + 1}/{self.nf}"
                inside = f" ({self.frame}/{self.frames})" if found.mode == "video" else ""
                capture = Capture(found) if found.mode == "video" else None
                text = f"{place}{inside} {found.path}: "
                yield found.path, self.prepared(im0, self.auto), im0, capture, text


class LoadStreams(_Loader):
    """Cameras: yields their addresses, im (B, 3, H, W) uint8 RGB, a list of im0 (H, W, 3) BGR, None, "".

    B is the number of cameras that have a new picture; `sources` are all of them.

    Args:
        sources: an address or webcam number, or a file with one a line.
    """

    mode = "stream"

    def __init__(
        self,
        sources: str = "file.streams",
        img_size: Side = 640,
        stride: int = 32,
        auto: bool = True,
        transforms: Transform | None = None,
        vid_stride: int = 1,
    ) -> None:
        super().__init__(img_size, stride, auto, transforms)
        self.sources = read_lines(Path(sources)) if Path(sources).is_file() else [str(sources)]
        if not self.sources:
            raise UserError(f"list file '{sources}' is empty")
        self.source = StreamSource(self.sources, vid_stride=vid_stride)

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[tuple[list[str], Any, list[np.ndarray], None, str]]:
        for group in self.source:
            self.count = self.frame = group[0].number + 1
            pictures = [with_channels(found.image, 3) for found in group]
            alike = len({picture.shape for picture in pictures}) == 1
            images = np.stack([self.prepared(picture, self.auto and alike) for picture in pictures])
            yield [found.path for found in group], images, pictures, None, ""
