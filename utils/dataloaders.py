"""YOLOv5's `utils.dataloaders`, for scripts that import from there; see `docs/compatibility.md`."""

from utils.adapters.media import IMG_FORMATS, VID_FORMATS, LoadImages, LoadStreams, letterbox

__all__ = ["IMG_FORMATS", "VID_FORMATS", "LoadImages", "LoadStreams", "letterbox"]
