"""The services that `--loggers` names, behind one door: training tells `Loggers`, which tells them all.

A service that fails while a run trains is named once and left out from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from types import TracebackType

import yaml

from training.loggers.clearml import ClearML
from training.loggers.comet import Comet
from training.loggers.logger import About, Ending, Logger
from training.loggers.mlflow import MLflow
from training.loggers.tensorboard import TensorBoard
from training.loggers.wandb import WandB
from utils.console import LOGGER, warn
from utils.errors import UserError
from utils.files import write_text
from utils.optional import check_all_installed, is_installed
from utils.reading import read_yaml

KEYS = "loggers.yaml"  # the file of a run folder that says how each service calls the run
PICTURES = (".jpg", ".png")
BEST = ("best/precision", "best/recall", "best/mAP_0.5", "best/mAP_0.5:0.95")
NONE = "none"
OURS = "lean5"  # the project of runs that were given no --project


@dataclass(frozen=True)
class Service:
    """A service by its name for people, what opens a run there, and the package that it needs."""

    title: str
    open: Callable[[About], Logger]
    module: str
    pip: str


SERVICES = {
    "tensorboard": Service("TensorBoard", TensorBoard, "tensorboard", "tensorboard"),
    "mlflow": Service("MLflow", MLflow, "mlflow", "mlflow-skinny"),
    "wandb": Service("Weights & Biases", WandB, "wandb", "wandb"),
    "comet": Service("Comet", Comet, "comet_ml", "comet_ml"),
    "clearml": Service("ClearML", ClearML, "clearml", "clearml"),
}


class Loggers:
    """All services of one run; without any, every call does nothing.

    As a context manager it closes them, with the ending that the block has.
    """

    def __init__(self, active: Mapping[str, Logger] | None = None, folder: Path | None = None) -> None:
        self._active, self._folder = dict(active or {}), folder  # without one no pictures are told
        self._sent: dict[Path, int] = {}  # pictures, and when each was written

    def settings(self, values: Mapping[str, object]) -> None:
        """Flags and hyper-parameters of a new run."""
        self._tell(lambda logger: logger.settings(values))

    def epoch(self, columns: Sequence[str], row: Sequence[float]) -> None:
        """A row of `results.csv`, and the pictures that were drawn since the last one."""
        values, epoch = dict(zip(columns[1:], row[1:], strict=True)), int(row[0])
        self.pictures(epoch)
        self._tell(lambda logger: logger.scalars(values, epoch))

    def pictures(self, epoch: int) -> None:
        """The pictures of the run folder that are new, or drawn anew."""
        if not self._active or self._folder is None:
            return
        for file in sorted(self._folder.iterdir()):
            if file.suffix in PICTURES and self._sent.get(file) != (written := file.stat().st_mtime_ns):
                self._sent[file] = written
                self._tell(methodcaller("picture", file, epoch))

    def final(self, summary: Sequence[float], epoch: int) -> None:
        """P, R, mAP50 and mAP50-95 of the best weights, and the epoch that made them."""
        values = {**dict(zip(BEST, summary, strict=True)), "best/epoch": epoch}
        self._tell(lambda logger: logger.final(values))

    def close(self, ending: Ending) -> None:
        """Write what waits; a second call does nothing."""
        self._tell(lambda logger: logger.close(ending))
        self._active.clear()

    def __enter__(self) -> Loggers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed = kind is not None and issubclass(kind, Exception)
        self.close("finished" if kind is None else "failed" if failed else "stopped")

    @contextmanager
    def unless_done(self) -> Iterator[None]:
        """Context of a part of the work: they are closed when it ends before its time."""
        try:
            yield
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise

    def _tell(self, what: Callable[[Logger], object]) -> None:
        for name, logger in [*self._active.items()]:
            try:
                what(logger)
            except Exception as error:  # noqa: BLE001 - each service's package raises its own kinds
                del self._active[name]
                title = SERVICES[name].title
                warn(f"{title} is told no more of this run: {_reason(error)}; results.csv has all figures")


def check_services(names: Sequence[str]) -> None:
    """Raise a UserError when packages of these services are not installed."""
    check_all_installed({SERVICES[name].module: SERVICES[name].pip for name in chosen(names)})


def chosen(names: Sequence[str]) -> list[str]:
    """The services that `--loggers` asks for; without it TensorBoard, where that is installed: its files
    stay on this machine.
    """
    if not names:
        return [name for name in ("tensorboard",) if is_installed(SERVICES[name].module)]
    return [name for name in dict.fromkeys(names) if name != NONE]


def open_loggers(names: Sequence[str], folder: Path, project: Path, epoch: int | None = None) -> Loggers:
    """Open the services for a run.

    Args:
        names: as `--loggers` has them.
        folder: of the run.
        project: the folder that `--project` names.
        epoch: with which a run goes on that was begun before; None for a new one.

    Raises:
        UserError: a package is missing, or a service refuses a new run; a resumed one goes on without it.
    """
    keys = {} if epoch is None else _read_keys(folder / KEYS)
    group = OURS if project.name in ("train", "") else project.name
    inside = folder.absolute().is_relative_to(project.absolute())
    title = folder.absolute().relative_to(project.absolute()).as_posix() if inside else folder.name
    active: dict[str, Logger] = {}
    for name in chosen(names):
        service = SERVICES[name]
        try:
            active[name] = service.open(About(folder, group, title, keys.get(name, ""), epoch or 0))
        except Exception as error:  # each service's package raises its own kinds
            fault = f"{service.title} cannot be told of this run: {_reason(error)}"
            if epoch is None:
                Loggers(active).close("failed")
                raise UserError(f"{fault}; mend that, or leave {name} out of --loggers") from error
            warn(f"{fault}; results.csv has all figures")
            continue
        LOGGER.info(f"{service.title}: {active[name].place}")
    keys |= {name: logger.key for name, logger in active.items() if logger.key}
    if keys:
        write_text(folder / KEYS, yaml.safe_dump(keys))
    return Loggers(active, folder if names else None)


def _read_keys(path: Path) -> dict[str, str]:
    """How each service calls the run, as it was noted."""
    content = read_yaml(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected the names of a run by service; remove it to begin new ones")
    return {name: str(content[name]) for name in SERVICES if content.get(name)}


def _reason(error: Exception) -> str:
    told = getattr(error, "strerror", None) or " ".join(str(error).split())
    return told[:200] or type(error).__name__
