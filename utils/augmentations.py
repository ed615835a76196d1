"""YOLOv5's `utils.augmentations`, for scripts that import from there; see `docs/compatibility.md`."""

from utils.adapters.media import letterbox

__all__ = ["letterbox"]
