"""How many values a pixel has: one (grey), three (colour), or four (colour and alpha, or an infrared band).

The number belongs to a network: `ch` of its yaml, which travels in checkpoints and in exported files.
Pictures are given that number here, in training, validation and detection alike. As arrays they are (H, W, C)
uint8 with blue first; the network sees (C, H, W) with red first and the fourth last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from utils.errors import UserError

# the channels that pictures can have, and the order of them that puts red first
RED_FIRST = {1: (0,), 3: (2, 1, 0), 4: (2, 1, 0, 3)}
COLOUR = 3  # where nothing else is said
OPAQUE = 255  # the fourth channel of a picture that has none
RED_TO_FRONT = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
# a new fourth channel is `OPAQUE`; grey is 0.299 red + 0.587 green + 0.114 blue
CONVERSIONS = {
    (1, 3): cv2.COLOR_GRAY2BGR,
    (1, 4): cv2.COLOR_GRAY2BGRA,
    (3, 1): cv2.COLOR_BGR2GRAY,
    (3, 4): cv2.COLOR_BGR2BGRA,
    (4, 1): cv2.COLOR_BGRA2GRAY,
    (4, 3): cv2.COLOR_BGRA2BGR,
}


def checked_channels(value: Any, place: str) -> int:
    """A number of channels that pictures can have.

    Raises:
        UserError: any other value; `place` says where it stands.
    """
    if type(value) is not int or value not in RED_FIRST:
        known = "1 channel (grey), 3 (colour) or 4 (colour and alpha, or infrared)"
        raise UserError(f"{place} is {value!r}; pictures have {known}")
    return value


def with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """A picture (H, W, C) uint8, blue first, as (H, W, channels); itself when it has as many."""
    if image.shape[2] == channels:
        return image
    return keep_axis(cv2.cvtColor(image, CONVERSIONS[image.shape[2], channels]))


def keep_axis(image: np.ndarray) -> np.ndarray:
    """What OpenCV gives, (H, W) of grey pictures, as (H, W, C)."""
    return image if image.ndim == 3 else image[..., None]


def write_planes(image: np.ndarray, planes: np.ndarray) -> None:
    """Write a picture (H, W, C) uint8, blue first, into (C, H, W), red first."""
    cv2.split(image, [planes[place] for place in RED_FIRST[len(planes)]])


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, C) uint8 of one shape, blue first, as (B, C, H, W), red first.

    In memory the channels stay last, as CPUs like them.
    """
    stack = np.empty((len(images), *images[0].shape), np.uint8)
    for image, place in zip(images, stack):
        if image.shape[2] in RED_TO_FRONT:
            cv2.cvtColor(image, RED_TO_FRONT[image.shape[2]], dst=place)
        else:
            place[...] = image
    return stack.transpose(0, 3, 1, 2)


def colour_of_planes(planes: np.ndarray) -> np.ndarray:
    """(C, H, W) uint8 as the network sees it as (H, W, 3), blue first, to be drawn on."""
    return with_channels(np.dstack([planes[place] for place in RED_FIRST[len(planes)]]), 3)
