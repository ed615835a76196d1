"""ClearML (https://clear.ml); `clearml.conf`, `CLEARML_API_HOST` and its other variables count, and
`CLEARML_PROJECT`, `CLEARML_TASK`. `CLEARML_OFFLINE_MODE=1` keeps the run on this machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from training.loggers.logger import About, Ending, Logger, own_signals
from utils.console import warn
from utils.optional import require

OFFLINE = "offline-"  # with which the names of tasks begin that no server knows


class ClearML(Logger):
    """A task there; what it would gather by itself (arguments, checkpoints, the console) is left alone."""

    def __init__(self, about: About) -> None:
        library = require("clearml", "clearml")
        known = about.known
        if known.startswith(OFFLINE):
            warn(f"ClearML cannot go on with {known}, which was kept offline; this part is a task of its own")
            known = ""
        with own_signals():
            self._task = library.Task.init(
                project_name=os.environ.get("CLEARML_PROJECT") or about.project,
                task_name=os.environ.get("CLEARML_TASK") or about.name,
                reuse_last_task_id=known or False,
                continue_last_task=0 if known else False,  # our epochs count on by themselves
                auto_connect_arg_parser=False,
                auto_connect_frameworks=False,
                auto_connect_streams=False,
            )
        self._logger = self._task.get_logger()
        self.key = str(self._task.id)
        self.place = str(self._task.get_output_log_web_page())

    def settings(self, values: Mapping[str, object]) -> None:
        self._task.connect(dict(values))

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            title, _, series = name.rpartition("/")
            self._logger.report_scalar(title, series, value=value, iteration=epoch)

    def picture(self, file: Path, epoch: int) -> None:
        self._logger.report_image("pictures", file.stem, iteration=epoch, local_path=str(file))

    def final(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._logger.report_single_value(name, value)

    def close(self, ending: Ending) -> None:
        # without a server it would wait for one
        if ending != "finished" and not self.key.startswith(OFFLINE):
            self._task.mark_stopped() if ending == "stopped" else self._task.mark_failed()
        self._task.close()
