"""Digests of everything that seeded runs give, to see whether a change of the code changes a result.

    python -m tests.snapshot --data digits.yaml bccd.yaml --weights yolov5n.pt --output before.json
    git switch my-change
    python -m tests.snapshot --data digits.yaml bccd.yaml --weights yolov5n.pt --output after.json
    diff before.json after.json

For each data set: three epochs of `train.py` (every tensor of `last.pt`, and `results.csv`), one epoch of
every augmentation (images, boxes and paths), and what `val.py` and `detect.py` write. Digests agree between
two runs on one machine; another CPU rounds differently.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.data.dataset import DetectionDataset
from utils.data.index import DatasetIndex, build_index
from utils.data.loader import Loader
from utils.data.spec import load_data_spec
from utils.errors import run_command
from utils.files import ROOT
from utils.hyperparameters import Hyperparameters

CORNERS = 12  # of the polygon that stands for a box, where a data set has none
STILL = dict.fromkeys(("translate", "scale", "fliplr", "mosaic", "hsv_h", "hsv_s", "hsv_v"), 0.0)
# name -> hyper-parameters
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "none": STILL,
    "colour": STILL | {"hsv_h": 0.1, "hsv_s": 0.7, "hsv_v": 0.4},
    "translate": STILL | {"translate": 0.3},
    "scale": STILL | {"scale": 0.9},
    "degrees": STILL | {"degrees": 45.0},
    "shear": STILL | {"shear": 10.0},
    "perspective": STILL | {"perspective": 0.001},
    "fliplr": STILL | {"fliplr": 0.5},
    "flipud": STILL | {"flipud": 0.5},
    "mosaic": STILL | {"mosaic": 1.0},
    "mixup": STILL | {"mosaic": 0.7, "mixup": 0.5},
    "copy_paste": STILL | {"mosaic": 0.5, "copy_paste": 0.7},
    "low": {},
    "high": {"mixup": 0.1, "copy_paste": 0.1, "scale": 0.9, "degrees": 5.0, "shear": 2.0, "flipud": 0.1},
    "rect": {"mixup": 0.5},
    "ram": {},
}
OPTIONS: dict[str, dict[str, Any]] = {"rect": {"rect": True}, "ram": {"cache": "ram"}}  # of the data set


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=["digits.yaml"])
    parser.add_argument("--weights", required=True, help="what val.py and detect.py run; trained from, too")
    parser.add_argument("--imgsz", type=int, default=192)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    record = {
        f"{Path(data).stem} {part} {name}": digest
        for data in args.data
        for part in args.only
        for name, digest in PARTS[part](data, args)
    }
    args.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{args.output}: {len(record)} digests")


def of_training(data: str, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """Every tensor of `last.pt`, its plain values, and `results.csv`."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data", data, "--weights", args.weights, "--imgsz", str(args.imgsz), "--workers", "2"]
        run("train.py", *flags, "--epochs", str(args.epochs), "--noplots", "--project", folder)
        content = torch.load(Path(folder, "exp", "weights", "last.pt"), weights_only=True)
        for key, value in flat(content):
            if "train_args" not in key and "date" not in key:
                yield key, digest(value)
        yield "results.csv", digest(Path(folder, "exp", "results.csv").read_bytes())


def of_augmentation(data: str, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """One epoch of each of `AUGMENTATIONS`, with and without `quad`, and one of plain pictures."""
    spec = load_data_spec(data)
    index = with_polygons(build_index(spec.train, spec.names, cache=False))
    for name, values in AUGMENTATIONS.items():
        options = OPTIONS.get(name, {})
        dataset = DetectionDataset(index, args.imgsz, hyp=Hyperparameters(**values), augment=True, **options)
        yield name, digest_of_epoch(dataset, shuffle=True)
    dataset = DetectionDataset(index, args.imgsz, augment=True)
    yield "quad", digest_of_epoch(dataset, shuffle=True, quad=True)
    plain = DetectionDataset(build_index(spec.val, spec.names, cache=False), args.imgsz, rect=True, pad=0.5)
    yield "plain", digest_of_epoch(plain, shuffle=False)


def digest_of_epoch(dataset: DetectionDataset, **options: bool) -> str:
    loader = Loader(dataset, workers=0, **options)
    loader.set_epoch(1)
    return digest((batch.images, batch.targets, [Path(p).name for p in batch.paths]) for batch in loader)


def with_polygons(index: DatasetIndex) -> DatasetIndex:
    """The same index with an ellipse for every other box, in place."""
    if not index.has_polygons:
        angle = np.arange(CORNERS) * 2 * np.pi / CORNERS
        unit = np.stack([np.cos(angle), np.sin(angle)], axis=1) / 2
        polygons = index.boxes[:, None, 1:3] + unit * index.boxes[:, None, 3:5]  # (M, CORNERS, 2)
        drawn = np.arange(len(polygons)) % 2 == 0
        index.points = polygons[drawn].reshape(-1, 2).clip(0, 1).astype(np.float32)
        index.point_offsets = np.concatenate([[0], np.cumsum(drawn * CORNERS)])
    return index


def of_validation(data: str, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """The label files and numbers of `val.py`, without its speeds."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data", data, "--weights", args.weights, "--single-cls", "--imgsz", str(args.imgsz)]
        run("val.py", *flags, "--save-txt", "--save-conf", "--noplots", "--project", folder)
        report = json.loads(Path(folder, "exp", "metrics.json").read_text(encoding="utf-8"))
        report.pop("speed_ms_per_image", None)
        yield "metrics.json", digest(json.dumps(report).encode())
        yield "labels", digest_of_files(Path(folder, "exp", "labels"))


def of_detection(data: str, args: argparse.Namespace) -> Iterator[tuple[str, str]]:
    """All files of `detect.py` on the validation pictures."""
    with tempfile.TemporaryDirectory() as folder:
        (source,) = load_data_spec(data).val
        flags = ["--weights", args.weights, "--source", str(source), "--imgsz", str(args.imgsz)]
        run("detect.py", *flags, "--save-txt", "--save-csv", "--save-crop", "--project", folder)
        yield "files", digest_of_files(Path(folder, "exp"))


PARTS = {
    "training": of_training,
    "augmentation": of_augmentation,
    "validation": of_validation,
    "detection": of_detection,
}


def run(*command: str) -> None:
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings and sequences, with the way to each."""
    if isinstance(value, Mapping) or (isinstance(value, (list, tuple)) and len(value) < 100):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from flat(item, f"{key}/{name}")
    else:
        yield key, value


def digest_of_files(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return digest((str(path.relative_to(folder)), path.read_bytes()) for path in files)


def digest(value: Any) -> str:
    """SHA-256 of bytes, tensors and plain values, and of sequences of them."""
    total = hashlib.sha256()

    def feed(item: Any) -> None:
        if isinstance(item, torch.Tensor):
            total.update(f"{item.dtype} {tuple(item.shape)}".encode())
            total.update(item.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(item, bytes):
            total.update(item)
        elif isinstance(item, Iterable) and not isinstance(item, str):
            for part in item:
                feed(part)
        else:
            total.update(repr(item).encode())

    feed(value)
    return total.hexdigest()[:20]


if __name__ == "__main__":
    run_command(main)
