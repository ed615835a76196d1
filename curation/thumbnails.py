"""Small pictures of findings, as data URIs."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence

import cv2
import numpy as np

from curation.findings.finding import Example
from utils.data.images import ImageError, read_image
from utils.pipeline import ordered_map, thread_pool

SIDE, QUALITY = 240, 80  # pixels of the longer side, and of JPEG
CONTEXT = 3.0  # what is shown around a box, in sides of the box
LEAST = 0.25  # share of the picture's longer side that is shown, at least
LABEL, SEEN, OUTER = (60, 220, 255), (255, 170, 80), (20, 20, 20)  # blue, green, red: seen on any ground

Box = tuple[float, float, float, float]


def thumbnails(examples: Sequence[Example]) -> list[list[str]]:
    """For each example its picture, then the one that it is compared with; none where one cannot be shown."""

    def draw(one: Example) -> list[str]:
        if not one.drawn:
            return []
        uris = [thumbnail(one.path, one.box, one.seen), thumbnail(one.other) if one.other else ""]
        return list(filter(None, uris))

    with thread_pool(os.cpu_count() or 1) as pool:
        return list(ordered_map(pool, draw, examples, depth=8))


def thumbnail(path: str, box: Box | None = None, seen: Box | None = None) -> str:
    """A data URI of a picture, or of what is around a box in it; empty when it cannot be read.

    Args:
        box: x1, y1, x2, y2 in pixels.
        seen: another one, in another colour.
    """
    try:
        image = read_image(path)
    except ImageError:
        return ""
    left, top, right, bottom = _window(image.shape[:2], box)
    part = image[top:bottom, left:right]
    scale = SIDE / max(part.shape[:2])
    size = max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1)
    part = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for one, inner in ((seen, SEEN), (box, LABEL)):
        if one is not None:
            corners = [round((edge - start) * scale) for edge, start in zip(one, (left, top, left, top))]
            for color, width in ((OUTER, 4), (inner, 2)):
                cv2.rectangle(part, (corners[0], corners[1]), (corners[2], corners[3]), color, width)
    return jpeg_uri(part)


def jpeg_uri(image: np.ndarray) -> str:
    """(H, W, 3) uint8 BGR as a data URI."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


def _window(shape: tuple[int, ...], box: Box | None) -> tuple[int, int, int, int]:
    """left, top, right, bottom of what is shown: a square around the box as far as the picture goes."""
    height, width = shape
    if box is None:
        return 0, 0, width, height
    side = max(CONTEXT * max(box[2] - box[0], box[3] - box[1]), LEAST * max(height, width))
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    left, top = max(int(x - side / 2), 0), max(int(y - side / 2), 0)
    return (
        left,
        top,
        max(min(int(x + side / 2), width), left + 1),
        max(min(int(y + side / 2), height), top + 1),
    )
