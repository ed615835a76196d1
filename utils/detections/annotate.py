"""Drawing detections on pictures, and cutting them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from utils.lettering import draw_text, legible, text_width
from utils.palette import class_color, text_color

Color = tuple[int, int, int]  # blue, green, red
Area = Sequence[int]  # left, top, right, bottom in pixels

SMALLEST_TEXT, TEXT_SHARE = 11, 0.02  # text height: at least these pixels, and this share of the mean side
ASCENT, DESCENT = 0.78, 0.24  # what letters take above and below their base line, in shares of the height
CROP_SCALE, CROP_MARGIN = 1.02, 10  # a crop is this much larger than its box, plus these pixels


@dataclass
class Style:
    """How boxes look; without `line_width` it follows from the picture's size."""

    line_width: int | None = None
    labels: bool = True
    confidences: bool = True


def annotate(
    image: np.ndarray, detections: np.ndarray, names: Mapping[int, str], style: Style | None = None
) -> np.ndarray:
    """Draw detections on an image, in place, and return it.

    Args:
        image: (H, W, 3) uint8 BGR, contiguous.
        detections: (n, 6) x1, y1, x2, y2 in pixels of the image, confidence, class; most confident first. A
            seventh column is the number of the track, which the label shows as `#3`; none where it is -1.
        names: name of each class.
    """
    style = style or Style()
    mean_side = (image.shape[0] + image.shape[1]) / 2
    width = style.line_width or max(round(mean_side * 0.003), 1)
    boxes: list[Area] = detections[:, :4].round().astype(int).tolist()
    classes: list[int] = detections[:, 5].astype(int).tolist()
    for box, cls in zip(reversed(boxes), reversed(classes)):  # the most confident one ends up on top
        outline(image, box, class_color(cls), width)
    if style.labels:
        writer = LabelWriter(image, max(round(mean_side * TEXT_SHARE), SMALLEST_TEXT))
        tracks = detections[:, 6] if detections.shape[1] > 6 else np.full(len(detections), -1)
        for box, cls, confidence, track in zip(boxes, classes, detections[:, 4], tracks):
            name = legible(names[cls], cls, opencv=True)
            label = f"{name} {confidence:.2f}" if style.confidences else name
            label = f"#{int(track)} {label}" if track > 0 else label
            writer.write(label, box, class_color(cls), overhang=(width + 1) // 2)
    return image


def outline(image: np.ndarray, box: Area, color: Color, width: int) -> None:
    """A frame of exactly `width` pixels; OpenCV's own thick lines come out wider than asked for."""
    inward, outward = width // 2, (width - 1) // 2
    left, top, right, bottom = box[0] - outward, box[1] - outward, box[2] + outward, box[3] + outward
    for corner, opposite in (
        ((left, top), (right, box[1] + inward)),
        ((left, box[3] - inward), (right, bottom)),
        ((left, top), (box[0] + inward, bottom)),
        ((box[2] - inward, top), (right, bottom)),
    ):
        cv2.rectangle(image, corner, opposite, color, cv2.FILLED)


class LabelWriter:
    """Puts labels at boxes so that they lie inside the picture and, while there is room, apart.

    Args:
        image: (H, W, 3) uint8 BGR, written on in place.
        height: of the text in pixels.
    """

    def __init__(self, image: np.ndarray, height: int) -> None:
        self.image, self.height = image, height
        self._taken: list[Area] = []

    def write(self, label: str, box: Area, color: Color, *, overhang: int = 0) -> Area:
        """Write a label at a box and return the area it covers; `overhang` is half the box's line width."""
        label = legible(label, opencv=True)
        width = text_width(label, self.height, self.image.shape[1::-1])
        margin, ascent = max(round(self.height * 0.2), 2), round(self.height * ASCENT)
        size = (width + 2 * margin, ascent + round(self.height * DESCENT) + 2 * margin)
        left, top, right, bottom = area = self._place(box, size, overhang)
        cv2.rectangle(self.image, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
        origin, ink = (left + margin, top + margin + ascent), text_color(color)
        draw_text(self.image, label, origin, ink, self.height)
        self._taken.append(area)
        return area

    def _place(self, box: Area, size: tuple[int, int], overhang: int) -> Area:
        """The best free place: above the box, inside at its top, below it, inside at its bottom."""
        frame_h, frame_w = self.image.shape[:2]
        width, height = size
        left = max(min(box[0] - overhang, frame_w - width), 0)
        tops = (box[1] - height, box[1], box[3], box[3] - height)
        choices = [(left, top, left + width, top + height) for top in tops if 0 <= top <= frame_h - height]
        for choice in choices:
            if not any(_overlap(choice, other) for other in self._taken):
                return choice
        top = choices[0][1] if choices else max(min(box[1], frame_h - height), 0)
        return left, top, left + width, top + height


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def crop(
    image: np.ndarray,
    box: Sequence[float],
    *,
    scale: float = CROP_SCALE,
    margin: float = CROP_MARGIN,
    square: bool = False,
) -> np.ndarray:
    """The part of an image (H, W, C) around an xyxy box in pixels: by default 2 % and 10 pixels more than
    the box, or than the `square` of its longer side."""
    x1, y1, x2, y2 = (float(value) for value in box)
    sides = (max(x2 - x1, y2 - y1),) * 2 if square else (x2 - x1, y2 - y1)
    half_w, half_h = ((side * scale + margin) / 2 for side in sides)
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(int(centre_x - half_w), 0), max(int(centre_y - half_h), 0)
    return image[top : max(int(centre_y + half_h), top + 1), left : max(int(centre_x + half_w), left + 1)]
