"""YOLOv5's `utils.torch_utils`, for scripts that import from there; see `docs/compatibility.md`."""

from utils.adapters.running import select_device, smart_inference_mode, time_sync
from utils.adapters.running import time_sync as time_synchronized

__all__ = ["select_device", "smart_inference_mode", "time_sync", "time_synchronized"]
