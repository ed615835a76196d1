"""Colour jitter: hue, saturation and value."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.data.augment.picture import Draw, Picture


@dataclass(frozen=True)
class Colour:
    """Hue, saturation and value multiplied by `1 + U(-1, 1) * gain`, by way of look-up tables."""

    hue: float
    saturation: float
    value: float

    def __call__(self, draw: Draw, picture: Picture) -> Picture:
        gains = 1 + draw.rng.uniform(-1, 1, 3) * (self.hue, self.saturation, self.value)
        if not (self.hue or self.saturation or self.value):
            return picture
        curves = np.arange(256)[:, None] * gains
        curves[:, 0] %= 180  # hue is an angle in steps of two degrees
        table = curves.clip(0, 255).astype(np.uint8)[None]
        hsv = cv2.cvtColor(picture.image, cv2.COLOR_BGR2HSV)
        return Picture.of(cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR), picture.objects)
