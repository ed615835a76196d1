"""Weights & Biases (https://wandb.ai); `WANDB_PROJECT`, `WANDB_MODE` and its other variables count."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from training.loggers.logger import About, Ending, Logger, own_signals
from utils.optional import require

LONGEST_END = 120.0  # seconds that may be spent on sending what waits


class WandB(Logger):
    """A run there; with WANDB_MODE=offline in the run folder, until `wandb sync` sends it."""

    def __init__(self, about: About) -> None:
        for name, value in {"WANDB_ERROR_REPORTING": "false", "WANDB_QUIET": "true"}.items():
            os.environ.setdefault(name, value)
        library = require("wandb", "wandb")
        with own_signals():
            self._run = library.init(
                project=os.environ.get("WANDB_PROJECT") or about.project,
                name=os.environ.get("WANDB_NAME") or about.name,
                dir=os.environ.get("WANDB_DIR") or str(about.folder),
                id=about.known or os.environ.get("WANDB_RUN_ID") or None,
                resume="allow" if about.known else os.environ.get("WANDB_RESUME") or None,
                # our lines stay ours: it would put itself between them and the console
                settings=library.Settings(console="off", finish_timeout=LONGEST_END),
            )
        self._library = library
        self.key = str(self._run.id)
        self.place = str(getattr(self._run, "url", None) or self._run.dir)

    def settings(self, values: Mapping[str, object]) -> None:
        self._run.config.update(dict(values))

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._run.log(dict(values), step=epoch)

    def picture(self, file: Path, epoch: int) -> None:
        # without a step it joins the figures that come next
        self._run.log({f"pictures/{file.stem}": self._library.Image(str(file))}, commit=False)

    def final(self, values: Mapping[str, float]) -> None:
        self._run.summary.update(dict(values))

    def close(self, ending: Ending) -> None:
        self._run.finish(exit_code=0 if ending == "finished" else 1)
