"""What processes of one machine share, with two real ones."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.distributed import Process, once_per_machine
from utils.files import ROOT

PICTURES = 24_000_000  # bytes of all pictures of the program below


def together(program: str, *arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Run a program twice, as torchrun would start it on one machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = []
    for process in running:
        out, err = process.communicate(timeout=120)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return ended


def test_alone_it_is_a_call() -> None:
    assert once_per_machine(lambda: 3, Process()) == 3


PROGRAM = """
import sys
from pathlib import Path
import numpy as np, cv2, torch
import torch.distributed as dist
from utils.data.dataset import DetectionDataset
from utils.data.index import build_index
from utils.data.loader import Loader
from utils.distributed import join_group, leave_group, once_per_machine, this_process
from utils.errors import UserError

process = this_process()
join_group(process, torch.device("cpu"))
made = []

def make():
    made.append(process.rank)
    index = build_index([Path(sys.argv[1]) / "images"], {0: "a"}, cache=False)
    index.share()
    return DetectionDataset(index, 1000, augment=True, cache="ram")

def fail():
    raise UserError("no pictures here")

def pss():
    # megabytes of the pages that this process shares out by their number of users
    total = 0
    for block in Path("/proc/self/smaps").read_text(encoding="ascii", errors="replace").split("VmFlags"):
        if "memfd:lean5" in block:
            total += int(block.split("Pss:")[1].split()[0])
    return total * 1024 / 1e6

dataset = once_per_machine(make, process)
dist.barrier()
pixels = sum(int(dataset.store.load(i).sum(dtype=np.int64)) for i in range(len(dataset)))
keys = list(Loader(dataset, workers=0, shuffle=True).keys())
batch = dataset.batch(keys[0])
dist.barrier()
seen = int(batch.images.sum(dtype=np.int64)), dataset.index.paths()[3:4]
print("made", len(made), "pixels", pixels, "batch", seen)
print("pss", pss())
dist.barrier()
if process.rank == 0:
    dataset.store.load(0)[0, 0] = (9, 8, 7)
dist.barrier()
print("corner", dataset.store.load(0)[0, 0].tolist())
try:
    once_per_machine(fail, process)
except UserError as error:
    print("told", error)

class Unseen:
    # as memory is where the system shows it to no other process
    def __reduce__(self):
        return open, ("/nowhere/at/all",)

print("own", type(once_per_machine(Unseen, process)).__name__)
leave_group(together=True)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="looks at /proc")
def test_pictures_and_index_are_there_once(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for number in range(8):  # 8 of 1000 x 1000 in colour are 24 MB
        cv2.imwrite(str(tmp_path / f"images/{number}.bmp"), np.full((1000, 1000, 3), 10 * number, np.uint8))
        (tmp_path / f"labels/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n", encoding="utf-8")
    first, second = together(PROGRAM, tmp_path)
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    main, other = first.stdout.splitlines(), second.stdout.splitlines()
    assert main[0].startswith("made 1 pixels ")
    assert other[0] == main[0].replace("made 1", "made 0")
    shares = [float(line.split()[1]) for line in (main[1], other[1])]
    assert sum(shares) == pytest.approx(PICTURES / 1e6, rel=0.05)  # once, not twice
    assert all(share == pytest.approx(sum(shares) / 2, rel=0.1) for share in shares)
    assert main[2:] == other[2:] == ["corner [9, 8, 7]", "told no pictures here", "own Unseen"]


NORM = """
import copy
import torch
from torch import nn
from utils.distributed import average_gradients, join_group, leave_group, share_statistics, this_process

process = this_process()
join_group(process, torch.device("cpu"))
torch.manual_seed(0)
x, wanted = torch.randn(2, 6, 3, 4, 5, dtype=torch.float64) * 3 + 1
whole = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 3, 1)).double()
shared = copy.deepcopy(whole)
share_statistics(shared)
(whole(x) - wanted).square().mean().backward()
half = slice(3 * process.rank, 3 * process.rank + 3)
(shared(x[half]) - wanted[half]).square().mean().backward()
average_gradients(shared.parameters())
for mine, its in zip(shared.parameters(), whole.parameters()):
    torch.testing.assert_close(mine.grad, its.grad)
for mine, its in zip(shared.buffers(), whole.buffers()):
    torch.testing.assert_close(mine, its)
torch.testing.assert_close(shared.eval()(x), whole.eval()(x))
leave_group(together=True)
"""


def test_two_halves_of_a_batch_are_the_batch() -> None:
    for ended in together(NORM):
        assert ended.returncode == 0, ended.stderr
