"""Pictures whose labels can be read off their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.data.augment.fit import fit_whole
from utils.data.augment.mosaic import Mosaic
from utils.data.augment.objects import Objects
from utils.data.augment.picture import Draw, Picture
from utils.data.augment.warp import Warp
from utils.hyperparameters import Hyperparameters

STILL = Hyperparameters(translate=0, scale=0, fliplr=0, hsv_h=0, hsv_s=0, hsv_v=0)
LIVELY = Hyperparameters(degrees=30, shear=10, scale=0.5, translate=0.2, flipud=0.5, perspective=0.0005)


def draw_of(rng: np.random.Generator, size: int = 64) -> Draw:
    """Eight images, numbered from 0, for a square picture."""
    return Draw(rng, np.arange(8), (size, size))


def warped_mosaic(
    rng: np.random.Generator, pictures: Sequence[Picture], size: int, hyp: Hyperparameters
) -> Picture:
    draw = draw_of(rng, size)
    return Warp(hyp)(draw, Mosaic(lambda tile: pictures[int(tile.images[0])])(draw))


def warped_alone(rng: np.random.Generator, picture: Picture, size: int, hyp: Hyperparameters) -> Picture:
    draw = draw_of(rng, size)
    return Warp(hyp)(draw, fit_whole(draw, picture))


def objects_of(*rows: tuple[float, ...], polygon: bool = False) -> Objects:
    """From rows of class, x1, y1, x2, y2 in pixels; with `polygon`, the corners count as one."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    corners = table[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 2)
    lengths = np.full(len(table), 4 if polygon else 0)
    return Objects(
        table[:, 0].astype(np.float32), table[:, 1:], corners if polygon else np.zeros((0, 2)), lengths
    )


def colour_of(number: int) -> tuple[int, int, int]:
    """Far from each other and from grey."""
    return [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255)][number]


def painted(rng: np.random.Generator, classes: list[int], size: int, polygon: bool = False) -> Picture:
    """A dark picture with a filled rectangle for each class, side by side."""
    height, width = (int(rng.integers(size * 6 // 10, size + 1)) for _ in range(2))
    image = np.full((height, width, 3), 30, np.uint8)
    rows = []
    for place, number in enumerate(classes):
        span = width // len(classes)
        x1, y1 = place * span + int(rng.integers(2, span // 4)), int(rng.integers(2, height // 4))
        x2, y2 = x1 + int(rng.integers(span // 3, span * 2 // 3)), int(rng.integers(height // 2, height - 2))
        image[y1:y2, x1:x2] = colour_of(number)
        rows.append((number, x1, y1, x2, y2))
    return Picture.of(image, objects_of(*rows, polygon=polygon))


def extent(image: np.ndarray, number: int) -> np.ndarray | None:
    """xyxy of the pixels that have the colour of a class, or nearly."""
    near = np.abs(image.astype(int) - colour_of(number)).max(-1) < 100
    if near.sum() < 12:
        return None
    rows, columns = np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def check_labels(picture: Picture, exact: bool) -> int:
    """Every colour that is seen has a box around it, a tight one if `exact`. Returns their number."""
    seen = 0
    for number in range(6):
        found = extent(picture.image, number)
        boxes = picture.objects.boxes[picture.objects.classes == number]
        if found is None:
            continue
        if len(boxes) == 0:  # dropped since little of it is left
            continue
        seen += 1
        assert len(boxes) == 1
        assert (boxes[0][:2] <= found[:2] + 1.5).all(), (boxes[0], found)
        assert (boxes[0][2:] >= found[2:] - 1.5).all(), (boxes[0], found)
        if exact:
            np.testing.assert_allclose(boxes[0], found, atol=4)  # the tip of a turned corner is faint
    return seen
