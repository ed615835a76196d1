"""What the index of a large data set costs: the first scan, a later start, bytes on disk and in memory.

    python -m benchmarks.indexing                                   # 10,000, 100,000 and 1,000,000 images
    python -m benchmarks.indexing --counts 1000 --kinds shards

The images are links to a few pictures and the labels links to a thousand files with 1 to 13 boxes, 10,000
in a folder. In shards they are listed as `dataset.py shard` lists them, 1,000 in each, and the tars are holes
of their length with one header. So the disk is spared, and what is measured is the work of each name. Each
number is of a process of its own; CPU seconds are those of its workers too. On Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np

from benchmarks.pages import markdown_table
from utils.data.index import ARRAYS, build_index
from utils.data.label_cache import SUFFIX
from utils.data.shards.listing import Listing, Row, listing_address
from utils.data.shards.places import Place, open_shards
from utils.errors import run_command
from utils.files import ROOT, temporary_folder

LINKS = 50_000  # of a file; ext4 has 65,000
PER_FOLDER, PER_SHARD = 10_000, 1000
LOOK = 0.1  # seconds between two looks at the other processes
LABELS, MOST_BOXES, SEED = 1000, 13, 0
SIZE = 100_000  # bytes that a picture in a shard is said to have
TITLES = ("images", "in", "first scan, s", "CPU, s", "later start, s", "CPU, s", "kept, bytes an image",
          "arrays, bytes an image", "peak, MB", "peak later, MB")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--kinds", nargs="+", choices=list(MAKERS), default=list(MAKERS))
    parser.add_argument("--measure", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure[0], Path(args.measure[1]))))
        return
    rows: list[tuple[str, ...]] = [TITLES]
    for kind in args.kinds:
        for count in args.counts:
            with temporary_folder() as folder:
                MAKERS[kind](folder, count)
                rows.append(_row(kind, folder, count))
            print(" ".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown_table(rows, "rl" + "r" * (len(TITLES) - 2)))


def _row(kind: str, folder: Path, count: int) -> tuple[str, ...]:
    """The figures of a data set: scanned, and opened again."""
    command = [sys.executable, "-m", "benchmarks.indexing", "--measure", kind, str(folder)]
    first, later = (
        json.loads(
            subprocess.run(
                command, cwd=ROOT, check=True, stdout=subprocess.PIPE, start_new_session=True
            ).stdout
        )
        for _ in range(2)
    )
    assert first["images"] == later["images"] == count and first["boxes"] == later["boxes"]
    kept = sum(file.stat().st_size for file in folder.rglob(f"*{SUFFIX}"))
    return (
        f"{count:,}", kind, f"{first['seconds']:.1f}", f"{first['cpu']:.1f}", f"{later['seconds']:.1f}",
        f"{later['cpu']:.1f}", f"{kept / count:.0f}", f"{first['arrays'] / count:.0f}",
        f"{first['peak']:.0f}", f"{later['peak']:.0f}",
    )  # fmt: skip


def measure(kind: str, folder: Path) -> dict[str, float]:
    """Build an index and look at what it took; memory in MB above that of the bare process."""
    spent: dict[str, float] = {}
    done = threading.Event()
    look = threading.Thread(target=_watch, args=(spent, done), daemon=True)
    before, begin, used = _peak(), time.perf_counter(), time.process_time()
    look.start()
    index = build_index([place_of(kind, folder)], {0: "a", 1: "b"})
    seconds, cpu = time.perf_counter() - begin, time.process_time() - used
    done.set()
    look.join()
    return {
        "seconds": seconds, "cpu": cpu + sum(spent.values()), "peak": _peak() - before,
        "images": len(index), "boxes": len(index.boxes),
        "arrays": sum(getattr(index, name).nbytes for name in ARRAYS),
    }  # fmt: skip


def _watch(spent: dict[str, float], done: threading.Event) -> None:
    """Note the CPU seconds of the other processes of this session: workers, which nobody waits for."""
    own, session, tick = os.getpid(), os.getsid(0), os.sysconf("SC_CLK_TCK")
    while not done.wait(LOOK):
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
                if entry.name.isdecimal() and int(entry.name) != own and int(fields[3]) == session:
                    spent[entry.name] = (int(fields[11]) + int(fields[12])) / tick


def _peak() -> float:
    """MB of memory that this process has held at most."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


# ---- data sets ----


def place_of(kind: str, folder: Path) -> Place:
    return folder / "images" if kind == "folder" else open_shards("train-*.tar", folder)


def texts() -> list[str]:
    """Label files with 1 to 13 boxes, 7 on average, as COCO has them."""
    rng = np.random.default_rng(SEED)
    found = []
    for number in range(LABELS):
        boxes = rng.uniform(0.2, 0.4, (1 + number % MOST_BOXES, 4))
        rows = (f"{number % 2} {' '.join(f'{value:.6f}' for value in box)}" for box in boxes)
        found.append("".join(f"{row}\n" for row in rows))
    return found


def make_folder(folder: Path, count: int) -> None:
    good, picture = cv2.imencode(".jpg", np.full((480, 640, 3), 128, np.uint8))
    assert good
    labels = [text.encode() for text in texts()]
    for start in range(0, count, PER_FOLDER):
        images = folder / "images" / f"{start:08}"
        names = folder / "labels" / f"{start:08}"
        images.mkdir(parents=True)
        names.mkdir(parents=True)
        for number in range(start, min(start + PER_FOLDER, count)):
            _link(folder / f"picture{number // LINKS}", images / f"{number:012}.jpg", picture.tobytes())
            kind = number % LABELS
            _link(folder / f"label{kind}", names / f"{number:012}.txt", labels[kind])


def _link(source: Path, target: Path, content: bytes) -> None:
    if not source.exists():
        source.write_bytes(content)
    os.link(source, target)


def make_shards(folder: Path, count: int) -> None:
    labels = texts()
    # a picture's header, the picture, its text
    step = tarfile.BLOCKSIZE * (2 + -(-SIZE // tarfile.BLOCKSIZE))

    def rows(start: int) -> Iterator[Row]:
        for number in range(start, min(start + PER_SHARD, count)):
            place = (number - start) * step + tarfile.BLOCKSIZE
            yield Row(f"{number:012}.jpg", place, SIZE, 480, 640, labels[number % LABELS])

    for start in range(0, count, PER_SHARD):
        listed = list(rows(start))
        file = folder / f"train-{start // PER_SHARD:06}.tar"
        header = tarfile.TarInfo(listed[-1].name)
        header.size = SIZE
        with file.open("wb") as stream:
            stream.seek(listed[-1].offset - tarfile.BLOCKSIZE)
            stream.write(header.tobuf(tarfile.USTAR_FORMAT))
            stream.truncate(listed[-1].offset + SIZE + 2 * tarfile.BLOCKSIZE)
            size = stream.seek(0, os.SEEK_END)
        Path(listing_address(str(file))).write_bytes(Listing(size, listed).to_bytes())


MAKERS: dict[str, Callable[[Path, int], None]] = {"folder": make_folder, "shards": make_shards}

if __name__ == "__main__":
    run_command(main)
