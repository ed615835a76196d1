"""Work that processes on any number of machines share: jobs with names, each done once, in a study of Optuna.

Every process has the same plan, asks for the next job (`Study.claim`), says that it lives while it works
(`Study.working`) and writes down what came of it. A job whose process does not live any more is given to
another. Clocks of machines are not compared: a process is lost when its count of beats stands still for
`GRACE` seconds of the one that looks, or at once when it ran here and its lock is free.

What comes out of a study is data: Optuna keeps JSON, in its journal and in a database alike, and nothing here
or there is unpickled (its journal on Redis would, which is not offered).
"""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from filelock import FileLock, Timeout

from training.study_storage import asking, open_storage, shown_address
from utils.errors import UserError

BEAT = 15.0  # seconds between two signs of life
GRACE = 120.0  # seconds without one, after which a process is lost
ATTEMPTS = 3  # how often a job may lose its process, until nobody tries it again

Result = TypeVar("Result")
End = Literal["failed", "lost", "stopped"]


class Taken(Exception):
    """Another process has the job now, as this one did not answer for too long."""


@dataclass(frozen=True)
class Job:
    """What a process has claimed.

    Attributes:
        trial: its number in the storage.
        notes: what the attempts before, that were lost or stopped, have noted.
    """

    name: str
    trial: int
    notes: Mapping[str, Any]


def unusual(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not as they are by default."""
    usual = dataclasses.asdict(type(settings)())
    return {name: value for name, value in dataclasses.asdict(settings).items() if value != usual[name]}


class Study:
    """The jobs of one piece of work, at one address.

    Args:
        address: a file, or `postgresql://…`.
        name: of the study; an address may hold several.
        settings: what every process that takes part must have in common, values that JSON knows.
        folder: of this process; its lock is kept there.
        instead: what to do about other settings.

    Raises:
        UserError: see `open_storage`; or the study was begun with other settings.
    """

    def __init__(
        self, address: str, name: str, settings: Mapping[str, Any], folder: Path, *, instead: str
    ) -> None:
        self.address, self.name = address, name
        self._storage = open_storage(address)
        self._seen: dict[int, tuple[Any, float]] = {}
        import optuna

        self._states = optuna.trial.TrialState
        self._create_trial = optuna.trial.create_trial
        with self._speaking():
            try:
                self._id = self._storage.get_study_id_from_name(name)
            except KeyError:
                optuna.create_study(
                    storage=self._storage, study_name=name, direction="maximize", load_if_exists=True
                )
                self._id = self._storage.get_study_id_from_name(name)
            attributes = self._storage.get_study_user_attrs(self._id)
            if "settings" not in attributes:
                self._storage.set_study_user_attr(self._id, "settings", dict(settings))
                attributes = self._storage.get_study_user_attrs(self._id)
        if not isinstance(attributes["settings"], dict):
            raise UserError(f"{self} is none of ours, or damaged; {instead}")
        _check_settings(attributes["settings"], json.loads(json.dumps(dict(settings))), self, instead)
        lock = folder / ".workers" / f"{uuid.uuid4().hex}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(lock)
        self._lock.acquire(timeout=0)
        self._worker = {"host": socket.gethostname(), "lock": str(lock.resolve())}

    def close(self) -> None:
        self._lock.release()
        with suppress(OSError):
            Path(self._lock.lock_file).unlink()
        with suppress(OSError):
            Path(self._lock.lock_file).parent.rmdir()

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return f"study {self.name} at {shown_address(self.address)}"

    def _speaking(self) -> Any:
        return asking(self.address)

    def _board(self) -> dict[str, list[Any]]:
        """The attempts of each job by its name, in the order in which they were added."""
        board: dict[str, list[Any]] = {}
        for trial in self._storage.get_all_trials(self._id, deepcopy=False):
            name = trial.user_attrs.get("job")
            if isinstance(name, str):
                board.setdefault(name, []).append(trial)
        return board

    def results(self) -> dict[str, Any]:
        """What was written down about jobs that are done, by their names."""
        with self._speaking():
            return {
                name: trial.user_attrs.get("result")
                for name, attempts in self._board().items()
                for trial in attempts[::-1]
                if trial.state == self._states.COMPLETE
            }

    def failures(self) -> dict[str, str]:
        """Why jobs will not be done, by their names."""
        with self._speaking():
            reasons = {name: self._failure(attempts) for name, attempts in self._board().items()}
        return {name: reason for name, reason in reasons.items() if reason}

    def running(self) -> list[str]:
        with self._speaking():
            return [
                name
                for name, attempts in self._board().items()
                if any(trial.state == self._states.RUNNING for trial in attempts)
            ]

    def _failure(self, attempts: Sequence[Any]) -> str:
        if any(trial.state == self._states.COMPLETE for trial in attempts):
            return ""
        ended = [trial for trial in attempts if trial.state == self._states.FAIL]
        for trial in ended:
            if trial.user_attrs.get("ended") == "failed":
                return str(trial.user_attrs.get("reason", ""))
        lost = [trial for trial in ended if trial.user_attrs.get("ended") != "stopped"]
        if len(lost) < ATTEMPTS:
            return ""
        return f"lost {len(lost)} times, at last: {lost[-1].user_attrs.get('reason', 'nothing is known')}"

    def claim(self, names: Sequence[str]) -> Job | None:
        """The first of these jobs that nobody has; None when there is none, for now or for good."""
        with self._speaking():
            while True:
                board = self._board()
                if self._bury(board):
                    continue
                again = False
                for name in names:
                    attempts = board.get(name, [])
                    done = any(trial.state == self._states.COMPLETE for trial in attempts)
                    if done or self._failure(attempts):
                        continue
                    live = [trial for trial in attempts if not trial.state.is_finished()]
                    if not live:
                        self._add(name)
                    elif live[0].state == self._states.RUNNING:
                        continue
                    elif (job := self._start(name, live[0], attempts)) is not None:
                        return job
                    again = True  # somebody may have done the same: the first one added counts
                    break
                if not again:
                    return None

    def _add(self, name: str) -> None:
        waiting = self._create_trial(state=self._states.WAITING, user_attrs={"job": name})
        self._storage.create_new_trial(self._id, template_trial=waiting)

    def _start(self, name: str, trial: Any, attempts: Sequence[Any]) -> Job | None:
        from optuna.exceptions import UpdateFinishedTrialError

        identity = self._identity(trial)
        try:
            if not self._storage.set_trial_state_values(identity, state=self._states.RUNNING):
                return None
        except UpdateFinishedTrialError:
            return None
        self._storage.set_trial_user_attr(identity, "worker", self._worker)
        notes: dict[str, Any] = {}
        for earlier in attempts:
            if isinstance(noted := earlier.user_attrs.get("notes"), dict):
                notes |= noted
        return Job(name, identity, notes)

    def _identity(self, trial: Any) -> int:
        identity: int = self._storage.get_trial_id_from_study_id_trial_number(self._id, trial.number)
        return identity

    def _bury(self, board: Mapping[str, Sequence[Any]]) -> bool:
        """Take jobs away from processes that do not live any more; whether there were any."""
        found = False
        for attempts in board.values():
            for trial in attempts:
                if trial.state == self._states.RUNNING and (reason := self._death(trial)):
                    self.end(Job("", self._identity(trial), {}), "lost", reason)
                    found = True
        return found

    def _death(self, trial: Any) -> str:
        worker = trial.user_attrs.get("worker")
        if isinstance(worker, dict) and worker.get("host") == self._worker["host"]:
            lock = Path(str(worker.get("lock")))
            if lock.parent.name == ".workers" and _is_free(lock):
                return "its process was killed"
        beat, now = trial.user_attrs.get("beat"), time.monotonic()
        known, since = self._seen.setdefault(trial.number, (beat, now))
        if beat != known:
            self._seen[trial.number] = (beat, now)
        elif now - since > GRACE:
            return f"its process gave no sign of life for {GRACE:.0f} s"
        return ""

    def note(self, job: Job, notes: Mapping[str, Any]) -> None:
        """Write down what a process that takes the job over has to know."""
        with self._speaking():
            self._storage.set_trial_user_attr(job.trial, "notes", dict(notes))

    @contextmanager
    def working(self, job: Job) -> Iterator[Callable[[], bool]]:
        """Context in which others are told that this process lives; yields whether it has lost the job."""
        ended, lost = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._beat, args=(job, ended, lost), daemon=True, name="beat")
        thread.start()
        try:
            yield lost.is_set
        finally:
            ended.set()
            thread.join()

    def _beat(self, job: Job, ended: threading.Event, lost: threading.Event) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        heard, count = time.monotonic(), 0
        while not ended.wait(BEAT):
            count += 1
            try:
                self._storage.set_trial_user_attr(job.trial, "beat", count)
                heard = time.monotonic()
            except (UpdateFinishedTrialError, KeyError):
                lost.set()
                return
            except Exception:  # noqa: BLE001 - whatever the driver of a database raises while it is away
                if time.monotonic() - heard > GRACE / 2:  # others will think that this process is lost
                    lost.set()
                    return

    def done(self, job: Job, value: float, result: Any, curve: Sequence[float] = ()) -> None:
        """Write down what came of a job.

        Args:
            value: what the study maximises.
            result: what JSON knows.
            curve: the value after each epoch.

        Raises:
            Taken: another process has it.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            with self._speaking():
                for step, height in enumerate(curve):
                    self._storage.set_trial_intermediate_value(job.trial, step, height)
                self._storage.set_trial_user_attr(job.trial, "result", result)
                self._storage.set_trial_state_values(job.trial, state=self._states.COMPLETE, values=[value])
        except UpdateFinishedTrialError as error:
            raise Taken(job.name) from error

    def end(self, job: Job, how: End, reason: str) -> None:
        """Give a job back: `failed` for good, `lost` with its process, or `stopped` by the user."""
        from optuna.exceptions import UpdateFinishedTrialError

        with suppress(UpdateFinishedTrialError), self._speaking():
            self._storage.set_trial_user_attr(job.trial, "ended", how)
            self._storage.set_trial_user_attr(job.trial, "reason", reason)
            self._storage.set_trial_state_values(job.trial, state=self._states.FAIL)


def _is_free(lock: Path) -> bool:
    """Whether nobody holds a lock that is there; it is removed then."""
    if not lock.is_file():
        return False
    try:
        with FileLock(lock).acquire(timeout=0):
            pass
    except (Timeout, OSError, NotImplementedError):
        return False
    with suppress(OSError):
        lock.unlink()
    return True


def _check_settings(before: Mapping[str, Any], now: Mapping[str, Any], study: Study, instead: str) -> None:
    for name in (*before, *now):
        old, new = before.get(name), now.get(name)
        if old != new:
            raise UserError(
                f"{study} was begun with {name} {_said(old)}, now {_said(new)}; repeat it, or {instead}"
            )


def _said(value: Any) -> str:
    if value in ("", None, []):
        return "(none)"
    text = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
