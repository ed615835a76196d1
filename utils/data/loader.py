"""Batches in the order of an epoch, made ahead of time by worker processes or threads.

Training pictures are made by processes, since much of an augmentation is Python; plain pictures by threads of
this process, which start at once and copy nothing, since decoding runs outside the interpreter lock. Either
way a batch depends on its key alone, so that the number of workers changes the speed and nothing else.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from utils.data.dataset import PARTNERS, Batch, BatchKey, DetectionDataset, Sample, quadruple
from utils.errors import UserError
from utils.seeding import generator_for

AHEAD = 2  # batches that a worker process, or all threads together, may be ahead


class Loader:
    """Iterating gives the `Batch`es of one epoch; see `build_loader`."""

    def __init__(
        self,
        dataset: DetectionDataset,
        batch_size: int,
        *,
        workers: int,
        shuffle: bool,
        seed: int,
        rank: int,
        world_size: int,
        quad: bool,
    ) -> None:
        self.dataset, self.batch_size, self.shuffle = dataset, batch_size, shuffle
        self.seed, self.rank, self.world_size, self.quad = seed, rank, world_size, quad
        self.workers = min(workers, os.cpu_count() or 1, len(self))
        self.epoch, self.start_batch = 0, 0
        self.weights: np.ndarray | None = None
        self._processes: DataLoader | None = None

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
        numbers = np.arange(len(self.dataset.batch_shapes))
        if self.dataset.rect:
            order, groups = self.dataset.order, rng.permutation(numbers) if self.shuffle else numbers
        else:
            order, groups = self._order(rng), numbers
        partners = order[rng.integers(0, len(order), (len(order), PARTNERS))]
        for number, positions in self._positions(len(order), groups):
            images = np.concatenate([order[positions, None], partners[positions]], axis=1)
            yield BatchKey(self.epoch, number, positions, images)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        count = len(self.dataset)
        if self.weights is not None:
            return rng.choice(count, count, p=self.weights / self.weights.sum())
        return rng.permutation(count) if self.shuffle else self.dataset.order

    def _positions(self, count: int, groups: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Places in the epoch's order for each batch of this rank; rectangular ones stay whole."""
        if self.dataset.rect:
            for number in self._shard(groups)[self.start_batch :]:
                start = int(number) * self.dataset.batch_size
                yield int(number), np.arange(start, min(start + self.dataset.batch_size, count))
        else:
            mine = self._shard(np.arange(count))
            for start in range(self.start_batch * self.batch_size, len(mine), self.batch_size):
                yield start // self.batch_size, mine[start : start + self.batch_size]

    def _share(self, count: int) -> int:
        return (
            len(range(self.rank, count, self.world_size))
            if not self.shuffle
            else -(-count // self.world_size)
        )

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
            return (self.dataset.batch(key, quad=self.quad) for key in self.keys())
        return self._from_processes() if self.dataset.augment else self._from_threads()

    def close(self) -> None:
        """End the worker processes, if there are any. The loader can be used again."""
        self._processes = None

    # -- threads --

    def _from_threads(self) -> Iterator[Batch]:
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="images")
        coming: deque[tuple[BatchKey, torch.Tensor, list[Future[Sample]]]] = deque()
        keys = self.keys()
        try:
            while True:
                while len(coming) <= AHEAD and (key := next(keys, None)) is not None:
                    shape = (len(key.positions), 3, *self.dataset.shape_of(key))
                    images = torch.empty(shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
                    planes = images.numpy()
                    jobs = [pool.submit(self.dataset.draw, key, i, planes[i]) for i in range(len(planes))]
                    coming.append((key, images, jobs))
                if not coming:
                    return
                key, images, jobs = coming.popleft()
                batch = self.dataset.assemble(key, images, [job.result() for job in jobs])
                rng = generator_for(self.dataset.seed, key.epoch, int(key.positions[0]), 4)
                yield quadruple(batch, rng) if self.quad else batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    # -- processes --

    def _from_processes(self) -> Iterator[Batch]:
        if self._processes is None:
            self._processes = self._start()
        try:
            for batch in _deaths_told_in_turn(self._processes):
                if isinstance(batch, _Failure):
                    raise UserError(batch.message)
                images, targets, paths, shapes = batch
                yield Batch(images, torch.as_tensor(targets), paths, shapes)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            self.close()
            cause = " ".join(str(error).split())
            hint = "out of memory, or of /dev/shm? Try fewer --workers, or 0"
            raise UserError(f"a data loading process has died: {cause} {hint}") from error

    def _start(self) -> DataLoader:
        forks = "fork" in multiprocessing.get_all_start_methods()
        return DataLoader(
            _Batches(self.dataset, self.quad),
            batch_size=None,
            sampler=_Keys(self),  # any iterable with a length will do
            num_workers=self.workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_prepare_worker,
            multiprocessing_context="fork" if forks else None,
            generator=torch.Generator(),  # otherwise each epoch would draw from torch's global state
            prefetch_factor=AHEAD,
            persistent_workers=True,
        )


def build_loader(
    dataset: DetectionDataset,
    batch_size: int,
    *,
    workers: int,
    shuffle: bool,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    quad: bool = False,
) -> Loader:
    """Make a loader.

    Args:
        batch_size: images of a batch on one rank; that of the data set when it is rectangular.
        workers: processes (training) or threads (validation), at most one a core; 0 makes batches on demand.
        shuffle: a new order each epoch, the same on all ranks; each rank gets every `world_size`-th image,
            and equally many. Without it, ranks may differ by a batch and no image comes twice.
        quad: four pictures in one of twice the side; the batch has a quarter of the images.

    Raises:
        ValueError: `batch_size` below 1, or not that of a rectangular data set.
    """
    if batch_size < 1 or (dataset.rect and batch_size != dataset.batch_size):
        raise ValueError(f"batch_size {batch_size}: must be positive and that of a rectangular data set")
    return Loader(
        dataset,
        batch_size,
        workers=workers,
        shuffle=shuffle,
        seed=seed,
        rank=rank,
        world_size=world_size,
        quad=quad,
    )


def _deaths_told_in_turn(loader: DataLoader) -> Iterator[Any]:
    """The loader's iterator, which tells of a worker's death when it is next asked for a batch.

    Left to itself, torch raises the error from a signal handler: in any line of the process, and again with
    each child that ends.
    """
    if threading.current_thread() is not threading.main_thread():
        return iter(loader)  # handlers are the main thread's
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return batches


class _Failure(str):
    """A user's fault on its way from a worker: torch would wrap the exception into pages of traceback."""

    __slots__ = ()

    @property
    def message(self) -> str:
        return str(self)


class _Batches(Dataset):
    """The data set as worker processes see it: keys in, batches out."""

    def __init__(self, dataset: DetectionDataset, quad: bool) -> None:
        self.dataset, self.quad = dataset, quad

    def __getitem__(self, key: BatchKey) -> tuple | _Failure:
        try:
            images, targets, paths, shapes = self.dataset.batch(key, quad=self.quad)
        except UserError as error:
            return _Failure(error)
        # Small arrays travel faster inside the message than as shared memory of their own.
        return images, targets.numpy(), paths, shapes


class _Keys:
    """What torch calls a sampler. It asks the loader afresh each epoch, so workers can stay alive.

    It must not keep the loader alive, or the workers would live until the garbage collector finds the cycle.
    """

    def __init__(self, loader: Loader) -> None:
        self.loader = weakref.proxy(loader)

    def __iter__(self) -> Iterator[BatchKey]:
        return iter(self.loader.keys())

    def __len__(self) -> int:
        return len(self.loader) - self.loader.start_batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _prepare_worker(_: int) -> None:
    """One thread each, and deaf to Ctrl-C and to signals for the whole group: their end is up to the parent.

    SIGTERM itself must keep working, since that is how a parent that exits gets rid of its workers.
    """
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
