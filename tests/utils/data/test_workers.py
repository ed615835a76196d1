"""Worker processes: where they come from, what they bring along, and that they share what is large."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest

from utils.data.dataset import DetectionDataset, keep
from utils.data.index import DatasetIndex
from utils.data.report import LabelReport
from utils.data.shared import SharedArray
from utils.data.workers import WorkerPool
from utils.files import ROOT

LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="looks at /proc")
_kept: list[np.ndarray] = []


def status(pid: int | str, name: str) -> str:
    """A field of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(line.split("\t")[1] for line in lines if line.startswith(f"{name}:"))


def private_megabytes() -> float:
    """Memory of this process that it shares with no other."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) / 1000


def about_a_worker() -> tuple[bool, int, str, int]:
    """Whether torch is loaded, active threads, ignored signals, and the server that it was forked from."""
    return "torch" in sys.modules, threading.active_count(), status("self", "SigIgn"), os.getppid()


@LINUX
def test_workers_come_from_a_server_without_threads_and_do_without_torch() -> None:
    with WorkerPool(1) as pool:
        torch_is_there, threads, ignored, server = pool.submit(about_a_worker).result()
        assert not torch_is_there
        assert threads == 2  # the second waits for the parent's end
        assert int(ignored, 16) & 1 << 1  # SIGINT is 2
        assert server != os.getpid()
        assert status(server, "Threads") == "1"


def end_at_once() -> None:
    os._exit(3)


def test_death_of_a_worker_is_told() -> None:
    with WorkerPool(1) as pool, pytest.raises(BrokenProcessPool):
        pool.submit(end_at_once).result()


def test_a_process_that_is_not_needed_may_hang() -> None:
    pool = WorkerPool(2)
    ended = [pool.submit(os.getpid).result()]
    pool.submit(time.sleep, 600)
    start = time.monotonic()
    pool.shutdown(cancel_futures=True)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessLookupError):
        while True:
            os.kill(ended[0], 0)
            time.sleep(0.01)


UNGUARDED = """
from utils.data.workers import WorkerPool
print("once")
with WorkerPool(2) as pool:
    print(sum(job.result() for job in [pool.submit(abs, -n) for n in range(5)]))
"""


GROUP = """
import os, signal, time
from utils.data.workers import WorkerPool, start_server
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: None)
start_server()
os.killpg(0, signal.SIGTERM)  # while the server starts
pool = WorkerPool(1)
worker = pool.submit(os.getpid).result()
job = pool.submit(time.sleep, 0.5)
for number in (signal.SIGTERM, signal.SIGINT):
    os.killpg(0, number)
os.kill(worker, signal.SIGINT)  # which reaches every process of a console on Windows
job.result()
print("all is there")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a signal to a group of processes")
def test_a_signal_to_the_whole_group_is_for_the_parent_alone(tmp_path: Path) -> None:
    """As `timeout` and batch systems send it; the parent saves first, which takes its workers' help."""
    (tmp_path / "program.py").write_text(GROUP, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "program.py")]
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        start_new_session=True,
    )
    assert ended.stdout == "all is there\n", ended.stderr


def test_a_program_without_guard_is_not_started_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True)
    assert ended.stdout.split() == ["once", "10"], ended.stderr


def hold(shared: SharedArray) -> None:
    _kept.append(shared.view())


def add(value: int) -> int:
    _kept[0] += value
    return int(_kept[0].sum())


@pytest.mark.parametrize("small", [False, True])
def test_shared_arrays_are_one(small: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if small:  # shared memory of no size: a temporary file does as well
        monkeypatch.setattr("multiprocessing.heap.Arena._dir_candidates", [])
    shared = SharedArray.of(np.arange(6, dtype=np.int32).reshape(2, 3))
    with WorkerPool(1, hold, shared) as pool:
        assert pool.submit(add, 10).result() == 75  # 0 + 1 + … + 5 + 6 * 10
    assert shared.view().tolist() == [[10, 11, 12], [13, 14, 15]]
    assert SharedArray((0, 2), np.float32).view().shape == (0, 2)


def large_index(images: int, boxes: int) -> DatasetIndex:
    """As many images of equally many boxes, with paths of 64 bytes."""
    arrays = {
        "path_bytes": np.full(images * 64, ord("x"), np.uint8),
        "path_offsets": np.arange(images + 1, dtype=np.int64) * 64,
        "shapes": np.full((images, 2), 640, np.int32),
        "boxes": np.full((images * boxes, 5), 0.5, np.float32),
        "offsets": np.arange(images + 1, dtype=np.int64) * boxes,
        "points": np.zeros((0, 2), np.float32),
        "point_offsets": np.zeros(images * boxes + 1, np.int64),
    }
    return DatasetIndex(**arrays, names={0: "a"}, report=LabelReport())


def look_at_all() -> tuple[float, float]:
    """Private memory before and after a worker has read labels and path of every image."""
    from utils.data import dataset  # the data set that this process keeps

    index, before = dataset._own.index, private_megabytes()
    assert sum(len(index.labels(i)) + len(index.path(i)) for i in range(len(index))) == len(index) * 71
    return before, private_megabytes()


@LINUX
def test_workers_share_the_index_of_a_large_data_set() -> None:
    """200,000 images with 7 boxes each, 59 MB of arrays: a worker that copied them would grow by as much."""
    index = large_index(200_000, 7)
    index.share()
    with WorkerPool(2, keep, DetectionDataset(index, 64, augment=True)) as pool:
        for before, after in [job.result() for job in [pool.submit(look_at_all) for _ in range(2)]]:
            assert before < 100
            assert after - before < 5


@LINUX
def test_a_signal_to_the_group_while_a_worker_begins_is_not_for_it() -> None:
    begin = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # as in the server, before there are threads
os.kill(os.getpid(), signal.SIGTERM)
from utils.data import workers
workers._begin(None)
print("goes on", flush=True)
os.kill(os.getpid(), signal.SIGTERM)  # one that is named can be ended
print("still")
"""
    ended = subprocess.run([sys.executable, "-c", begin], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout, ended.returncode) == ("goes on\n", -signal.SIGTERM)
