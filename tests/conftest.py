"""Fixtures that every test may use."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

# Before torch: tests share the cores with each other and with the processes that they start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as utils.optional.require sets it
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a shell starts in the background ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # `nohup`
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material: goldens, photographs, the official checkpoint. Skips when absent."""
    folder = Path(os.environ.get("LEAN5_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no reference material at {folder}; set LEAN5_SHARED to its folder")
    return folder


@pytest.fixture
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run_command` in this process: it must not listen to the signals of tests that come later."""
    monkeypatch.setattr("utils.interrupt.Watch.begin", lambda watch: None)


@pytest.fixture(autouse=True)
def messages_reach_the_test() -> None:
    """Undo what an earlier command did to the loggers when it set up the console."""
    logger = logging.getLogger("lean5")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


@pytest.fixture(autouse=True)
def traces_are_forgotten() -> Iterator[None]:
    """torch.jit keeps a class for every module that was ever traced, and torch.fx sets attributes of
    `nn.Module`, which visits all subclasses: after some hundred exports half of a test's time went there."""
    yield
    recursive: Any = sys.modules.get("torch.jit._recursive")
    if recursive is not None:
        recursive.concrete_type_store = recursive.ConcreteTypeStore()


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    return shared / "golden"


@pytest.fixture(scope="session")
def linked_data(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labelled photographs by way of links: label caches are written beside these, not there."""
    root = tmp_path_factory.mktemp("linked")
    for kind in ("images", "labels"):
        for split in (shared / "data").glob(f"*/{kind}/*"):
            link = root / split.relative_to(shared / "data")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(split.resolve(), target_is_directory=True)
    return root


@pytest.fixture(scope="session")
def official_weights(shared: Path) -> Path:
    return shared / "weights" / "yolov5n-v6.0.pt"


def write_squares(
    root: Path, counts: dict[str, int], side: int, squares: int, sizes: tuple[int, int]
) -> Path:
    """Write a data set of bright squares of two classes on grey and return its data yaml.

    Args:
        counts: images of each split.
        side: of the images, in pixels.
        squares: per image; classes alternate.
        sizes: smallest and largest side of a square, in pixels.
    """
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        (root / "images" / split).mkdir(parents=True)
        (root / "labels" / split).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(90, 130, (side, side, 3), dtype=np.uint8)
            rows = []
            for square in range(squares):
                size = int(rng.integers(*sizes, endpoint=True))
                x, y = rng.integers(2, side - size - 2, 2)
                image[y : y + size, x : x + size] = ((255, 60, 60), (60, 255, 60))[square % 2]
                xc, yc, length = (x + size / 2) / side, (y + size / 2) / side, size / side
                rows.append(f"{square % 2} {xc} {yc} {length} {length}\n")
            cv2.imwrite(str(root / "images" / split / f"{number}.png"), image)
            (root / "labels" / split / f"{number}.txt").write_text("".join(rows), encoding="utf-8")
    yaml = root / "squares.yaml"
    yaml.write_text(
        f"path: {root}\ntrain: images/train\nval: images/val\nnames: [blue, green]\n", encoding="utf-8"
    )
    return yaml


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data yaml of 12 training and 4 validation images, 64 px, two squares each."""
    return write_squares(tmp_path_factory.mktemp("tiny"), {"train": 12, "val": 4}, 64, 2, (20, 20))


@pytest.fixture(scope="session")
def dense_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data yaml of 32 training and 4 validation images, 128 px, a dozen squares of many sizes each."""
    return write_squares(tmp_path_factory.mktemp("dense"), {"train": 32, "val": 4}, 128, 12, (8, 90))


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """`with full_disk(limit):` no file gets longer than `limit` bytes, as on a disk that fills."""
    resource = pytest.importorskip("resource", reason="the system has no limit on the size of files")

    @contextmanager
    def limited(limit: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python itself has it
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, previous)

    return limited
