"""From image numbers to batches: which pictures are made, and how they and their boxes become tensors."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from functools import partial

import numpy as np

from utils.data.augment.mosaic import IMAGES
from utils.data.augment.objects import Objects
from utils.data.augment.picture import Draw, Picture
from utils.data.augment.quad import quadruple
from utils.data.augment.recipe import recipe
from utils.data.augment.window import whole_ones
from utils.data.batch import BatchArrays, BatchKey, Sample
from utils.data.channels import write_planes
from utils.data.image_cache import CacheMode, open_store
from utils.data.images import ImageError
from utils.data.index import DatasetIndex
from utils.data.letterbox import BACKGROUND, letterbox
from utils.data.shards.places import is_remote, of_member
from utils.data.shards.ranges import reading_ahead
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for

PARTNERS = 2 * IMAGES - 1  # images besides its own that a sample may show: two mosaics blended


class DetectionDataset:
    """Pictures of one split at one size."""

    def __init__(
        self,
        index: DatasetIndex,
        imgsz: int,
        *,
        hyp: Hyperparameters | None = None,
        augment: bool = False,
        rect: bool = False,
        batch_size: int = 16,
        stride: int = 32,
        pad: float = 0.0,
        cache: CacheMode | None = None,
        channels: int = 3,
        window: int | None = None,
        seed: int = 0,
    ) -> None:
        """
        Args:
            imgsz: long side of a picture in pixels.
            hyp: strength of the augmentations; the defaults when None.
            augment: draw mosaics, warps, colours and flips; with `rect`, no mosaics.
            rect: give each batch the smallest shape that holds its images, sorted by aspect ratio.
            batch_size: images of a batch, which share a shape when `rect`.
            pad: added to the shape of rectangular batches, in strides.
            cache: keep scaled images in memory or beside their sources.
            channels: of the pictures, those of the network: see `channels.py`.
            window: side in pixels of the parts that are shown of pictures; some batches have fewer pictures
                instead, whole. With `augment` and without `rect`.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, found {batch_size}")
        if window is not None and (rect or not augment):
            raise ValueError("windows are parts of augmented pictures that are not rectangular")
        self.index, self.size, self.augment, self.rect = index, imgsz, augment, rect
        self.seed, self.batch_size = seed, batch_size
        self.window = imgsz if window is None else window
        self.store = open_store(index, imgsz, augment=augment, cache=cache, channels=channels)
        strengths, polygons = hyp or Hyperparameters(), index.has_polygons
        mosaics = augment and not rect and strengths.mosaic > 0
        remote = (
            cache != "ram" and len(index) > 0 and any(is_remote(index.path(i)) for i in {0, len(index) - 1})
        )
        self.far = (IMAGES if mosaics else 1) * (augment and remote)  # images of a sample to ask for ahead
        within = None if window is None else imgsz
        self.recipe = recipe(strengths, self._load, mosaics=not rect, polygons=polygons, side=within)
        self.order = np.arange(len(index))  # images in the order of an epoch that is not shuffled
        self.batch_shapes: list[tuple[int, int]] = []
        if rect:
            self.order, self.batch_shapes = plan_rectangles(index.shapes, imgsz, batch_size, stride, pad)

    def __len__(self) -> int:
        return len(self.index)

    def batch(self, key: BatchKey, *, quad: bool = False, pool: Executor | None = None) -> BatchArrays:
        """Make a batch: a pure function of its key.

        Args:
            pool: threads that make its pictures side by side.

        Raises:
            UserError: an image has changed since it was indexed or, with `augment`, cannot be read.
        """
        key, shape = self._shown(key)
        images = np.empty((len(key.positions), self.store.channels, *shape), np.uint8)
        draw_all = pool.map if pool else map
        with reading_ahead(self._needed(key)):  # threads of a pool ask side by side anyway
            samples = list(draw_all(partial(self.draw, key), range(len(images)), images))
        counts = [len(sample.labels) for sample in samples]
        targets = np.zeros((sum(counts), 6), np.float32)
        targets[:, 0] = np.repeat(np.arange(len(samples)), counts)
        targets[:, 1:] = np.concatenate([np.zeros((0, 5), np.float32), *(s.labels for s in samples)])
        paths = [self.index.path(i) for i in key.images[:, 0]]
        batch = BatchArrays(images, targets, paths, [sample.shapes for sample in samples])
        if not quad:
            return batch
        return quadruple(batch, generator_for(self.seed, key.epoch, int(key.positions[0]), 4))

    def _shown(self, key: BatchKey) -> tuple[BatchKey, tuple[int, int]]:
        """The samples that a batch shows, and the (height, width) of its pictures."""
        if self.rect:
            return key, self.batch_shapes[key.number]
        whole = whole_ones(key, self.window, self.size) if self.window < self.size else None
        side = self.window if whole is None else self.size
        return whole or key, (side, side)

    def _needed(self, key: BatchKey) -> Iterator[tuple[str, int, int]]:
        """Where the images of a batch lie, when that is behind an address: those that most samples show."""
        if self.far:
            for i in key.images[:, : self.far].ravel():
                yield of_member(self.index.path(int(i))) or ("", 0, 0)

    def draw(self, key: BatchKey, i: int, planes: np.ndarray) -> Sample:
        """Make picture `i` of a batch and write it, red first, into `planes` (C, H, W) uint8."""
        if not self.augment:
            return self._plain(int(key.images[i, 0]), planes)
        rng = generator_for(self.seed, key.epoch, int(key.positions[i]), int(key.images[i, 0]))
        size = (int(planes.shape[1]), int(planes.shape[2]))
        picture = self.recipe(Draw(rng, key.images[i], size))
        write_planes(picture.image, planes)
        return Sample(picture.objects.to_labels(size), (size, ((1.0, 1.0), (0.0, 0.0))))

    def _plain(self, number: int, planes: np.ndarray) -> Sample:
        """Letterbox into the given shape, as validation and inference do."""
        try:
            image = self.store.load(number)
        except ImageError:  # the scan reads heads only; whoever counts pictures tells of it
            planes[:] = BACKGROUND
            return Sample(np.zeros((0, 5), np.float32), None)
        height, width = image.shape[:2]
        target = (planes.shape[1], planes.shape[2])
        boxed, (scale, _), pad = letterbox(image, target, auto=False, scaleup=False)
        write_planes(boxed, planes)
        source_h, source_w = self.index.shape(number)
        ratio = (scale * height / source_h, scale * width / source_w)
        labels = self.index.labels(number).copy()
        side = np.array([width * scale, height * scale], np.float32)
        whole = np.array([target[1], target[0]], np.float32)
        labels[:, 1:3] = (labels[:, 1:3] * side + np.array(pad, np.float32)) / whole
        labels[:, 3:5] *= side / whole
        return Sample(labels, ((source_h, source_w), (ratio, pad)))

    def _load(self, draw: Draw) -> Picture:
        """The first image that is drawn, with what is on it."""
        number = int(draw.images[0])
        image = self.store.load(number)
        polygons = self.index.polygons(number) if self.index.has_polygons else ()
        labels = self.index.labels(number)
        return Picture.of(image, Objects.from_labels(labels, (image.shape[0], image.shape[1]), polygons))


def plan_rectangles(
    shapes: np.ndarray, size: int, batch_size: int, stride: int, pad: float
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Sort images by aspect ratio and find the shape of each batch.

    Args:
        shapes: (N, 2) height and width of the sources.
        pad: in strides.

    Returns:
        The image numbers (N,) from wide to tall, and (height, width) for each batch of them.

    Raises:
        UserError: `size` is too small for the stride.
    """
    if size < stride:
        raise UserError(f"image size {size} is below the stride {stride} of the model")
    aspect = shapes[:, 0] / shapes[:, 1]
    order = np.argsort(aspect, kind="stable")  # another tie-break would depend on the CPU
    batches = []
    for start in range(0, len(order), batch_size):
        ratios = aspect[order[start : start + batch_size]]
        # Only when all images of a batch are wide (or all are tall) can it be less than a square.
        sides = np.array([min(ratios.max(), 1.0), min(1 / ratios.min(), 1.0)])
        height, width = np.ceil(sides * size / stride + pad).astype(int) * stride
        batches.append((int(height), int(width)))
    return order, batches


# ---- in a worker process ----

_own: DetectionDataset


def keep(dataset: DetectionDataset) -> None:
    """Hold on to the data set that batches are wanted of."""
    global _own
    _own = dataset


def make_batch(key: BatchKey, *, quad: bool) -> BatchArrays:
    """A batch of the data set that is held."""
    return _own.batch(key, quad=quad)
