"""What a service has to do that keeps the records of training runs."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from utils.interrupt import STOPPING

Ending = Literal["finished", "failed", "stopped"]


@dataclass(frozen=True)
class About:
    """The run that a service is told of.

    Attributes:
        folder: the run folder.
        project: what the service calls the runs that belong together, unless its own settings say so.
        name: of the run.
        known: how the service called the run, when this one goes on with it; else empty.
        epoch: the first that will be told.
    """

    folder: Path
    project: str
    name: str
    known: str = ""
    epoch: int = 0


class Logger(ABC):
    """One run in one service. Its maker opens it; every call may raise whatever the service's package does.

    Attributes:
        key: how the service calls the run, by which a later part of it is found; empty where it needs none.
        place: where a person looks at the run.
    """

    key: str = ""
    place: str = ""

    @abstractmethod
    def settings(self, values: Mapping[str, object]) -> None:
        """What a new run was started with: flags, and hyper-parameters as `hyp.NAME`."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """The figures of an epoch, by the columns of `results.csv`."""

    @abstractmethod
    def picture(self, file: Path, epoch: int) -> None:
        """A plot or a drawn batch, an image file of the run folder, perhaps one that was drawn anew."""

    @abstractmethod
    def final(self, values: Mapping[str, float]) -> None:
        """The figures of the best weights, once the run is over."""

    @abstractmethod
    def close(self, ending: Ending) -> None:
        """Write what waits and part from the run."""


@contextmanager
def own_signals() -> Iterator[None]:
    """Context of a package that takes signals over when it begins: afterwards they are ours again."""
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
