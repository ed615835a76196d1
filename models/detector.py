"""From pictures to boxes: letterbox, network, suppression and back to the picture's pixels, as one module."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from models.runtimes.base import Backend
from models.runtimes.pytorch import PyTorchBackend
from models.yolo import DetectionModel
from utils.boxes import scale_boxes
from utils.console import warn
from utils.data.channels import OPAQUE, RED_TO_FRONT, stacked, with_channels
from utils.data.images import eight_bit_bgr
from utils.data.letterbox import fit, letterbox, round_up
from utils.data.sources import read_picture
from utils.detections.results import Results
from utils.device import synchronise
from utils.errors import UserError
from utils.nms import non_max_suppression

TOLERANCE = 1e-3  # that interpolation may leave the range 0–1 by
Picture: TypeAlias = Any  # path, URL, PIL image, array or tensor


@dataclass(frozen=True)
class Prepared:
    """A batch ready for the network, with the way back.

    Attributes:
        images: (B, C, H, W) uint8, red first.
        sources: per image (height, width) of the source picture.
    """

    images: Tensor
    sources: list[tuple[int, int]]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the batch."""
        return int(self.images.shape[2]), int(self.images.shape[3])


def prepare(
    images: Sequence[np.ndarray],
    size: int | tuple[int, int],
    *,
    stride: int = 32,
    exact: bool = False,
    channels: int = 3,
) -> Prepared:
    """Letterbox pictures to one shape and stack them; pure numpy work that a reading thread can do.

    Args:
        images: (H, W, C) uint8 each, blue first, of any shapes and channels.
        size: longest side in pixels, or the (height, width) to fit into.
        stride: both sides become multiples of it.
        exact: pad to the whole of `size`, for networks that take one shape only.
        channels: what the network takes; pictures get that number by `with_channels`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    target = (round_up(height, stride), round_up(width, stride))
    shapes = [(image.shape[0], image.shape[1]) for image in images]
    if not exact and len(set(shapes)) > 1:
        target, exact = _common_shape(shapes, target, stride), True
    fitting = (with_channels(image, channels) for image in images)
    boxed = [letterbox(image, target, stride=stride, auto=not exact)[0] for image in fitting]
    return Prepared(torch.from_numpy(stacked(boxed)), shapes)


def _common_shape(shapes: Sequence[tuple[int, int]], target: tuple[int, int], stride: int) -> tuple[int, int]:
    """The least shape, in multiples of the stride, that holds every picture once it fits into `target`."""
    inner = [fit(shape, target, stride=stride).inner for shape in shapes]
    return round_up(max(h for h, _ in inner), stride), round_up(max(w for _, w in inner), stride)


class Detector(nn.Module):
    """A network with everything around it: give it pictures, get `Results`.

    Attributes:
        conf, iou: thresholds of the confidence and of suppression.
        agnostic: let boxes of different classes suppress each other.
        multi_label: let one box have several classes.
        classes: class indices to keep; None for all.
        max_det: most detections a picture.
        amp: mixed precision on CUDA.
    """

    conf = 0.25
    iou = 0.45
    agnostic = False
    multi_label = False
    classes: Sequence[int] | None = None
    max_det = 1000
    amp = False
    _told = False  # that a picture lacks a channel

    def __init__(self, model: Backend | DetectionModel) -> None:
        super().__init__()
        if isinstance(model, DetectionModel):
            parameter = next(model.parameters())
            model = PyTorchBackend(model, parameter.device, half=parameter.dtype == torch.float16, fuse=False)
        self.backend = model
        self.names = dict(model.names)
        self.stride = model.stride
        self.eval()

    @property
    def model(self) -> Backend:
        """The network, which has `names` and `stride` too, under YOLOv5's name."""
        return self.backend

    @property
    def channels(self) -> int:
        """Channels of the pictures that the network takes; those it is given may have others."""
        return self.backend.channels

    @property
    def device(self) -> torch.device:
        """Where the network is, also after `.to()` or `.cuda()`."""
        parameter = next(self.backend.parameters(), None)
        return self.backend.device if parameter is None else parameter.device

    def forward(
        self,
        pictures: Picture | Sequence[Picture],
        size: int | tuple[int, int] = 640,
        augment: bool = False,
        profile: bool = False,
    ) -> Results | Tensor:
        """Detect on one picture or a list of them.

        Args:
            pictures: a path or URL; a PIL image; an array (H, W, 3) or (3, H, W) **RGB** (OpenCV reads
                BGR: pass `image[..., ::-1]`) of uint8, uint16, bool or float 0–1, also (H, W) grey and
                (H, W, 4) RGBA; a tensor (3, H, W) as an array; a list of these; or a batch (B, C, H, W) float
                RGB 0–1 of the network's channels, used as it is, sides multiples of the stride.
            size: longest side that the network sees, in pixels; pictures of a list share one padded shape.
            augment: test-time augmentation.
            profile: accepted for compatibility; times are always measured.

        Returns:
            Results; of a batch, as in YOLOv5, the raw prediction (B, N, 5 + nc).

        Raises:
            UserError: a picture that cannot be read or understood.
        """
        if isinstance(pictures, Tensor) and torch.jit.is_tracing():
            return self.backend(pictures)
        with torch.inference_mode():
            if isinstance(pictures, Tensor) and pictures.ndim == 4:
                self._check_batch(pictures)
                return self.backend(pictures.to(self.device), augment)
            several = isinstance(pictures, (list, tuple))
            loaded = [load_picture(p, i) for i, p in enumerate(pictures if several else [pictures])]
            if not loaded:
                raise UserError("no pictures given")
            start = time.perf_counter()
            batch = self.prepare([image for image, _ in loaded], size)
            before = time.perf_counter() - start
            shown = [cv2.cvtColor(with_channels(image, 3), cv2.COLOR_BGR2RGB) for image, _ in loaded]
            files = [file for _, file in loaded]
            rows, (convert, inference, after) = self.detect(batch, augment)
        times = (before + convert, inference, after)
        return Results(shown, rows, self.names, files, times, tuple(batch.images.shape))

    def _check_batch(self, images: Tensor) -> None:
        """Raise a UserError unless a batch needs no preparation."""
        if not images.is_floating_point() or images.shape[1] != self.channels:
            expected = f"a batch must be (B, {self.channels}, H, W) float 0–1"
            raise UserError(f"{expected}, found {tuple(images.shape)} {images.dtype}")
        if not len(images) or not (images.min() >= -TOLERANCE and images.max() <= 1 + TOLERANCE):
            raise UserError(f"a float batch must hold values from 0 to 1, found {_range(images)}")
        if any(side % self.stride for side in images.shape[2:]):
            raise UserError(
                f"sides of a batch must be multiples of {self.stride}, found {tuple(images.shape)}"
            )

    def prepare(self, images: Sequence[np.ndarray], size: int | tuple[int, int]) -> Prepared:
        """`prepare` as this network needs it: its stride and channels, its shape when it has only one."""
        backend = self.backend
        if self.channels == 4 and not self._told and any(image.shape[2] < 4 for image in images):
            self._told = True
            warn(f"the network takes 4 channels; pictures without a fourth have {OPAQUE} there")
        exact, channels = not backend.any_shape, self.channels
        return prepare(images, backend.shape or size, stride=self.stride, exact=exact, channels=channels)

    @torch.inference_mode()
    def detect(
        self, batch: Prepared, augment: bool = False
    ) -> tuple[list[Tensor], tuple[float, float, float]]:
        """Run the network on a prepared batch.

        Returns:
            Per image (n, 6) float32 x1, y1, x2, y2 in pixels of the source picture, confidence, class; and
            the seconds that conversion, inference and suppression took.
        """
        device = self.device
        start = time.perf_counter()
        images = batch.images.to(device)
        if not images.is_floating_point():
            images = images.float() / 255
        converted = self.clock()
        with torch.autocast(device.type, enabled=self.amp and device.type == "cuda"):
            prediction = self.backend(images, augment)
        inferred = self.clock()
        if prediction.ndim != 3:
            raise UserError(
                f"the network gave {tuple(prediction.shape)} instead of (B, N, 5 + classes); it must be in "
                "evaluation mode: call .eval() on it"
            )
        self._check_names(prediction.shape[2] - 5)
        rows = non_max_suppression(
            prediction,
            self.conf,
            self.iou,
            classes=self.classes,
            agnostic=self.agnostic,
            multi_label=self.multi_label,
            max_det=self.max_det,
        )
        for row, shape in zip(rows, batch.sources):
            # Scale and padding follow from the shapes, as in YOLOv5's detect; with the painted padding,
            # a whole number, boxes differ by a third of a pixel.
            row[:, :4] = scale_boxes(row[:, :4], batch.size, shape)
        return rows, (converted - start, inferred - converted, self.clock() - inferred)

    def clock(self) -> float:
        """The time in seconds, when the device has done all that it was given."""
        synchronise(self.device)
        return time.perf_counter()

    def _check_names(self, count: int) -> None:
        """Files without class names may meet a --data of another network; wrong names would mislead."""
        if len(self.names) != count:
            if self.names:
                warn(f"the network has {count} classes, {len(self.names)} names are given; numbers are used")
            self.names.clear()  # in place: logs and writers hold this dictionary
            self.names.update({index: f"class{index}" for index in range(count)})


def load_picture(picture: Picture, index: int = 0) -> tuple[np.ndarray, str]:
    """One picture of any accepted kind as (array, file name).

    The array is (H, W, 3) uint8 BGR, or (H, W, 4) where the picture has alpha or a fourth band.

    Raises:
        UserError: unreadable, or nothing that could be a picture.
    """
    if isinstance(picture, (str, Path)):
        return read_picture(str(picture)), Path(str(picture)).name
    name = f"image{index}.jpg"
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu()
        if picture.is_floating_point():
            picture = picture.float()  # numpy has no bfloat16
        picture = picture.numpy()
    elif not isinstance(picture, np.ndarray):
        return _from_pillow(picture, name)
    return _bgr(picture), name


def _from_pillow(picture: Picture, name: str) -> tuple[np.ndarray, str]:
    from PIL import Image, ImageOps  # only for callers that have such images, and so have it loaded

    if not isinstance(picture, Image.Image):
        raise UserError(
            f"cannot detect on a {type(picture).__name__}; give a path, array, PIL image or tensor, or a list"
        )
    file = Path(getattr(picture, "filename", "") or name).name
    return eight_bit_bgr(ImageOps.exif_transpose(picture), fourth=True), file


def _bgr(array: np.ndarray) -> np.ndarray:
    """RGB, RGBA or grey, channels first or last, of a type for `_eight_bits`, as uint8 BGR or BGRA."""
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise UserError(f"a picture must be (H, W, 3) or (3, H, W), found {array.shape}")
    array = _eight_bits(array)
    if array.shape[2] == 1:
        return with_channels(np.ascontiguousarray(array), 3)
    swap = RED_TO_FRONT[array.shape[2]]  # and blue to the front
    return cv2.cvtColor(np.ascontiguousarray(array), swap)


def _eight_bits(array: np.ndarray) -> np.ndarray:
    """uint8 as it is, uint16 by its upper byte, bool as 0 and 255, float 0–1 times 255."""
    kind = array.dtype.kind, array.dtype.itemsize
    if kind == ("u", 1):
        return array
    if kind == ("u", 2):
        return (array >> 8).astype(np.uint8)
    if kind == ("b", 1):
        return array.astype(np.uint8) * np.uint8(255)
    expected = "a picture must be uint8, uint16, bool, or float from 0 to 1"
    if kind[0] != "f":
        raise UserError(f"{expected}; found {array.dtype} (convert it: `array.astype('uint8')`)")
    if not (array.min() >= -TOLERANCE and array.max() <= 1 + TOLERANCE):  # NaN fails both
        raise UserError(f"{expected}; found {array.dtype} {_range(array)}")
    return (array.clip(0, 1) * 255).round().astype(np.uint8)


def _range(values: np.ndarray | Tensor) -> str:
    """The values' range for an error message, `nan` among them or none at all included."""
    return f"{float(values.min()):g} to {float(values.max()):g}" if 0 not in values.shape else "no values"
