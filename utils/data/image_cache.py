"""Images scaled to the training size: decoded each time, or kept in memory or on disk.

What `--cache` chooses. All three ways give the same pixels, so a cache changes the speed of a run and nothing
else. (What the scan of the labels found is kept by `label_cache.py`.)
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from utils.console import LOGGER, progress
from utils.data.channels import COLOUR, OPAQUE, keep_axis
from utils.data.folders import is_writable
from utils.data.images import read_image
from utils.data.index import DatasetIndex
from utils.data.report import counted
from utils.data.shards.places import of_member
from utils.data.shards.ranges import reading_pool
from utils.data.shared import SharedArray
from utils.errors import UserError
from utils.files import atomic_write, sweep
from utils.memory import available_memory

CacheMode = Literal["ram", "disk"]
LOOKED_AT = 8  # pictures, at least where there are as many, in search of a fourth channel
SPARE = 1.25  # memory that must be free, as a multiple of what the cache takes


class ImageStore:
    """Gives image `i` of an index as (h, w, channels) uint8, its long side `size` pixels.

    What `load` gives may be shared: do not write to it.
    """

    def __init__(self, index: DatasetIndex, size: int, *, augment: bool, channels: int = 3) -> None:
        self.index, self.size, self.augment, self.channels = index, size, augment, channels

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of `load(i)`."""
        height, width = self.index.shape(i)
        longest = max(height, width)
        return math.ceil(height * self.size / longest), math.ceil(width * self.size / longest)

    def bytes_of(self, i: int) -> int:
        """What `load(i)` takes in memory."""
        return self.channels * math.prod(self.shape(i))

    def load(self, i: int) -> np.ndarray:
        """Decode and scale.

        Raises:
            UserError: the file is gone, or is another picture than the one that was indexed.
        """
        height, width = source = self.index.shape(i)
        shape = self.shape(i)
        image = read_image(self.index.path(i), self.channels)
        if image.shape[:2] != source:
            seen = f"{image.shape[1]}x{image.shape[0]}"
            raise UserError(
                f"{self.index.path(i)}: was {width}x{height} when indexed, is {seen}; start again"
            )
        if image.shape[:2] == shape:
            return image
        soft = self.augment or shape[0] > height or shape[1] > width
        how = cv2.INTER_LINEAR if soft else cv2.INTER_AREA
        return keep_axis(cv2.resize(image, (shape[1], shape[0]), interpolation=how))


class MemoryStore(ImageStore):
    """All images in one array, which worker processes share with their parent."""

    def __init__(self, index: DatasetIndex, size: int, *, augment: bool, channels: int = 3) -> None:
        super().__init__(index, size, augment=augment, channels=channels)
        self.offsets = np.cumsum([0, *map(self.bytes_of, range(len(index)))])
        self.memory = SharedArray((int(self.offsets[-1]),), np.uint8)
        with reading_pool(os.cpu_count()) as pool:
            jobs = pool.map(self._fill, range(len(index)))
            list(progress(jobs, "caching images", total=len(index), unit=" images"))

    def _fill(self, i: int) -> None:
        self.load(i)[...] = super().load(i)

    def load(self, i: int) -> np.ndarray:
        return self.memory.view()[self.offsets[i] : self.offsets[i + 1]].reshape(
            *self.shape(i), self.channels
        )


class DiskStore(ImageStore):
    """Each image in an .npy beside its source, written when it is first needed.

    Behind the array the copy keeps the time and size that the source had before it was read, and counts only
    while the source still has both.
    """

    writable = True

    def copy_of(self, i: int) -> Path:
        """The file for image `i`: each number of channels has its own, or models would take turns."""
        channels = "" if self.channels == COLOUR else f"{self.channels}ch"
        return Path(f"{self.index.path(i)}.{self.size}{'t' if self.augment else 'v'}{channels}.npy")

    def load(self, i: int) -> np.ndarray:
        copy, source = self.copy_of(i), self.index.path(i)
        stamp = _stamp(source)
        try:
            with copy.open("rb") as file:
                image = np.load(file, allow_pickle=False)
                whole = image.dtype == np.uint8 and image.shape == (*self.shape(i), self.channels)
                if whole and stamp and file.read() == stamp:
                    return image
        except (OSError, ValueError, EOFError, MemoryError):
            pass  # no copy yet, or a damaged one
        image = super().load(i)
        if self.writable:
            try:
                with atomic_write(copy, durable=False) as file:
                    np.save(file, image, allow_pickle=False)
                    file.write(stamp)
            except OSError as error:
                self.writable = False
                LOGGER.warning("images are not cached on disk: %s: %s", copy.parent, error.strerror)
        return image


def _stamp(path: str) -> bytes:
    """What changes when somebody writes to a file; nothing of a file that is not there."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return b""
    return f"{status.st_mtime_ns} {status.st_size}".encode()


def _check_fourth(store: ImageStore) -> None:
    """Say when a fourth channel is wanted, and none of a few pictures has one."""
    few = range(0, len(store.index), max(len(store.index) // LOOKED_AT, 1))
    if all((read_image(store.index.path(i), 4)[..., 3] == OPAQUE).all() for i in few):
        pictures, were = counted(len(few), "picture"), "was" if len(few) == 1 else "were"
        LOGGER.warning(
            f"the model takes 4 channels and none of {pictures} that {were} looked at has a fourth: "
            f"it is {OPAQUE} there"
        )


def open_store(
    index: DatasetIndex, size: int, *, augment: bool, cache: CacheMode | None, channels: int = 3
) -> ImageStore:
    """The store for `--cache`; one that keeps nothing when memory is short or the images are read-only."""
    plain = ImageStore(index, size, augment=augment, channels=channels)
    if channels == 4:
        _check_fourth(plain)
    if cache == "ram":
        needed = sum(map(plain.bytes_of, range(len(index))))
        free = available_memory()
        if free is None or needed * SPARE < free:
            LOGGER.info("caching %d images in memory: %.2f GB", len(index), needed / 1e9)
            return MemoryStore(index, size, augment=augment, channels=channels)
        LOGGER.warning(
            "images are not cached: %.1f GB needed, %.1f GB of memory free", needed / 1e9, free / 1e9
        )
    elif cache == "disk" and of_member(index.path(0)) is not None:
        LOGGER.warning(
            "images are not cached on disk: they lie in tar shards; --cache ram keeps them in memory"
        )
    elif cache == "disk":
        folder = Path(index.path(0)).parent
        if is_writable(folder):
            sweep(folder)
            return DiskStore(index, size, augment=augment, channels=channels)
        LOGGER.warning("images are not cached on disk: %s is read-only", folder)
    return plain
