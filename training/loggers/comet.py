"""Comet (https://www.comet.com); `COMET_API_KEY`, `COMET_PROJECT_NAME` and its other variables count.

`COMET_START_ONLINE=0` keeps the run in `COMET_OFFLINE_DIRECTORY`, or the run folder, until `comet upload`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from training.loggers.logger import About, Ending, Logger, own_signals
from utils.optional import require

OURS = {  # what it would gather by itself: everything that there is comes from here
    **dict.fromkeys(("log_code", "log_graph", "parse_args", "log_git_patch"), False),
    **dict.fromkeys(("auto_metric_logging", "auto_param_logging", "auto_output_logging"), False),
    "display_summary_level": 0,
}


class Comet(Logger):
    """An experiment there."""

    def __init__(self, about: About) -> None:
        # it would patch torch, and warns that it is late
        os.environ.setdefault("COMET_DISABLE_AUTO_LOGGING", "1")
        library = require("comet_ml", "comet_ml")
        config = library.ExperimentConfig(
            name=about.name,
            offline_directory=os.environ.get("COMET_OFFLINE_DIRECTORY") or str(about.folder),
            **OURS,
        )
        with own_signals():
            self._experiment = library.start(
                project_name=os.environ.get("COMET_PROJECT_NAME") or about.project,
                experiment_key=about.known or None,
                mode="get" if about.known else None,
                experiment_config=config,
            )
        self.key = str(self._experiment.get_key())
        self.place = str(getattr(self._experiment, "url", None) or f"experiment {self.key}")

    def settings(self, values: Mapping[str, object]) -> None:
        self._experiment.log_parameters(dict(values))

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._experiment.log_metrics(dict(values), step=epoch, epoch=epoch)

    def picture(self, file: Path, epoch: int) -> None:
        self._experiment.log_image(str(file), name=file.stem, step=epoch)

    def final(self, values: Mapping[str, float]) -> None:
        self._experiment.log_others(dict(values))

    def close(self, ending: Ending) -> None:
        self._experiment.log_other("ending", ending)
        self._experiment.end()
