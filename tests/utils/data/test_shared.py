"""Arrays that processes share: what they share, with whom, and what is left of them."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from utils.data.shared import SharedArray
from utils.data.workers import WorkerPool
from utils.files import ROOT

LINUX = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at /proc")
_held: SharedArray


def hold(array: SharedArray) -> None:
    global _held
    _held = array


def write(value: int) -> int:
    """Write in the array that is held; what was there before."""
    before = int(_held.view()[1])
    _held.view()[1] = value
    return before


@pytest.fixture(params=["memory", "temporary file"])
def array(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SharedArray:
    """As on Linux, and as on other systems of POSIX."""
    if request.param == "temporary file":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    return SharedArray.of(np.arange(6, dtype=np.int32).reshape(2, 3)[1])


def test_an_array_is_what_it_was_made_of(array: SharedArray) -> None:
    assert array.view().tolist() == [3, 4, 5]
    assert array.view().dtype == np.int32
    empty = SharedArray((0, 2), np.float32)
    assert empty.view().shape == (0, 2)


def test_workers_write_into_it(array: SharedArray) -> None:
    with WorkerPool(1, hold, array) as pool:
        assert pool.submit(write, 40).result() == 4
    assert array.view().tolist() == [3, 40, 5]


@LINUX
def test_another_process_finds_it(array: SharedArray, tmp_path: Path) -> None:
    """One that is no worker: the way of processes that train together."""
    (tmp_path / "array").write_bytes(pickle.dumps(array))
    code = f"""
import pickle
found = pickle.loads(open({str(tmp_path / "array")!r}, "rb").read())
found.view()[1] += 1
again = pickle.loads(pickle.dumps(found))
again.view()[1] += 1
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert array.view().tolist() == [3, 6, 5]


@LINUX
def test_one_that_is_gone_is_no_other() -> None:
    """The number of its handle may be that of another file by then."""
    array = SharedArray((3,), np.uint8)
    told = pickle.dumps(array)
    del array
    others = [SharedArray((3,), np.uint8) for _ in range(3)]
    with pytest.raises(OSError, match=r"another file|No such file"):
        pickle.loads(told)
    del others


@LINUX
def test_memory_and_handles_go_with_the_array() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    arrays = [SharedArray((1000,), np.float64) for _ in range(4)]
    arrays += pickle.loads(pickle.dumps(arrays))
    assert len(list(Path("/proc/self/fd").iterdir())) >= before + 8
    del arrays
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@LINUX
def test_nothing_is_left_of_a_killed_process(tmp_path: Path) -> None:
    """Neither where temporary files go nor in shared memory, whose size limits nothing either."""
    code = """
import os, signal, numpy as np
from utils.data.shared import SharedArray
array = SharedArray((50_000_000,), np.uint8)
array.view()[:] = 7
os.kill(os.getpid(), signal.SIGKILL)
"""
    shm = Path("/dev/shm")
    before = set(shm.iterdir()) if shm.is_dir() else set()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    for missing in ("", "import os; del os.memfd_create\n"):
        ended = subprocess.run([sys.executable, "-c", missing + code], cwd=ROOT, env=environment)
        assert ended.returncode == -9
    assert list(tmp_path.iterdir()) == []
    left = set(shm.iterdir()) - before if shm.is_dir() else set()
    assert not [file for file in left if file.stat().st_size == 50_000_000]
