"""Which run `--resume` continues, and with which settings: its checkpoint against the command line.

What is put back, weights, optimizer and all else that changes, is in `state.py: TrainingState`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from training.config import RunConfig
from training.hyp_yaml import checked
from training.run_folder import RunFolder, newest_checkpoint
from utils.checkpoints.files import read_checkpoint
from utils.console import LOGGER
from utils.distributed import Process, broadcast, from_all
from utils.errors import UserError
from utils.flags import of_saved
from utils.hyperparameters import Hyperparameters

ConfigType = TypeVar("ConfigType", bound=RunConfig)
# what may differ when a run is resumed: where and how fast it computes, and what it draws
FREE = ("device", "workers", "cache", "noplots", "verbose")
# what names the run to resume
ABOUT_RESUMING = ("resume", "project", "local_rank")


def resumed(
    config: ConfigType, process: Process
) -> tuple[ConfigType, Hyperparameters, RunFolder, dict[str, Any]]:
    """The settings, the hyper-parameters, the folder and the checkpoint of the run that `--resume` names.

    Raises:
        UserError: no such file, weights without a training state or outside the folder of a run, a flag that
            contradicts the run, or another number of processes.
    """
    project, wanted = Path(config.project), config.resume
    path = newest_checkpoint(project) if wanted is True else Path(str(wanted))
    content = read_checkpoint(path)
    state = content.get("resume")
    if not isinstance(state, dict) or not isinstance(content.get("train_args"), dict):
        raise UserError(f"{path} holds weights only; --resume needs the last.pt of a run made here")
    if state.get("processes") != process.world_size:
        raise UserError(
            f"{path} was trained by {state.get('processes')} processes and continues with as many; "
            f"there are {process.world_size}"
        )
    config = with_saved(config, content["train_args"], path)
    if path.resolve().parent.name != "weights":
        raise UserError(f"{path} is not in the weights folder of a run; put it back to resume it")
    return config, saved_hyp(content["hyp"]), RunFolder(path.resolve().parents[1]), content


def restarted(config: ConfigType, process: Process) -> ConfigType:
    """The settings of a run that may be one that `torchrun --max-restarts` has started again, after a process
    or a machine was lost: then they resume what the same job has saved, if there is anything.
    """
    if config.resume or not any(from_all(process.restarts)):  # a machine that came back counts from 0
        return config
    run = RunFolder.of_job(config.project, process.job) if process.is_main else None
    last = broadcast(str(run.last) if run is not None and run.last.is_file() else "")
    if not last:
        return config
    LOGGER.info(f"torchrun has started the processes again; they go on with {last}")
    again: ConfigType = dataclasses.replace(config, resume=last)  # type: ignore[type-var]  # it is one
    object.__setattr__(again, "typed", config.typed)
    return again


def with_saved(config: ConfigType, saved: Mapping[str, Any], path: Path) -> ConfigType:
    """The settings that a run was started with; those that do not change what it learns may be typed anew.

    Raises:
        UserError: damaged settings, or a flag that contradicts them.
    """
    kind = type(config)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
    for field in dataclasses.fields(config):  # type: ignore[arg-type]  # every subclass is a dataclass
        name, value = field.name, getattr(config, field.name)
        if name in ABOUT_RESUMING + config.once or (value == field.default and name not in config.typed):
            continue
        if name not in FREE + config.free and value != settings.get(name):
            raise UserError(
                f"--resume continues with the settings of {path}, where {name} is {settings.get(name)!r}; "
                f"leave --{name.replace('_', '-')} out, or start a new run"
            )
        settings[name] = value
    settings |= {name: getattr(config, name) for name in kind.once}
    try:
        config = of_saved(kind, settings)
    except ValueError as error:
        raise UserError(
            f"{path}: its training settings are damaged or of another version: {error}"
        ) from error
    return config


def saved_hyp(values: object) -> Hyperparameters:
    """Hyper-parameters as a run has saved them, every value checked.

    Raises:
        UserError: there are none, or damaged ones.
    """
    if not isinstance(values, dict):
        raise UserError("the checkpoint has no hyper-parameters; start a new run with --weights")
    return Hyperparameters(**{key: checked("the checkpoint", key, value) for key, value in values.items()})
