"""Pictures of a run, its batches and labels, that are drawn beside it in a thread of their own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import Tensor

from utils.boxes import denormalize, xywh_to_xyxy
from utils.data.batch import Batch
from utils.data.channels import colour_of_planes
from utils.detections.annotate import LabelWriter, Style, annotate
from utils.detections.saving import write_image
from utils.pipeline import JobQueue
from utils.plots.labels import plot_labels

BATCHES = 3  # of training, and of validation, that a picture is drawn of
MAX_IMAGES = 16
CERTAIN = 0.25  # detections less confident than this are left out
MAX_SIDE = 1920  # pixels of the whole picture
GAP = 4  # white pixels between images
TITLE_COLOUR = (40, 40, 40)


class RunPictures:
    """Draws label statistics and the first batches into a run folder.

    Args:
        names: class index to name.
        enabled: without it nothing is drawn.
    """

    def __init__(self, folder: Path, names: dict[int, str], enabled: bool = True) -> None:
        self._folder, self._names, self._jobs = folder, names, JobQueue() if enabled else None

    def labels(self, boxes: np.ndarray) -> None:
        """Draw how labels (M, 5), class and xywh as fractions of the image, are distributed."""
        self._submit(plot_labels, boxes, self._names, self._folder / "labels.jpg")

    def training_batch(self, number: int, batch: Batch) -> None:
        """Draw one of the first batches, as it is fed to the network."""
        if number < BATCHES:
            self._draw(f"train_batch{number}", batch, batch.targets)

    def validation_batch(self, number: int, batch: Batch, detections: list[Tensor]) -> None:
        """Draw one of the first batches twice, with labels and with detections (n, 6) in pixels of it."""
        if number < BATCHES:
            self._draw(f"val_batch{number}_labels", batch, batch.targets)
            self._draw(f"val_batch{number}_pred", batch, detections)

    def __enter__(self) -> RunPictures:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Wait until everything is drawn, or after an error or a signal until what was begun is."""
        if self._jobs is not None:
            if kind is not None:
                self._jobs.drop()
            self._jobs.close()

    def _draw(self, stem: str, batch: Batch, boxes: Tensor | list[Tensor]) -> None:
        path = self._folder / f"{stem}.jpg"
        self._submit(plot_batch, path, batch.images, batch.paths, self._names, boxes)

    def _submit(self, plot: Callable[..., None], *args: Any) -> None:
        if self._jobs is not None:
            self._jobs.submit(partial(plot, *args))


def plot_batch(
    path: Path,
    images: Tensor,
    file_names: Sequence[str],
    names: Mapping[int, str],
    boxes: Tensor | Sequence[Tensor],
) -> None:
    """Write up to 16 images of a batch as a grid, with labels or with detections on them.

    Args:
        path: a jpg or png to write.
        images: (B, C, H, W) uint8, red first; of four channels the first three are shown.
        file_names: B paths, of which the last part is shown.
        names: class index to name.
        boxes: labels (M, 6), image, class, cx, cy, w, h as fractions of the image; or B tensors of detections
            (n, 6), x1, y1, x2, y2 in pixels of `images`, confidence, class, of which certain ones are drawn.

    Raises:
        OSError: the file cannot be written.
    """
    count = min(len(images), MAX_IMAGES)
    labelled = isinstance(boxes, Tensor)
    if isinstance(boxes, Tensor):
        rows = _rows_of_labels(boxes, count, (int(images.shape[2]), int(images.shape[3])))
    else:
        rows = [found[found[:, 4] >= CERTAIN].cpu().numpy() for found in boxes[:count]]
    pixels = images[:count].cpu().numpy()
    picture = _grid(pixels, rows, file_names, names, Style(line_width=2, confidences=not labelled))
    write_image(path, picture)


def _rows_of_labels(labels: Tensor, count: int, shape: tuple[int, int]) -> list[np.ndarray]:
    """Labels (M, 6) as (n, 6) xyxy pixels, confidence 1 and class for each image."""
    array = labels.cpu().numpy()
    boxes = denormalize(xywh_to_xyxy(array[:, 2:6]), shape)
    table = np.concatenate((boxes, np.ones_like(boxes[:, :1]), array[:, 1:2]), axis=1)
    return [table[array[:, 0] == index] for index in range(count)]


def _grid(
    images: np.ndarray,
    rows: Sequence[np.ndarray],
    file_names: Sequence[str],
    names: Mapping[int, str],
    style: Style,
) -> np.ndarray:
    """(n, C, H, W) images, red first -> one (H', W', 3) BGR, as square a grid as their number allows."""
    count, _, height, width = images.shape
    columns = math.ceil(math.sqrt(count))
    lines = math.ceil(count / columns)
    scale = min(1.0, MAX_SIDE / max(columns * (width + GAP), lines * (height + GAP)))
    tile_h, tile_w = round(height * scale), round(width * scale)
    picture = np.full((lines * (tile_h + GAP) - GAP, columns * (tile_w + GAP) - GAP, 3), 255, dtype=np.uint8)
    for index, (image, found) in enumerate(zip(images, rows)):
        tile = colour_of_planes(image)
        if scale < 1:
            tile = cv2.resize(tile, (tile_w, tile_h), interpolation=cv2.INTER_AREA)
        scaled = found * np.array([scale, scale, scale, scale, 1, 1])
        annotate(tile, scaled, names, style)
        _write_title(tile, Path(file_names[index]).name)
        top, left = index // columns * (tile_h + GAP), index % columns * (tile_w + GAP)
        picture[top : top + tile_h, left : left + tile_w] = tile
    return picture


def _write_title(tile: np.ndarray, title: str) -> None:
    """The file's name in the lower left corner, where annotate puts labels least often."""
    height = max(round(sum(tile.shape[:2]) / 2 * 0.022), 10)
    bottom = tile.shape[0]
    LabelWriter(tile, height).write(title[-40:], (0, bottom, 0, bottom), TITLE_COLOUR)
