"""Mutated files for every reader: each is read, or refused with one line. Anything else is a finding.

    python -m tests.fuzz                            # 20 seconds a reader
    python -m tests.fuzz images ncnn --seconds 600  # some, for longer
    python -m tests.fuzz images --case 1234         # one case again, in this process

A case is made of its number alone. Cases run in a child process: a crash, a wait of more than `PATIENCE`
seconds and memory beyond `MOST_MEMORY` count, and the next child goes on behind them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import re
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from models.cfg import load_cfg
from models.runtimes.metadata import read_yaml as read_metadata
from models.runtimes.opening import load_backend
from models.yolo import DetectionModel
from tests import corpus
from tests.utils.data.shards.tars import read_listed_shard, read_shard
from training.evolve import load_trials
from training.hyp_yaml import load_hyperparameters
from utils.checkpoints.files import read_checkpoint
from utils.checkpoints.unpickle import RefusedError, read_pickle
from utils.data.images import image_shape, read_image
from utils.data.index import build_index
from utils.data.labels import parse_labels
from utils.data.sources import expand, read_file
from utils.data.spec import load_data_spec
from utils.errors import UserError

PATIENCE = 30.0  # seconds for one case; the machine may be busy
MOST_MEMORY = 2 << 30  # bytes that one case may add
NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    1000,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
WORDS = (
    b"0", b"-1", b"1", b"2147483647", b"4294967296", b"1e999", b"nan", b"-inf", b"null", b"~", b"''", b"[]",
    b"9" * 30, b"!!python/object/apply:os.system ['true']", b"*a", b"&a ", b"\xff", b"\0", b"../../x", b"%n",
    b"{}",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes:
        seeds: makes sound files of it, as bytes.
        read: opens a file as the commands do.
        name: of the file, which tells the readers what it is.
        inside: packs mutated bytes into a whole file.
        native: the parser is a library in another language.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[Path], object]
    name: str
    inside: Callable[[Path, bytes], bytes] = lambda folder, data: data
    native: bool = False


def packed(folder: Path, pickled: bytes) -> bytes:
    """A checkpoint of our own around another pickle, its storages as they were."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(folder / "own.pt") as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("data.pkl") else old.read(name))
    return buffer.getvalue()


def read_a_pickle(path: Path) -> None:
    with contextlib.suppress(RefusedError):
        read_pickle(path.read_bytes())
    if path.stat().st_size:
        path.with_suffix(".pt").write_bytes(packed(path.parent, path.read_bytes()))
        read_checkpoint(path.with_suffix(".pt"))


def run_once(path: Path) -> None:
    """Open weights, and look at one picture."""
    backend = load_backend(path, threads=1)
    height, width = backend.shape or (64, 64)
    if height * width <= 1 << 16 and (backend.batch or 1) <= 4:
        with torch.inference_mode():
            backend(torch.zeros(backend.batch or 1, 3, height, width))


def read_openvino(path: Path) -> None:
    folder = path.parent / "toy_openvino_model"
    folder.mkdir(exist_ok=True)
    (folder / "toy.xml").write_bytes(path.read_bytes())
    (folder / "toy.bin").write_bytes((path.parent / "toy.bin").read_bytes())
    run_once(folder)


def read_ncnn(path: Path) -> None:
    folder = path.parent / "toy_ncnn_model"
    folder.mkdir(exist_ok=True)
    (folder / "toy.param").write_bytes(path.read_bytes())
    (folder / "toy.bin").write_bytes(corpus.NCNN_WEIGHTS)
    (folder / "metadata.yaml").write_text("imgsz: [64, 64]\n", encoding="utf-8")
    run_once(folder)


def read_metadata_file(path: Path) -> None:
    read_metadata(path.parent)


def read_model_yaml(path: Path) -> None:
    cfg = load_cfg(path)
    with torch.device("meta"):
        DetectionModel(cfg)


def read_list(path: Path) -> None:
    places = expand(str(path))
    build_index([path], {0: "a"}, cache=False)
    for place in places[:3]:
        if "://" not in place:
            list(read_file(place, 0, 1, 1))


def read_one_image(path: Path) -> None:
    shape = image_shape(path)
    with contextlib.suppress(UserError):
        found = read_image(path).shape[:2]
        if found != shape:
            raise AssertionError(f"image_shape gives {shape}, read_image {found}")


def read_video(path: Path) -> None:
    for _ in zip(range(20), read_file(str(path), 0, 1, 1)):
        pass


def read_index(path: Path) -> None:
    next(path.parent.glob("*.npz")).write_bytes(path.read_bytes())
    index = build_index([path.parent / "images"], {0: "a"})
    assert (len(index), len(index.boxes)) == (2, 2)
    assert [Path(name).name for name in index.paths()] == ["a.png", "b.png"]


def read_report_input(path: Path) -> None:
    from benchmarks.timings import read_latency

    read_latency(path)


def trials(folder: Path) -> list[bytes]:
    from training.evolve import FIELDS, METRICS

    values = ["0.5"] * len(METRICS) + ["CIoU" if name == "iou" else "0.5" for name in FIELDS]
    return [(",".join([*METRICS, *FIELDS]) + "\n" + ",".join(values) + "\n").encode()]


TARGETS = {
    "checkpoint": Target(corpus.checkpoints, read_checkpoint, "x.pt"),
    "pickle": Target(corpus.pickles, read_a_pickle, "x.pkl"),
    "safetensors": Target(corpus.safetensors, read_checkpoint, "x.safetensors"),
    "onnx": Target(corpus.onnx, run_once, "x.onnx", native=True),
    "dnn": Target(corpus.onnx, lambda path: load_backend(path, dnn=True), "x.onnx", native=True),
    "torchscript": Target(corpus.torchscript, run_once, "x.torchscript", native=True),
    "openvino": Target(corpus.openvino, read_openvino, "x.xml", native=True),
    "ncnn": Target(corpus.ncnn, read_ncnn, "x.param", native=True),
    "metadata": Target(corpus.metadata, read_metadata_file, "metadata.yaml"),
    "model-yaml": Target(corpus.model_yamls, read_model_yaml, "x.yaml"),
    "data-yaml": Target(corpus.data_yamls, partial(load_data_spec, needed=()), "x.yaml"),
    "hyp-yaml": Target(corpus.hyps, load_hyperparameters, "x.yaml"),
    "labels": Target(corpus.labels, lambda path: parse_labels(path.read_bytes(), 2), "x.txt"),
    "list": Target(corpus.lists, read_list, "list.txt"),
    "images": Target(corpus.images, read_one_image, "x.jpg", native=True),
    "video": Target(corpus.videos, read_video, "x.avi", native=True),
    "index": Target(corpus.indices, read_index, "x.bin"),
    "tar": Target(corpus.tars, read_shard, "x.tar"),
    "listing": Target(corpus.listings, read_listed_shard, "x.index.json"),
    "evolve-csv": Target(trials, load_trials, "evolve.csv"),
    "latency-json": Target(corpus.latencies, read_report_input, "latency.json"),
}
PYTHON = [name for name, target in TARGETS.items() if not target.native]


# ---- mutation ----


def mutated(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """A few changes of a file: bits, numbers, words, pieces that go, come twice or come from another file."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at, length = dice.randrange(len(changed) + 1), dice.choice((1, 2, 4, 8, 16, 64, 300))
        match dice.randrange(9):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << dice.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = dice.randrange(256)
            case 2:
                code = dice.choice(["<H", ">H", "<I", ">I", "<Q", ">Q", "<B"])
                size = struct.calcsize(code)
                changed[at : at + size] = struct.pack(code, dice.choice(NUMBERS) % (1 << 8 * size))
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * dice.choice((1, 2, 50))
            case 5:
                changed[at:at] = dice.choice(WORDS)
            case 6:
                found = list(re.finditer(rb"-?\d+\.?\d*", changed[:200_000]))
                if found:
                    hit = dice.choice(found)
                    changed[hit.start() : hit.end()] = dice.choice(WORDS)
            case 7:
                other = dice.choice(others)
                start = dice.randrange(len(other) + 1)
                changed[at : at + length] = other[start : start + length]
            case _:
                if dice.random() < 0.2:
                    del changed[at:]
    return bytes(changed)


def case_of(name: str, number: int, seeds: list[bytes]) -> bytes:
    dice = random.Random(f"{name} {number}")
    return mutated(dice.choice(seeds), seeds, dice)


# ---- running ----


def memory() -> int:
    """The most memory that this process has had, in bytes; 0 where nobody tells."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run_case(name: str, number: int, folder: Path, seeds: list[bytes]) -> str:
    """Read one mutated file; empty when it was read or refused, else what happened."""
    target = TARGETS[name]
    path = folder / target.name
    path.write_bytes(case_of(name, number, seeds))
    before = memory()
    try:
        target.read(path)
    except UserError as error:
        message = str(error)
        if len(message) > 2000 or "\n" in message.strip():
            return f"a message of {len(message)} characters: {message[:100]!r}"
    except OSError as error:
        if error.filename is None:
            return f"{type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is a finding
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:150]} ({Path(place.filename).name}:{place.lineno})"
    grown = memory() - before
    return f"{grown >> 20} MB more memory" if grown > MOST_MEMORY else ""


def work(name: str, first: int, link: Connection) -> None:
    """A child: cases from `first` on, until the parent ends it. Says the number before, the result behind."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # native parsers print
        os.dup2(silence, stream)
    with tempfile.TemporaryDirectory() as place:
        seeds = TARGETS[name].seeds(Path(place))
        number = first
        while True:
            link.send((number, None))
            link.send((number, run_case(name, number, Path(place), seeds)))
            number += 1


@dataclass
class Outcome:
    """What came of a target: cases that ran, and findings by number."""

    cases: int
    findings: dict[int, str]


def fuzz(name: str, seconds: float, first: int = 0) -> Outcome:
    """Run cases of a target for a time, in child processes.

    Returns:
        how many, and what was found: number of the case -> what happened.
    """
    context = multiprocessing.get_context("spawn")
    outcome, number, end = Outcome(0, {}), first, None
    while end is None or time.monotonic() < end:
        link, theirs = context.Pipe()
        child = context.Process(target=work, args=(name, number, theirs), daemon=True)
        child.start()
        theirs.close()
        started = False
        try:
            while end is None or time.monotonic() < end:
                if not link.poll(PATIENCE if started else 10 * PATIENCE):
                    outcome.findings[number] = f"no end within {PATIENCE:g} seconds"
                    break
                number, result = link.recv()
                if not started:
                    started, end = True, end or time.monotonic() + seconds
                if result is not None:
                    outcome.cases += 1
                    if result:
                        outcome.findings[number] = result
        except EOFError:
            child.join()
            outcome.findings[number] = f"the process ended with {child.exitcode}"
            if not started:
                break
        finally:
            child.kill()
            child.join()
            link.close()
        number += 1
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=float, default=20, help="for each target")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="run this case alone, with its traceback")
    flags = parser.parse_args()
    names = flags.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target {unknown[0]!r}; known are {', '.join(TARGETS)}")
    if flags.case is not None:
        with tempfile.TemporaryDirectory() as place:
            target, folder = TARGETS[names[0]], Path(place)
            seeds = target.seeds(folder)
            (folder / target.name).write_bytes(case_of(names[0], flags.case, seeds))
            target.read(folder / target.name)
        return
    failed = 0
    for name in names:
        outcome = fuzz(name, flags.seconds, flags.first)
        failed += len(outcome.findings)
        print(
            f"{name}: {outcome.cases} cases in {flags.seconds:g} s, {len(outcome.findings)} findings",
            flush=True,
        )
        for number, text in list(outcome.findings.items())[:20]:
            print(f"    case {number}: {text}", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
