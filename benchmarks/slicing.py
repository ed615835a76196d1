"""What `detect.py --slice` finds in a large picture, and what it costs: a mosaic of labelled photographs.

    python -m benchmarks.slicing --weights yolov5n.pt --images coco128/images/train2017 --threads 1

Photographs of 640 pixels stand side by side in one picture of 3,840, in which all that was labelled is as
large as it was. Found means: an overlap of 0.5 with a box of the class, above the confidence of `detect.py`.
"alone" is the same network on each photograph by itself, which is as much as one could hope for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.pages import markdown_table
from models.detector import Detector
from models.runtimes.opening import load_backend
from models.slicing import Tiling, detect_in_tiles
from models.weights import find_weights
from utils.boxes import box_iou, denormalize, xywh_to_xyxy
from utils.data.images import IMAGE_SUFFIXES, read_image
from utils.data.labels import label_path, parse_labels
from utils.errors import UserError, run_command
from utils.evaluation.metrics import match_predictions
from utils.flags import THREADS_HELP, CommandConfig, at_least, flag, parse_flags

COLUMNS, ROWS, CELL = 6, 8, (480, 640)  # photographs beside and above each other, and (height, width) of each
SIZES = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e9)}  # px², as COCO has them


@dataclass(frozen=True)
class Config(CommandConfig):
    """Flags of benchmarks/slicing.py."""

    weights: str = flag("", "weights; default: the newest best.pt in runs/train")
    images: str = flag("", "folder of photographs, with YOLO labels where its `images` is `labels`")
    mosaics: int = flag(2, f"pictures of {COLUMNS * ROWS} photographs each", rule=at_least(1))
    slice: int = flag(640, "side of the tiles", rule=at_least(32))
    overlap: float = flag(0.2, "share of a tile that its neighbour sees too")
    threads: int = flag(1, THREADS_HELP, rule=at_least(1))
    save: str = flag("", "also write the first mosaic here, as a picture")


@dataclass(frozen=True)
class Labelled:
    """A picture (H, W, 3) uint8 BGR with its labels, (m, 5) class, x1, y1, x2, y2 in pixels."""

    image: np.ndarray
    labels: np.ndarray


def main(argv: Sequence[str] | None = None) -> None:
    run(parse_flags(Config, argv, "benchmarks/slicing.py"))


def run(config: Config) -> None:
    """Measure and print the table.

    Raises:
        UserError: too few photographs, or weights that cannot be used.
    """
    torch.set_num_threads(config.threads)
    detector = Detector(load_backend([find_weights(config.weights)], torch.device("cpu")))
    cells = [cell(path, len(detector.names)) for path in photographs(config)]
    per = COLUMNS * ROWS
    mosaics = [mosaic(cells[first : first + per]) for first in range(0, len(cells), per)]
    if config.save:
        cv2.imwrite(config.save, mosaics[0].image)
    tiling = Tiling(config.slice, config.overlap)
    rows: list[tuple[str, ...]] = [("", "small", "medium", "large", "all", "precision", "s a picture")]
    for size in (640, 1280, 2560):
        rows.append(row(f"whole, `--imgsz {size}`", detector, mosaics, size))
    name = f"`--slice {config.slice} --overlap {config.overlap:g}`"
    rows.append(row(name, detector, mosaics, 640, tiling))
    rows.append(row("each photograph alone", detector, cells, 640, pictures=len(mosaics)))
    print(markdown_table(rows, "lrrrrrr"))


def photographs(config: Config) -> list[Path]:
    """As many as the mosaics take, in the order of their names."""
    files = sorted(p for p in Path(config.images or ".").glob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    wanted = config.mosaics * COLUMNS * ROWS
    if len(files) < wanted:
        raise UserError(f"--images '{config.images}' has {len(files)} photographs; {wanted} are needed")
    return files[:wanted]


def cell(path: Path, classes: int) -> Labelled:
    """A photograph made to fit into a cell, never enlarged, in its upper left corner on grey."""
    image = read_image(str(path))
    ratio = min(*(of / side for of, side in zip(CELL, image.shape)), 1.0)
    if ratio < 1:
        image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
    canvas = np.full((*CELL, 3), 114, np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    file = Path(label_path(str(path)))
    boxes = parse_labels(file.read_bytes() if file.is_file() else b"", classes).boxes
    corners = denormalize(xywh_to_xyxy(boxes[:, 1:]), (image.shape[0], image.shape[1]))
    return Labelled(canvas, np.column_stack((boxes[:, :1], corners)))


def mosaic(cells: Sequence[Labelled]) -> Labelled:
    """Photographs in one picture."""
    height, width = CELL
    image = np.full((ROWS * height, COLUMNS * width, 3), 114, np.uint8)
    labels = []
    for place, each in enumerate(cells):
        top, left = place // COLUMNS * height, place % COLUMNS * width
        image[top : top + height, left : left + width] = each.image
        labels.append(each.labels + np.array([0, left, top, left, top]))
    return Labelled(image, np.concatenate(labels))


def row(
    name: str,
    detector: Detector,
    given: Sequence[Labelled],
    size: int,
    tiling: Tiling | None = None,
    pictures: int | None = None,
) -> tuple[str, ...]:
    """Recall by size and of all, precision, and seconds for each of `pictures`."""
    start, right, found = time.perf_counter(), 0, 0
    hits = {kind: np.zeros(2) for kind in SIZES}  # found, labelled
    for each in given:
        rows = look(detector, each.image, size, tiling)
        good = match_predictions(rows, each.labels)[:, 0]
        right, found = right + int(good.sum()), found + len(rows)
        met = _labels_met(rows[good], each.labels)
        areas = np.prod(each.labels[:, 3:] - each.labels[:, 1:3], axis=1)
        for kind, (low, high) in SIZES.items():
            of_kind = (areas >= low) & (areas < high)
            hits[kind] += (met & of_kind).sum(), of_kind.sum()
    seconds = (time.perf_counter() - start) / (pictures or len(given))
    total = sum(hits.values(), np.zeros(2))
    recalls = [f"{hit / max(count, 1):.3f}" for hit, count in (*hits.values(), total)]
    return name, *recalls, f"{right / max(found, 1):.3f}", f"{seconds:.1f}"


def look(detector: Detector, image: np.ndarray, size: int, tiling: Tiling | None) -> np.ndarray:
    """(n, 6) detections on a picture."""
    if tiling is not None:
        (rows,), _, _ = detect_in_tiles(detector, [image], (size, size), tiling)
    else:
        (rows,), _ = detector.detect(detector.prepare([image], size))
    return rows.numpy()


def _labels_met(right: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(m,) bool: which labels the right detections found, each the one of its class that it overlaps most."""
    met = np.zeros(len(labels), bool)
    if len(right):
        overlap = box_iou(right[:, :4], labels[:, 1:]) * (right[:, 5:6] == labels[:, 0])
        met[overlap.argmax(axis=1)] = True
    return met


if __name__ == "__main__":
    run_command(main)
