"""YOLOv5's `utils.general`, for scripts that import from there; see `docs/compatibility.md`."""

import cv2

from utils.adapters.boxes import (
    check_img_size,
    clip_boxes,
    non_max_suppression,
    scale_boxes,
    scale_coords,
    xywh2xyxy,
    xyxy2xywh,
)
from utils.adapters.boxes import clip_boxes as clip_coords
from utils.adapters.paths import check_file, increment_path
from utils.adapters.running import (
    LOGGER,
    Profile,
    check_imshow,
    check_requirements,
    colorstr,
    print_args,
    set_logging,
)
from utils.adapters.weights import strip_optimizer
from utils.files import ROOT

__all__ = [
    "LOGGER", "ROOT", "Profile", "check_file", "check_img_size", "check_imshow", "check_requirements",
    "clip_boxes", "clip_coords", "colorstr", "cv2", "increment_path", "non_max_suppression", "print_args",
    "scale_boxes", "scale_coords", "set_logging", "strip_optimizer", "xywh2xyxy", "xyxy2xywh",
]  # fmt: skip
