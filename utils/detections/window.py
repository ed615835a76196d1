"""A window for --view-img, which does nothing where there is no screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import cv2
import numpy as np

from utils.console import warn
from utils.data.channels import with_channels
from utils.data.frames import Frame
from utils.detections.annotate import Style, annotate

QUIT_KEYS = frozenset({ord("q"), 27})  # 27 is Esc


def display_missing(viewer: bool = False) -> str:
    """Why no window of OpenCV, or no `viewer` of the system, can be shown; empty when one can.

    Asking OpenCV is no way to find out: with Qt it aborts the process.
    """
    if not viewer and "GUI:                           NONE" in cv2.getBuildInformation():
        return "this OpenCV is a headless build"
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return "there is no display"
    return ""


class Window:
    """Shows annotated frames, one window per item of the source; q or Esc closes.

    Attributes:
        closed: the user has asked to end.
    """

    def __init__(self, names: Mapping[int, str], style: Style) -> None:
        self.names, self.style, self.closed = names, style, False
        reason = display_missing()
        self._usable = not reason
        if reason:
            warn(f"--view-img: {reason}; going on without a window")

    def show(self, frame: Frame, rows: np.ndarray) -> np.ndarray | None:
        """Draw a frame's detections (n, 6) into it and show it; returns it, or None without a window."""
        if not self._usable:
            return None
        picture = annotate(with_channels(frame.image, 3).copy(), rows, self.names, self.style)
        try:
            cv2.imshow(frame.path if frame.mode == "stream" else "detections", picture)
            self.closed = cv2.waitKey(1) & 0xFF in QUIT_KEYS
        except cv2.error as error:
            self._usable = False
            warn(f"--view-img: {str(error).strip().splitlines()[-1]}; going on without a window")
        return picture
