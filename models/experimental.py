"""YOLOv5's `models.experimental`, for scripts that import from there; see `docs/compatibility.md`."""

from models.adapters import Ensemble, attempt_load

__all__ = ["Ensemble", "attempt_load"]
