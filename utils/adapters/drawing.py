"""Drawing by hand: YOLOv5's `Annotator`, `colors`, `save_one_box` and the older `plot_one_box`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.adapters.paths import increment_path
from utils.detections.annotate import (
    CROP_MARGIN,
    CROP_SCALE,
    SMALLEST_TEXT,
    TEXT_SHARE,
    LabelWriter,
    crop,
    outline,
)
from utils.detections.saving import write_image
from utils.palette import class_color

Color = tuple[int, int, int]
GREY, WHITE = (128, 128, 128), (255, 255, 255)


class Colors:
    """`colors(class)` is (red, green, blue), with `bgr` (blue, green, red)."""

    def __call__(self, i: Any, bgr: bool = False) -> Color:
        blue, green, red = class_color(int(i))
        return (blue, green, red) if bgr else (red, green, blue)


colors = Colors()


class Annotator:
    """Draws boxes and labels on a picture: (H, W, 3) uint8, in place; colours in the picture's order.

    Args:
        line_width: in pixels; by default it follows from the picture's size.
        font_size: height of the text in pixels, likewise.
        font, pil, example: accepted for YOLOv5's sake; every label is drawn with the same letters.
    """

    def __init__(
        self,
        im: Any,
        line_width: int | None = None,
        font_size: float | None = None,
        font: str = "",
        pil: bool = False,
        example: str = "",
    ) -> None:
        self.im: np.ndarray = np.ascontiguousarray(im)
        mean_side = sum(self.im.shape[:2]) / 2
        self.lw = line_width or max(round(mean_side * 0.003), 2)
        self._writer = LabelWriter(self.im, round(font_size or max(mean_side * TEXT_SHARE, SMALLEST_TEXT)))

    def box_label(self, box: Any, label: str = "", color: Color = GREY, txt_color: Color = WHITE) -> None:
        """A box (x1, y1, x2, y2 in pixels) and its label, in black or white, whichever reads better."""
        area = [round(float(value)) for value in box]
        outline(self.im, area, color, self.lw)
        if label:
            self._writer.write(label, area, color, overhang=(self.lw + 1) // 2)

    def result(self) -> np.ndarray:
        """The picture."""
        return self.im


def plot_one_box(
    x: Any, im: np.ndarray, color: Color = GREY, label: str | None = None, line_thickness: int | None = None
) -> None:
    """As `Annotator.box_label`, of versions before v6."""
    Annotator(im, line_thickness).box_label(x, label or "", color)


def save_one_box(
    xyxy: Any,
    im: np.ndarray,
    file: str | Path = Path("im.jpg"),
    gain: float = CROP_SCALE,
    pad: float = CROP_MARGIN,
    square: bool = False,
    BGR: bool = False,
    save: bool = True,
) -> np.ndarray:
    """The part of a picture around a box, (h, w, 3) BGR; with `save` also as a JPEG, numbered if need be.

    Args:
        im: (H, W, 3) uint8 RGB, with `BGR` blue first.
        gain, pad: a crop is so many times larger than its box, and so many pixels.
        square: first make the box a square of its longer side.
    """
    box: Sequence[float] = np.asarray(xyxy, dtype=float).reshape(4).tolist()
    piece = crop(im, box, scale=gain, margin=pad, square=square)
    piece = piece if BGR else piece[..., ::-1]
    if save:
        write_image(increment_path(Path(file).with_suffix(".jpg")), piece)
    return piece
