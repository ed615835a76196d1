"""Batches in the order of an epoch, made ahead of time by worker processes or threads.

Training pictures are made by processes, since much of an augmentation is Python; plain pictures by threads of
this process, which start at once and copy nothing, since decoding runs outside the interpreter lock. Either
way a batch depends on its key alone, so that the number of workers changes the speed and nothing else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from functools import partial

import numpy as np
import torch

from utils.data.batch import Batch, BatchArrays, BatchKey
from utils.data.dataset import PARTNERS, DetectionDataset, keep, make_batch
from utils.data.shards.ranges import reading_pool
from utils.data.workers import WorkerPool
from utils.errors import UserError
from utils.pipeline import ordered_map, thread_pool
from utils.seeding import generator_for

AHEAD = 2  # batches that a worker process, or all threads together, may be ahead


class Loader:
    """Iterating gives the `Batch`es of one epoch, in an order of its own.

    Args:
        dataset: its `batch_size` is that of one rank.
        workers: processes (training) or threads (validation), at most one a core; 0 makes batches on demand.
        shuffle: a new order each epoch, the same on all ranks; each rank gets every `world_size`-th image,
            and equally many. Without it, ranks may differ by a batch and no image comes twice.
        quad: four pictures in one of twice the side; the batch has a quarter of the images.

    """

    def __init__(
        self,
        dataset: DetectionDataset,
        *,
        workers: int,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        quad: bool = False,
    ) -> None:
        self.dataset, self.batch_size, self.shuffle = dataset, dataset.batch_size, shuffle
        self.seed, self.rank, self.world_size, self.quad = seed, rank, world_size, quad
        self.workers = min(workers, os.cpu_count() or 1, len(self))
        self.epoch, self.start_batch = 0, 0
        self.weights: np.ndarray | None = None
        self._processes: WorkerPool | None = None

    def __len__(self) -> int:
        """Batches of a whole epoch on this rank, however many of them are skipped."""
        if self.dataset.rect:
            return self._share(len(self.dataset.batch_shapes))
        return math.ceil(self._share(len(self.dataset)) / self.batch_size)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Choose what the next iteration gives: the order and the draws of `epoch`, from `start_batch` on."""
        self.epoch, self.start_batch = epoch, start_batch

    def set_weights(self, weights: np.ndarray | None) -> None:
        """Draw images with replacement in proportion to `weights` (N,) from now on; None: each once.

        Raises:
            ValueError: wrong length, a negative weight, or nothing but zeros.
        """
        if weights is not None:
            weights = np.asarray(weights, np.float64)
            if weights.shape != (len(self.dataset),) or (weights < 0).any() or not 0 < weights.sum() < np.inf:
                raise ValueError(f"weights: expected {len(self.dataset)} finite numbers >= 0, not all zero")
            if self.dataset.rect:
                raise ValueError("weights: rectangular batches have a fixed order")
        self.weights = weights

    def keys(self) -> Iterator[BatchKey]:
        """The keys of the batches that the next iteration gives."""
        rng = generator_for(self.seed, self.epoch)
        order = self._order(rng)
        batches = self._batches(rng)
        partners = order[rng.integers(0, len(order), (len(order), PARTNERS))]
        for number, positions in batches[self.start_batch :]:
            images = np.concatenate([order[positions, None], partners[positions]], axis=1)
            yield BatchKey(self.epoch, number, positions, images)

    def places(self) -> list[int]:
        """Where the images that the next iteration gives, one after the other, stand in the epoch's order."""
        return [int(place) for key in self.keys() for place in key.positions]

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        count = len(self.dataset)
        if self.weights is not None:
            return rng.choice(count, count, p=self.weights / self.weights.sum())
        return rng.permutation(count) if self.shuffle and not self.dataset.rect else self.dataset.order

    def _batches(self, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
        """Number and places in the epoch's order of each batch of this rank; rectangular ones stay whole."""
        count, size = len(self.dataset), self.batch_size
        if not self.dataset.rect:
            mine = self._shard(np.arange(count))
            return [(number, mine[number * size : (number + 1) * size]) for number in range(len(self))]
        numbers = np.arange(len(self.dataset.batch_shapes))
        chosen = self._shard(rng.permutation(numbers) if self.shuffle else numbers).tolist()
        return [(n, np.arange(n * size, min((n + 1) * size, count))) for n in chosen]

    def _share(self, count: int) -> int:
        """How many of so many items this rank gets."""
        first = 0 if self.shuffle else self.rank
        return len(range(first, count, self.world_size))

    def _shard(self, items: np.ndarray) -> np.ndarray:
        """This rank's items. In training the first ones come twice where ranks would get out of step."""
        if self.shuffle:
            items = np.resize(items, self._share(len(items)) * self.world_size)
        return items[self.rank :: self.world_size]

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            UserError: an image cannot be read, or a worker process has died.
        """
        if self.workers == 0:
            return (_as_tensors(self.dataset.batch(key, quad=self.quad)) for key in self.keys())
        return map(_as_tensors, self._from_processes() if self.dataset.augment else self._from_threads())

    def close(self) -> None:
        """End the worker processes, if there are any. The loader can be used again."""
        if self._processes is not None:
            self._processes.shutdown(cancel_futures=True)
            self._processes = None

    def _from_threads(self) -> Iterator[BatchArrays]:
        """The threads share the images of each batch, so that the first one comes soon.

        The pool that reads ends first: what it was at may be a server that does not answer.
        """
        with thread_pool(AHEAD) as batches, reading_pool(self.workers) as images:
            make = partial(self.dataset.batch, quad=self.quad, pool=images)
            yield from ordered_map(batches, make, self.keys(), depth=AHEAD + 1)

    def _from_processes(self) -> Iterator[BatchArrays]:
        if self._processes is None:
            self.dataset.index.share()
            self._processes = WorkerPool(self.workers, keep, self.dataset)
        make = partial(make_batch, quad=self.quad)
        try:
            yield from ordered_map(self._processes, make, self.keys(), depth=AHEAD * self.workers)
        except BrokenProcessPool as error:
            self.close()
            raise UserError(
                "a data loading process has died; out of memory? Try fewer --workers, or 0"
            ) from error


def _as_tensors(arrays: BatchArrays) -> Batch:
    images = torch.from_numpy(arrays.images)
    if torch.cuda.is_available():
        images = images.pin_memory()
    return Batch(images, torch.from_numpy(arrays.targets), arrays.paths, arrays.shapes)
