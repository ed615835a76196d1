"""MLflow (https://mlflow.org): runs in a folder of this machine, or on the server that its variables name.

`MLFLOW_TRACKING_URI`, `MLFLOW_EXPERIMENT_NAME` and its other variables count. Without the first, runs are
kept in `runs/mlflow` by MLflow's file store, which gets no new features and therefore has to be allowed.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from training.loggers.logger import About, Ending, Logger
from utils.optional import require

STORE = Path("runs/mlflow")
LONGEST = 500  # letters of a setting, in every version of MLflow
DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # by default training would stand still for minutes when the server has gone
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
STATUS: dict[Ending, str] = {"finished": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MLflow(Logger):
    """A run of MLflow's."""

    def __init__(self, about: About) -> None:
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._library = library = require("mlflow", "mlflow-skinny")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            library.set_tracking_uri(STORE.absolute().as_uri())
        if not (os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get("MLFLOW_EXPERIMENT_ID")):
            library.set_experiment(about.project)
        run = library.start_run(run_id=about.known or None, run_name=None if about.known else about.name)
        self.key = run.info.run_id
        self.place = f"run {self.key} in {library.get_tracking_uri()}"

    def settings(self, values: Mapping[str, object]) -> None:
        self._library.log_params({name: str(value)[:LONGEST] for name, value in values.items()})

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._library.log_metrics(_named(values), step=epoch)

    def picture(self, file: Path, epoch: int) -> None:
        self._library.log_artifact(str(file), "pictures")

    def final(self, values: Mapping[str, float]) -> None:
        self._library.log_metrics(_named(values))

    def close(self, ending: Ending) -> None:
        self._library.end_run(STATUS[ending])


def _named(values: Mapping[str, float]) -> dict[str, float]:
    """Finite figures under names that are file names everywhere: without colons."""
    return {name.replace(":", "-"): value for name, value in values.items() if math.isfinite(value)}
