"""Colour jitter: hue, saturation and value; of a grey picture its value alone, and a fourth channel stays."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from utils.data.augment.picture import Draw, Picture
from utils.data.channels import keep_axis, with_channels


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
        image = picture.image
        if image.shape[2] == 1:  # as a colour picture of equal channels would come out
            return Picture.of(keep_axis(cv2.LUT(image, table[..., 2])), picture.objects)
        hsv = cv2.cvtColor(with_channels(image, 3), cv2.COLOR_BGR2HSV)
        changed = cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2BGR)
        if image.shape[2] == 4:
            changed = np.dstack([changed, image[..., 3]])
        return Picture.of(changed, picture.objects)
