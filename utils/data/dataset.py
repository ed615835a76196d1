"""From image numbers to batches: which pictures are made, and how they and their boxes become tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch

from utils.data.augmentations import copy_paste, jitter_colour
from utils.data.cache import CacheMode, open_store
from utils.data.index import DatasetIndex
from utils.data.letterbox import BACKGROUND, fit
from utils.data.mosaic import Picture, mixup, mosaic, single
from utils.data.objects import Objects
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters
from utils.seeding import generator_for

PARTNERS = 7  # images besides its own that a sample may show: three in its mosaic, four in one to blend with

Shapes = tuple[tuple[int, int], tuple[tuple[float, float], tuple[float, float]]]
"""Source (height, width); then output per source pixel (height, width) and padding (left, top)"""


class Batch(NamedTuple):
    """What the network is fed with."""

    images: torch.Tensor  # (B, 3, H, W) uint8 RGB
    targets: torch.Tensor  # (M, 6) float32: image number in the batch, class, xc, yc, w, h normalised to H, W
    paths: list[str]
    shapes: list[Shapes]


class BatchKey(NamedTuple):
    """All that a batch depends on, besides the data set: worker processes keep no state of their own."""

    epoch: int
    number: int  # of the batch among the rectangular ones; its shape depends on it
    positions: np.ndarray  # (B,) int64: place of each sample in the order of the epoch
    images: np.ndarray  # (B, 1 + PARTNERS) int64: image numbers, the sample's own first


class Sample(NamedTuple):
    """Labels and origin of a picture that has been written into a batch."""

    labels: np.ndarray  # (n, 5) float32 class, xc, yc, w, h
    shapes: Shapes


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
        seed: int = 0,
    ) -> None:
        """
        Args:
            imgsz: long side of a picture in pixels.
            hyp: strength of the augmentations; the defaults when None.
            augment: draw mosaics, warps, colours and flips; with `rect`, no mosaics.
            rect: give each batch the smallest shape that holds its images, sorted by aspect ratio.
            batch_size: images that share a shape when `rect`.
            pad: added to the shape of rectangular batches, in strides.
            cache: keep scaled images in memory or beside their sources.
        """
        self.index, self.size, self.augment, self.rect = index, imgsz, augment, rect
        self.hyp = hyp or Hyperparameters()
        self.seed, self.batch_size = seed, batch_size
        self.store = open_store(index, imgsz, augment=augment, cache=cache)
        self.order = np.arange(len(index))  # images in the order of an epoch that is not shuffled
        self.batch_shapes: list[tuple[int, int]] = []
        if rect:
            self.order, self.batch_shapes = plan_rectangles(index.shapes, imgsz, batch_size, stride, pad)

    def __len__(self) -> int:
        return len(self.index)

    def shape_of(self, key: BatchKey) -> tuple[int, int]:
        """Height and width of the batch."""
        return self.batch_shapes[key.number] if self.rect else (self.size, self.size)

    def batch(self, key: BatchKey, *, quad: bool = False) -> Batch:
        """Make a batch: a pure function of its key.

        Raises:
            UserError: an image has gone or changed since it was indexed.
        """
        images = torch.empty((len(key.positions), 3, *self.shape_of(key)), dtype=torch.uint8)
        planes = images.numpy()
        batch = self.assemble(key, images, [self.draw(key, i, planes[i]) for i in range(len(planes))])
        return (
            quadruple(batch, generator_for(self.seed, key.epoch, int(key.positions[0]), 4)) if quad else batch
        )

    def assemble(self, key: BatchKey, images: torch.Tensor, samples: Sequence[Sample]) -> Batch:
        """Put together what `draw` gave for each image of a batch."""
        counts = [len(sample.labels) for sample in samples]
        targets = np.zeros((sum(counts), 6), np.float32)
        targets[:, 0] = np.repeat(np.arange(len(samples)), counts)
        targets[:, 1:] = np.concatenate([np.zeros((0, 5), np.float32), *(s.labels for s in samples)])
        paths = [self.index.path(i) for i in key.images[:, 0]]
        return Batch(images, torch.from_numpy(targets), paths, [sample.shapes for sample in samples])

    def draw(self, key: BatchKey, i: int, planes: np.ndarray) -> Sample:
        """Make picture `i` of a batch and write it, RGB, into `planes` (3, H, W) uint8."""
        if not self.augment:
            return self._plain(int(key.images[i, 0]), planes)
        rng = generator_for(self.seed, key.epoch, int(key.positions[i]), int(key.images[i, 0]))
        size = (int(planes.shape[1]), int(planes.shape[2]))
        picture = self._warped(rng, key.images[i], size)
        cv2.split(jitter_colour(rng, picture.image, self.hyp), list(planes))
        return Sample(picture.objects.to_labels(size), (size, ((1.0, 1.0), (0.0, 0.0))))

    # -- plain pictures --

    def _plain(self, number: int, planes: np.ndarray) -> Sample:
        """Letterbox into the given shape, as validation and inference do."""
        image = self.store.load(number)
        height, width = image.shape[:2]
        target = (planes.shape[1], planes.shape[2])
        plan = fit((height, width), target, auto=False, scaleup=False)
        inner_h, inner_w = plan.inner
        if plan.inner != (height, width):
            image = cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_LINEAR)
        top, _, left, _ = plan.borders
        if any(plan.borders):
            planes.fill(BACKGROUND)
        planes[:, top : top + inner_h, left : left + inner_w] = cv2.split(image)[::-1]
        source_h, source_w = self.store.source_shape(number)
        ratio = (plan.scale * height / source_h, plan.scale * width / source_w)
        labels = self.index.labels(number).copy()
        side = np.array([width * plan.scale, height * plan.scale], np.float32)
        whole = np.array([target[1], target[0]], np.float32)
        labels[:, 1:3] = (labels[:, 1:3] * side + np.array(plan.pad, np.float32)) / whole
        labels[:, 3:5] *= side / whole
        return Sample(labels, ((source_h, source_w), (ratio, plan.pad)))

    # -- augmented pictures --

    def _warped(self, rng: np.random.Generator, numbers: np.ndarray, size: tuple[int, int]) -> Picture:
        """One mosaic, two blended ones, or one warped image; `numbers` (1 + PARTNERS,) are the candidates."""
        if self.rect or rng.random() >= self.hyp.mosaic:
            return single(rng, self._loaded(rng, int(numbers[0])), size, self.hyp)
        picture = self._mosaic(rng, numbers[:4])
        if rng.random() < self.hyp.mixup:
            picture = mixup(rng, picture, self._mosaic(rng, numbers[4:8]))
        return picture

    def _mosaic(self, rng: np.random.Generator, numbers: np.ndarray) -> Picture:
        tiles = [self._loaded(rng, int(number)) for number in rng.permutation(numbers)]
        return mosaic(rng, tiles, self.size, self.hyp)

    def _loaded(self, rng: np.random.Generator, number: int) -> Picture:
        image = self.store.load(number)
        shape = (image.shape[0], image.shape[1])
        polygons = self.index.polygons(number) if self.index.has_polygons else ()
        objects = Objects.from_labels(self.index.labels(number), shape, polygons)
        if self.hyp.copy_paste and polygons:
            image, objects = copy_paste(rng, image, objects, self.hyp.copy_paste)
        return Picture(image, objects)


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
    order = np.argsort(aspect)  # YOLOv5 breaks ties like this, and a batch's members decide its padding
    batches = []
    for start in range(0, len(order), batch_size):
        ratios = aspect[order[start : start + batch_size]]
        # Only when all images of a batch are wide (or all are tall) can it be less than a square.
        sides = np.array([min(ratios.max(), 1.0), min(1 / ratios.min(), 1.0)])
        height, width = np.ceil(sides * size / stride + pad).astype(int) * stride
        batches.append((int(height), int(width)))
    return order, batches


def quadruple(batch: Batch, rng: np.random.Generator) -> Batch:
    """Make each four pictures of a batch into one of twice the side: all four, or the first one enlarged.

    A remainder of one to three pictures is dropped, or enlarged when there is nothing else.
    """
    count, _, height, width = batch.images.shape
    groups = max(count // 4, 1)
    images = torch.empty((groups, 3, 2 * height, 2 * width), dtype=torch.uint8)
    targets = []
    for group in range(groups):
        members = range(4 * group, min(4 * group + 4, count))
        if len(members) < 4 or rng.random() < 0.5:
            picture = batch.images[members[0]][None].float()
            images[group] = torch.nn.functional.interpolate(picture, scale_factor=2.0, mode="bilinear")[
                0
            ].byte()
            targets.append(_relabelled(batch.targets, members[0], group, 1.0, (0.0, 0.0)))
            continue
        for place, member in enumerate(members):
            row, column = divmod(place, 2)
            top, left = row * height, column * width
            images[group, :, top : top + height, left : left + width] = batch.images[member]
            targets.append(_relabelled(batch.targets, member, group, 0.5, (column / 2, row / 2)))
    first = [4 * group for group in range(groups)]
    return Batch(
        images, torch.cat(targets), [batch.paths[i] for i in first], [batch.shapes[i] for i in first]
    )


def _relabelled(
    targets: torch.Tensor, member: int, group: int, scale: float, shift: tuple[float, float]
) -> torch.Tensor:
    """The targets of picture `member`, scaled and moved, as those of picture `group`."""
    rows = targets[targets[:, 0] == member].clone()
    rows[:, 0] = group
    rows[:, 2:] *= scale
    rows[:, 2:4] += torch.tensor(shift)
    return rows
