"""Images scaled to the training size: decoded each time, or kept in memory or on disk.

What `--cache` chooses. All three ways give the same pixels, so a cache changes the speed of a run and nothing
else. (What the scan of the labels found is kept by `label_cache.py`.)
"""

from __future__ import annotations

import contextlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from utils.console import LOGGER, progress
from utils.data.folders import is_writable
from utils.data.images import read_image
from utils.data.index import DatasetIndex
from utils.data.workers import SharedArray
from utils.errors import UserError
from utils.files import atomic_write

CacheMode = Literal["ram", "disk"]
SPARE = 1.25  # memory that must be free, as a multiple of what the cache takes


class ImageStore:
    """Gives image `i` of an index as (h, w, 3) uint8 BGR, its long side `size` pixels. Do not write to it."""

    def __init__(self, index: DatasetIndex, size: int, *, augment: bool) -> None:
        self.index, self.size, self.augment = index, size, augment

    def shape(self, i: int) -> tuple[int, int]:
        """Height and width of `load(i)`."""
        height, width = self.index.shape(i)
        longest = max(height, width)
        return math.ceil(height * self.size / longest), math.ceil(width * self.size / longest)

    def bytes_of(self, i: int) -> int:
        """What `load(i)` takes in memory."""
        return 3 * math.prod(self.shape(i))

    def load(self, i: int) -> np.ndarray:
        """Decode and scale.

        Raises:
            UserError: the file is gone, or is another picture than the one that was indexed.
        """
        height, width = source = self.index.shape(i)
        shape = self.shape(i)
        image = read_image(self.index.path(i))
        if image.shape[:2] != source:
            seen = f"{image.shape[1]}x{image.shape[0]}"
            raise UserError(
                f"{self.index.path(i)}: was {width}x{height} when indexed, is {seen}; start again"
            )
        if image.shape[:2] == shape:
            return image
        soft = self.augment or shape[0] > height or shape[1] > width
        return cv2.resize(
            image, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR if soft else cv2.INTER_AREA
        )


class MemoryStore(ImageStore):
    """All images in one array, which worker processes share with their parent."""

    def __init__(self, index: DatasetIndex, size: int, *, augment: bool) -> None:
        super().__init__(index, size, augment=augment)
        self.offsets = np.cumsum([0, *map(self.bytes_of, range(len(index)))])
        self.memory = SharedArray((int(self.offsets[-1]),), np.uint8)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            jobs = pool.map(self._fill, range(len(index)))
            list(progress(jobs, "caching images", total=len(index), unit=" images"))

    def _fill(self, i: int) -> None:
        self.load(i)[...] = super().load(i)

    def load(self, i: int) -> np.ndarray:
        return self.memory.view()[self.offsets[i] : self.offsets[i + 1]].reshape(*self.shape(i), 3)


class DiskStore(ImageStore):
    """Each image in an .npy beside its source, written when it is first needed.

    The copy carries the modification time of the source, and counts only while both agree.
    """

    writable = True

    def copy_of(self, i: int) -> Path:
        return Path(f"{self.index.path(i)}.{self.size}{'t' if self.augment else 'v'}.npy")

    def load(self, i: int) -> np.ndarray:
        copy = self.copy_of(i)
        try:
            stamp = os.stat(self.index.path(i)).st_mtime_ns  # noqa: PTH116
            if os.stat(copy).st_mtime_ns == stamp:  # noqa: PTH116
                image = np.load(copy, allow_pickle=False)
                if image.dtype == np.uint8 and image.shape == (*self.shape(i), 3):
                    return image
        except (OSError, ValueError, EOFError, MemoryError):
            pass  # no copy yet, or a damaged one
        image = super().load(i)
        if self.writable:
            try:
                stamp = os.stat(self.index.path(i)).st_mtime_ns  # noqa: PTH116
                with atomic_write(copy, durable=False) as file:
                    np.save(file, image, allow_pickle=False)
                os.utime(copy, ns=(stamp, stamp))
            except OSError as error:
                self.writable = False
                LOGGER.warning("images are not cached on disk: %s: %s", copy.parent, error.strerror)
        return image


def open_store(index: DatasetIndex, size: int, *, augment: bool, cache: CacheMode | None) -> ImageStore:
    """The store for `--cache`; one that keeps nothing when memory is short or the images are read-only."""
    plain = ImageStore(index, size, augment=augment)
    if cache == "ram":
        needed = sum(map(plain.bytes_of, range(len(index))))
        free = available_memory()
        if free is None or needed * SPARE < free:
            LOGGER.info("caching %d images in memory: %.2f GB", len(index), needed / 1e9)
            return MemoryStore(index, size, augment=augment)
        LOGGER.warning(
            "images are not cached: %.1f GB needed, %.1f GB of memory free", needed / 1e9, free / 1e9
        )
    elif cache == "disk":
        folder = Path(index.path(0)).parent
        if is_writable(folder):
            return DiskStore(index, size, augment=augment)
        LOGGER.warning("images are not cached on disk: %s is read-only", folder)
    return plain


def available_memory() -> int | None:
    """Bytes that can be taken without swapping, or None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
