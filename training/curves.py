"""The record of a run, epoch by epoch: `results.csv` and TensorBoard curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.console import LOGGER
from utils.files import write_text

RESULT_COLUMNS = (
    "epoch", "train/box_loss", "train/obj_loss", "train/cls_loss", "metrics/precision", "metrics/recall",
    "metrics/mAP_0.5", "metrics/mAP_0.5:0.95", "val/box_loss", "val/obj_loss", "val/cls_loss",
    "x/lr0", "x/lr1", "x/lr2",
)  # fmt: skip


def write_results(path: Path, rows: Sequence[Sequence[float]]) -> None:
    """Write `results.csv` whole: a resumed run rewrites it, so that no epoch is missing or there twice."""
    lines = [RESULT_COLUMNS, *((f"{row[0]:.0f}", *(f"{value:.6g}" for value in row[1:])) for row in rows)]
    write_text(path, "".join(f"{','.join(line)}\n" for line in lines))


class CurveLogger:
    """TensorBoard curves of a run, when TensorBoard is installed; otherwise nothing."""

    def __init__(self, folder: Path, enabled: bool = True) -> None:
        self._writer: Any = None
        if enabled:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self._writer = SummaryWriter(str(folder))
            LOGGER.info(f"TensorBoard: tensorboard --logdir {folder.parent}")

    def epoch(self, row: Sequence[float]) -> None:
        """Add one row of results."""
        if self._writer is not None:
            for name, value in zip(RESULT_COLUMNS[1:], row[1:], strict=True):
                self._writer.add_scalar(name, value, int(row[0]))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
