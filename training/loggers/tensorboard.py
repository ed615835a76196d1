"""TensorBoard: curves and pictures in the run folder, for `tensorboard --logdir runs/train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.loggers.logger import About, Ending, Logger
from utils.data.images import read_image
from utils.optional import require


class TensorBoard(Logger):
    """A file of events in the run folder; a run that goes on adds one, which counts from its first epoch."""

    def __init__(self, about: About) -> None:
        library = require("torch.utils.tensorboard", "tensorboard")
        self._writer = library.SummaryWriter(str(about.folder), purge_step=about.epoch or None)
        self.place = f"tensorboard --logdir {about.folder.parent}"

    def settings(self, values: Mapping[str, object]) -> None:
        rows = "".join(f"| {name} | {value} |\n" for name, value in values.items())
        self._writer.add_text("settings", f"| setting | value |\n|---|---|\n{rows}")

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, epoch)

    def picture(self, file: Path, epoch: int) -> None:
        pixels = read_image(str(file))[..., ::-1]  # (H, W, 3) uint8, red first
        self._writer.add_image(file.stem, pixels, epoch, dataformats="HWC")

    def final(self, values: Mapping[str, float]) -> None:
        rows = "".join(f"| {name} | {value:.6g} |\n" for name, value in values.items())
        self._writer.add_text("best weights", f"| figure | value |\n|---|---|\n{rows}")

    def close(self, ending: Ending) -> None:
        self._writer.close()
