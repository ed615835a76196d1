"""What `utils.dataloaders` was called before v6.1; see `docs/compatibility.md`."""

from utils.adapters.media import IMG_FORMATS, VID_FORMATS, LoadImages, LoadStreams, letterbox

__all__ = ["IMG_FORMATS", "VID_FORMATS", "LoadImages", "LoadStreams", "letterbox"]
