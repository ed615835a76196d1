import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from utils.data.batch import Batch, BatchKey
from utils.data.dataset import DetectionDataset
from utils.data.index import DatasetIndex, build_index
from utils.data.loader import Loader
from utils.errors import UserError
from utils.files import ROOT
from utils.seeding import generator_for

COUNT = 22


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    folder = tmp_path_factory.mktemp("data")
    for name in ("images", "labels"):
        (folder / name).mkdir()
    for number in range(COUNT):
        image = generator_for(number).integers(0, 255, (40 + 2 * number, 60, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"images/{number:02d}.png"), image)
        (folder / f"labels/{number:02d}.txt").write_text("0 0.5 0.5 0.5 0.5\n", encoding="utf-8")
    return build_index([folder / "images"], {0: "a"}, cache=False)


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def training(index: DatasetIndex, size: int = 4, **options: int) -> Loader:
    dataset = DetectionDataset(index, 64, augment=True, seed=1, batch_size=size)
    return Loader(dataset, shuffle=True, seed=1, **{"workers": 0, **options})


def same(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) and a[2:] == b[2:]
        for a, b in zip(left, right)
    )


def keys_of(loader: Loader) -> list[BatchKey]:
    return list(loader.keys())


def images_of(loader: Loader) -> list[int]:
    return [int(image) for key in keys_of(loader) for image in key.images[:, 0]]


def test_workers_change_nothing(index: DatasetIndex, two_cores: None) -> None:
    alone, together = training(index), training(index, workers=2)
    assert together.workers == 2
    for epoch in (0, 1, 7):
        alone.set_epoch(epoch)
        together.set_epoch(epoch)
        state = torch.random.get_rng_state()
        assert same(list(alone), list(together))
        assert torch.equal(state, torch.random.get_rng_state())
    together.close()
    assert same(list(alone), list(together))


def test_threads_change_nothing(index: DatasetIndex, two_cores: None) -> None:
    dataset = DetectionDataset(index, 64, rect=True, batch_size=4, pad=0.5)
    alone, together = (Loader(dataset, workers=workers, shuffle=False) for workers in (0, 2))
    before = len(multiprocessing.active_children())
    for _ in range(2):
        assert same(list(alone), list(together))
    assert len(multiprocessing.active_children()) <= before


def test_threads_of_an_abandoned_iteration_end(index: DatasetIndex, two_cores: None) -> None:
    loader = Loader(DetectionDataset(index, 64, batch_size=2), workers=2, shuffle=False)
    for _ in loader:
        break
    assert len(list(loader)) == 11


def test_abandoned_epoch_does_not_leak_into_the_next(index: DatasetIndex, two_cores: None) -> None:
    loader = training(index, workers=2)
    for _ in loader:
        break
    loader.set_epoch(3)
    reference = training(index)
    reference.set_epoch(3)
    assert same(list(loader), list(reference))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_within_an_epoch(index: DatasetIndex, workers: int, two_cores: None) -> None:
    loader = training(index, workers=workers)
    loader.set_epoch(2)
    whole = list(loader)
    resumed = training(index, workers=workers)
    resumed.set_epoch(2, start_batch=4)
    assert same(list(resumed), whole[4:])
    assert len(resumed) == len(whole) == 6  # 22 images by 4
    resumed.set_epoch(3)
    loader.set_epoch(3)
    assert same(list(resumed), list(loader))


def test_epochs_have_orders_of_their_own(index: DatasetIndex) -> None:
    loader = training(index)
    orders = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        orders.append(images_of(loader))
        assert sorted(orders[-1]) == list(range(COUNT))
    assert orders[0] != orders[1] != orders[2]
    loader.set_epoch(0)
    assert images_of(loader) == orders[0]
    plain = Loader(DetectionDataset(index, 64, batch_size=4), workers=0, shuffle=False)
    assert images_of(plain) == list(range(COUNT))


def test_ranks_share_an_epoch(index: DatasetIndex) -> None:
    whole = list(training(index, size=8))
    ranks = [list(training(index, size=4, rank=rank, world_size=2)) for rank in range(2)]
    assert [len(batches) for batches in ranks] == [3, 3]
    for together, *parts in zip(whole, *ranks):
        # every second picture of the large batch is that of the second rank
        mixed = torch.stack([part.images for part in parts], dim=1).flatten(0, 1)
        assert torch.equal(mixed, together.images)


def test_ranks_stay_in_step(index: DatasetIndex) -> None:
    loaders = [training(index, size=2, rank=rank, world_size=4) for rank in range(4)]
    images = [images_of(loader) for loader in loaders]
    assert [len(each) for each in images] == [6, 6, 6, 6]  # 22 padded to 24
    assert set().union(*images) == set(range(COUNT))
    assert [len(loader) for loader in loaders] == [3, 3, 3, 3]


def test_ranks_of_a_validation_see_each_image_once(index: DatasetIndex) -> None:
    dataset = DetectionDataset(index, 64, rect=True, batch_size=4)
    loaders = [Loader(dataset, workers=0, shuffle=False, rank=r, world_size=4) for r in range(4)]
    assert sorted(image for loader in loaders for image in images_of(loader)) == list(range(COUNT))
    assert [len(loader) for loader in loaders] == [2, 2, 1, 1]  # 6 batches
    assert all(len(keys_of(loader)) == len(loader) for loader in loaders)


def test_rectangles_are_shuffled_as_batches(index: DatasetIndex) -> None:
    dataset = DetectionDataset(index, 64, rect=True, batch_size=4)
    loader = Loader(dataset, workers=0, shuffle=True)
    plain = [tuple(images) for images in np.array_split(dataset.order, range(4, COUNT, 4))]
    shuffled = [tuple(key.images[:, 0]) for key in keys_of(loader)]
    assert sorted(plain) == sorted(shuffled)
    assert plain != shuffled
    for key, batch in zip(keys_of(loader), loader):
        assert tuple(batch.images.shape[2:]) == dataset.batch_shapes[key.number]


def test_image_weights(index: DatasetIndex) -> None:
    loader = training(index)
    weights = np.zeros(COUNT)
    weights[[3, 5]] = 3, 1
    loader.set_weights(weights)
    drawn = []
    for epoch in range(40):
        loader.set_epoch(epoch)
        for key in keys_of(loader):
            assert set(key.images.ravel()) <= {3, 5}  # partners of a mosaic too
            drawn += key.images[:, 0].tolist()
    assert len(drawn) == 40 * COUNT
    assert drawn.count(3) / len(drawn) == pytest.approx(0.75, abs=0.06)
    first, second = list(loader)[:2]
    assert not torch.equal(first.images[0], second.images[0])  # drawn again, but not augmented alike
    loader.set_weights(None)
    assert sorted(images_of(loader)) == list(range(COUNT))
    for wrong in (np.ones(3), np.zeros(COUNT), -np.ones(COUNT), np.full(COUNT, np.nan)):
        with pytest.raises(ValueError, match="weights"):
            loader.set_weights(wrong)


def test_rectangles_are_not_drawn_by_weight(index: DatasetIndex) -> None:
    loader = Loader(DetectionDataset(index, 64, rect=True), workers=0, shuffle=True)
    with pytest.raises(ValueError, match="rectangular batches have a fixed order"):
        loader.set_weights(np.ones(COUNT))


def test_every_image_may_be_a_partner_of_another(index: DatasetIndex) -> None:
    loader, seen, first = training(index), set(), set()
    for epoch in range(40):
        loader.set_epoch(epoch)
        keys = keys_of(loader)
        leader = int(keys[0].images[0, 0])  # of the epoch's order
        first.add(leader)
        seen |= {leader for key in keys if leader in key.images[:, 1:]}
    assert seen == first


def test_quad(index: DatasetIndex, two_cores: None) -> None:
    loader = training(index, quad=True)
    batches = list(loader)
    assert [len(batch.images) for batch in batches] == [1] * 6
    assert batches[0].images.shape == (1, 3, 128, 128)
    assert same(batches, list(training(index, quad=True, workers=2)))


def test_a_batch_has_at_least_one_image(index: DatasetIndex) -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        DetectionDataset(index, 64, batch_size=0)


# --- when things go wrong ---


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_went_bad_ends_training_and_names_its_file(
    tmp_path: Path, workers: int, two_cores: None
) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), np.zeros((32, 32, 3), np.uint8))
    index = build_index([tmp_path / "images"], {0: "a"}, cache=False)
    (tmp_path / "images/2.png").write_bytes(b"gone bad")
    dataset = DetectionDataset(index, 32, augment=True, batch_size=2)
    with pytest.raises(UserError, match=r"2\.png: unreadable image") as caught:
        list(Loader(dataset, workers=workers, shuffle=False))
    assert "\n" not in str(caught.value)


DEATH = """
import multiprocessing, os, signal, sys
from pathlib import Path
from utils.data.dataset import DetectionDataset
from utils.data.index import build_index
from utils.data.loader import Loader
from utils.errors import run_command
os.cpu_count = lambda: 2
index = build_index([Path(sys.argv[1])], {0: "a"}, cache=False)
loader = Loader(DetectionDataset(index, 64, augment=True, batch_size=1), workers=2, shuffle=True)
def main():
    batches = iter(loader)
    next(batches)
    workers = [child.pid for child in multiprocessing.active_children()]
    os.kill(workers[0], signal.SIGKILL)
    try:
        list(batches)
    finally:
        assert len(list(loader)) == len(loader)  # a new set of workers
        loader.close()
run_command(main)
"""


def test_killed_worker_is_an_error_not_a_hang(index: DatasetIndex) -> None:
    command = [sys.executable, "-c", DEATH, str(Path(index.path(0)).parent)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2, ended.stderr
    assert "error: a data loading process has died" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr


SCRIPT = """
import multiprocessing, os, signal, sys
from pathlib import Path
from utils.data.dataset import DetectionDataset
from utils.data.index import build_index
from utils.data.loader import Loader
os.cpu_count = lambda: 2
index = build_index([Path(sys.argv[1])], {0: "a"}, cache=False)
loader = Loader(DetectionDataset(index, 64, augment=True, batch_size=2), workers=2, shuffle=True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
told = False
while True:
    for batch in loader:
        if not told:
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
            told = True
"""


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(index: DatasetIndex, number: signal.Signals) -> None:
    command = [sys.executable, "-c", SCRIPT, str(Path(index.path(0)).parent)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout is not None
            workers = [int(pid) for pid in process.stdout.readline().split()]
            assert workers
            assert all(map(alive, workers))
            process.send_signal(number)
            process.wait(20)
        finally:
            process.kill()
    patience = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not any(map(alive, workers))
