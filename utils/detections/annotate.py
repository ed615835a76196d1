"""Drawing detections on pictures, and cutting them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from utils.palette import class_color, text_color

Color = tuple[int, int, int]  # blue, green, red
Area = tuple[int, int, int, int]  # left, top, right, bottom in pixels

SMALLEST_TEXT, TEXT_SHARE = 11, 0.02  # text height: at least these pixels, and this share of the mean side
FONT_WEIGHT = 500  # between regular and bold, which reads better on busy pictures
HERSHEY_HEIGHT = 30  # pixels that OpenCV's built-in strokes take from ascender to descender at scale 1
CROP_SCALE, CROP_MARGIN = 1.02, 10  # a crop is this much larger than its box, plus these pixels


def box_label(name: str, confidence: float, *, labels: bool = True, confidences: bool = True) -> str:
    """The text at a box, as the --hide-labels and --hide-conf flags have it; empty for none."""
    if not labels:
        return ""
    return f"{name} {confidence:.2f}" if confidences else name


@dataclass
class Style:
    """How boxes look; `None` derives a size from the picture's."""

    line_width: int | None = None
    labels: bool = True
    confidences: bool = True


def annotate(
    image: np.ndarray, detections: np.ndarray, names: Mapping[int, str], style: Style | None = None
) -> np.ndarray:
    """Draw detections on an image, in place, and return it.

    Args:
        image: (H, W, 3) uint8 BGR, contiguous.
        detections: (n, 6) x1, y1, x2, y2 in pixels of the image, confidence, class; most confident first.
        names: name of each class.
    """
    style = style or Style()
    mean_side = (image.shape[0] + image.shape[1]) / 2
    width = style.line_width or max(round(mean_side * 0.003), 1)
    rows = [(_area(row[:4]), float(row[4]), int(row[5])) for row in detections]
    for area, _, category in reversed(rows):  # the most confident one ends up on top
        _outline(image, area, class_color(category), width)
    if not style.labels:
        return image
    writer = LabelWriter(image, max(round(mean_side * TEXT_SHARE), SMALLEST_TEXT))
    for area, confidence, category in rows:
        label = box_label(names[category], confidence, confidences=style.confidences)
        writer.write(label, area, class_color(category), overhang=(width + 1) // 2)
    return image


def _outline(image: np.ndarray, area: Area, color: Color, width: int) -> None:
    """A frame of exactly `width` pixels; OpenCV's own thick lines come out wider than asked for."""
    inward, outward = width // 2, (width - 1) // 2
    left, top, right, bottom = area[0] - outward, area[1] - outward, area[2] + outward, area[3] + outward
    for corner, opposite in (
        ((left, top), (right, area[1] + inward)),
        ((left, area[3] - inward), (right, bottom)),
        ((left, top), (area[0] + inward, bottom)),
        ((area[2] - inward, top), (right, bottom)),
    ):
        cv2.rectangle(image, corner, opposite, color, cv2.FILLED)


def _area(row: Sequence[float]) -> Area:
    x1, y1, x2, y2 = (round(float(value)) for value in row)
    return x1, y1, x2, y2


@dataclass
class LabelWriter:
    """Puts labels at boxes so that they lie inside the picture and, while there is room, apart."""

    image: np.ndarray
    height: int  # of the text in pixels
    taken: list[Area] = field(default_factory=list)
    font: Any = None

    def __post_init__(self) -> None:
        self.margin = max(round(self.height * 0.2), 2)
        if hasattr(cv2, "FontFace"):  # OpenCV 5: outline fonts, all of Unicode
            self.font = cv2.FontFace("sans")

    def write(self, label: str, box: Area, color: Color, *, overhang: int = 0) -> Area:
        """Write a label at a box and return the area it covers; `overhang` is half the box's line width."""
        text_width, ascent, descent = self._measure(label)
        size = (text_width + 2 * self.margin, ascent + descent + 2 * self.margin)
        left, top, right, bottom = self._place(box, size, overhang)
        cv2.rectangle(self.image, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
        self._draw(label, (left + self.margin, top + self.margin + ascent), text_color(color))
        self.taken.append((left, top, right, bottom))
        return self.taken[-1]

    def _place(self, box: Area, size: tuple[int, int], overhang: int) -> Area:
        """The best free place: above the box, inside at its top, below it, inside at its bottom."""
        frame_h, frame_w = self.image.shape[:2]
        width, height = size
        left = max(min(box[0] - overhang, frame_w - width), 0)
        tops = (box[1] - height, box[1], box[3], box[3] - height)
        fitting = [top for top in tops if 0 <= top <= frame_h - height]
        choices = [(left, top, left + width, top + height) for top in fitting]
        for choice in choices:
            if not any(_overlap(choice, other) for other in self.taken):
                return choice
        top = choices[0][1] if choices else max(min(box[1], frame_h - height), 0)
        return left, top, left + width, top + height

    def _measure(self, label: str) -> tuple[int, int, int]:
        """Width, and height above and below the base line; the same height for every label."""
        ascent, descent = round(self.height * 0.78), round(self.height * 0.24)
        if self.font is not None:
            frame = (self.image.shape[1], self.image.shape[0])
            x, _, width, _ = cv2.getTextSize(frame, label, (0, 0), self.font, self.height, FONT_WEIGHT)
            return x + width, ascent, descent
        if label.isascii():
            (width, _), _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, *self._strokes())
            return width, ascent, descent
        return _pillow_mask(label, self.height).shape[1], ascent, descent

    def _draw(self, label: str, origin: tuple[int, int], color: Color) -> None:
        if self.font is not None:
            cv2.putText(self.image, label, origin, color, self.font, self.height, FONT_WEIGHT)
        elif label.isascii():
            scale, thickness = self._strokes()
            cv2.putText(
                self.image, label, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, color, thickness, cv2.LINE_AA
            )
        else:
            _blend(self.image, _pillow_mask(label, self.height), origin, color)

    def _strokes(self) -> tuple[float, int]:
        return self.height / HERSHEY_HEIGHT, max(round(self.height / 14), 1)


def _overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _pillow_mask(text: str, height: int) -> np.ndarray:
    """Coverage (h, w) uint8 of a text; for OpenCV 4, whose own strokes end with ASCII.

    Letters that Pillow's built-in font does not have come out as boxes.
    """
    from PIL import ImageFont

    font = ImageFont.load_default(size=round(height * 0.85))
    mask = font.getmask(text, mode="L", anchor="ls")
    return np.asarray(mask, np.uint8).reshape(mask.size[1], mask.size[0])


def _blend(image: np.ndarray, mask: np.ndarray, origin: tuple[int, int], color: Color) -> None:
    """Paint a colour through a mask whose last row lies on the base line."""
    bottom, left = origin[1], origin[0]
    top = max(bottom - mask.shape[0], 0)
    patch = image[top:bottom, left : left + mask.shape[1]]
    cover = mask[mask.shape[0] - (bottom - top) :, : patch.shape[1], None] / 255.0
    patch[:] = (patch * (1 - cover) + np.array(color) * cover).round().astype(np.uint8)


def crop(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """The part of an image (H, W, C) around an xyxy box in pixels: 2 % and 10 pixels more than the box."""
    x1, y1, x2, y2 = (float(value) for value in box)
    half_w, half_h = ((side * CROP_SCALE + CROP_MARGIN) / 2 for side in (x2 - x1, y2 - y1))
    centre_x, centre_y = (x1 + x2) / 2, (y1 + y2) / 2
    left, top = max(int(centre_x - half_w), 0), max(int(centre_y - half_h), 0)
    return image[top : max(int(centre_y + half_h), top + 1), left : max(int(centre_x + half_w), left + 1)]
