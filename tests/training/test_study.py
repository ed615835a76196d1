"""Work that processes share: every job is done once, whoever is lost, and what others wrote is data."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training_runs import ENVIRONMENT, ROOT
from training import study as study_module
from training.config import TrainConfig
from training.study import Job, Study, Taken
from training.study_storage import address_fault, open_storage, shown_address
from utils.errors import UserError

pytest.importorskip("optuna", reason="studies need optuna")

SETTINGS = {"--epochs": 2, "--seeds": [0, 1]}
Opener = Callable[..., Study]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    """Opens the study at one journal, any number of times."""
    studies = []

    def open_one(name: str = "zoo", settings: dict[str, Any] = SETTINGS, folder: str = "here") -> Study:
        address = str(tmp_path / "study.journal")
        studies.append(Study(address, name, settings, tmp_path / folder, instead="take another --name"))
        return studies[-1]

    yield open_one
    for one in studies:
        one.close()


def claimed(study: Study, *names: str) -> Job:
    job = study.claim(names)
    assert job is not None
    return job


def test_every_job_is_given_once_and_its_result_is_known_to_all(opened: Opener) -> None:
    first, second = opened(), opened()
    names = ["a", "b", "c"]
    one, two = claimed(first, *names), claimed(second, *names)
    assert (one.name, two.name) == ("a", "b")
    first.done(one, 0.5, {"map": [0.25, 0.5]}, curve=[0.25, 0.5])
    assert second.results() == {"a": {"map": [0.25, 0.5]}}
    assert claimed(first, *names).name == "c"
    assert second.claim(names) is None and sorted(second.running()) == ["b", "c"]


def test_two_that_add_the_same_job_do_it_once(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = opened(), opened()
    add = Study._add

    def both(study: Study, name: str) -> None:  # the other one has looked before this one has added
        add(first, name)
        add(second, name)

    monkeypatch.setattr(Study, "_add", both)
    job = claimed(first, "a")
    assert second.claim(["a"]) is None
    first.done(job, 1.0, {})
    assert first.claim(["a"]) is None and list(second.results()) == ["a"]


@pytest.mark.parametrize(("how", "again"), [("stopped", 9), ("lost", 3), ("failed", 1)])
def test_how_often_a_job_is_tried(opened: Opener, how: Any, again: int) -> None:
    """What the user stops may begin any number of times; what fails for its own reason, never again."""
    study = opened()
    for number in range(again):
        job = claimed(study, "a")
        assert job.notes == ({"hyp": number - 1} if number else {})
        study.note(job, {"hyp": number})
        study.end(job, how, "the loss became nan")
    assert (study.claim(["a"]) is None) == (how != "stopped")
    if how == "failed":
        assert study.failures() == {"a": "the loss became nan"}
    elif how == "lost":
        assert study.failures() == {"a": "lost 3 times, at last: the loss became nan"}
    else:
        assert study.failures() == {}


def test_a_process_that_gives_no_sign_of_life_loses_its_job(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "GRACE", 0.3)
    monkeypatch.setattr(study_module, "BEAT", 0.05)
    first, second = opened(), opened()
    job = claimed(first, "a")
    with first.working(job) as lost:
        end = time.monotonic() + 0.8
        while time.monotonic() < end:  # it beats, more slowly than the other looks
            assert second.claim(["a"]) is None
            time.sleep(0.02)
        assert not lost()
    assert second.claim(["a"]) is None
    time.sleep(0.4)
    other = claimed(second, "a")
    assert other.trial != job.trial
    with first.working(job) as lost:  # as after a laptop was closed and opened
        end = time.monotonic() + 5
        while not lost() and time.monotonic() < end:
            time.sleep(0.02)
        assert lost()
    with pytest.raises(Taken):
        first.done(job, 0.0, {"whose": "first"})
    second.done(other, 1.0, {"whose": "second"})
    assert first.results() == {"a": {"whose": "second"}}


KILLED = """
import os, signal, sys
from pathlib import Path
from training.study import Study
study = Study(sys.argv[1], "zoo", {}, Path(sys.argv[2]), instead="")
job = study.claim(["a"])
study.note(job, {"at": 3})
print("claimed", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL is of POSIX")
def test_the_job_of_a_killed_process_of_this_machine_is_given_away_at_once(
    opened: Opener, tmp_path: Path
) -> None:
    address = str(tmp_path / "study.journal")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, address, str(tmp_path / "there")],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.stdout == "claimed\n", ended.stderr
    job = claimed(opened(settings={}), "a")  # and not after GRACE seconds
    assert job.notes == {"at": 3}
    assert not list((tmp_path / "there" / ".workers").iterdir())


def _take_all(address: str, folder: str, names: list[str], done: Any) -> None:
    with Study(address, "zoo", {}, Path(folder), instead="") as study:
        while (job := study.claim(names)) is not None:
            time.sleep(0.005)
            study.done(job, 1.0, os.getpid())
            done.put(job.name)


@pytest.mark.slow
def test_four_processes_that_hurry_do_nothing_twice(tmp_path: Path) -> None:
    address, names = str(tmp_path / "study.journal"), [f"job{n}" for n in range(40)]
    context = multiprocessing.get_context("spawn")
    done = context.Queue()
    workers = [
        context.Process(target=_take_all, args=(address, str(tmp_path), names, done)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    found = [done.get(timeout=120) for _ in names]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sorted(found) == sorted(names) and done.empty()


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({**SETTINGS, "--epochs": 3}, r"zoo at study\.journal was begun with --epochs 2, now 3; repeat it"),
        ({**SETTINGS, "--seeds": [0, 1, 2]}, "--seeds 0 1, now 0 1 2; repeat it, or take another --name"),
        ({"--epochs": 2}, r"with --seeds 0 1, now \(none\)"),
        ({**SETTINGS, "--weights": "best.pt"}, r"with --weights \(none\), now best\.pt"),
    ],
)  # fmt: skip
def test_other_settings_are_refused(opened: Opener, settings: dict[str, Any], complaint: str) -> None:
    opened()
    with pytest.raises(UserError, match=complaint):
        opened(settings=settings)
    opened(name="another", settings=settings)  # beside it, at the same address


@pytest.mark.parametrize(
    "address",
    [
        "mysql://host/x",
        "postgresql+asyncpg://host/x",
        "sqlite:///x.db",
        "redis://host",
        "http://host/x",
        "journal:",
    ],
)
def test_addresses_that_are_none(address: str) -> None:
    assert address_fault(address).startswith("must be a file")


def test_nearly_right_addresses_are_told_what_they_lack() -> None:
    for address in ("postgres://me@host/zoo", "postgresql:/me@host/zoo", "postgresql:me@host/zoo"):
        assert address_fault(address).startswith("must begin with postgresql://")
    assert address_fault("postgresql://me:sec@ret@host/zoo").endswith("write %40 for it")
    assert address_fault("postgres.journal") == ""


def test_a_refused_address_keeps_its_password() -> None:
    for address in (
        "postgresql://me:sec@ret@host/zoo",
        "mysql://me:sec:ret@host/zoo",
        "mysql://me:sec ret@host/zoo",
        "postgresql:/me:secret@host/zoo",
        "postgres:me:secret@host/zoo",
    ):
        with pytest.raises(ValueError, match="me:…@host/zoo") as caught:
            TrainConfig(evolve=2, study=address)
        assert not {"sec", "ret", "secret"} & set(re.split(r"\W+", str(caught.value)))


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host:5432/zoo?sslmode=require", "postgresql://host:5432/zoo"),
        ("postgresql+psycopg://host/zoo", "postgresql://host/zoo"),
        ("journal:/home/me/zoo.journal", "zoo.journal"),
        ("shared/zoo.journal", "zoo.journal"),
    ],
)
def test_pages_and_messages_do_not_tell_passwords_and_folders(address: str, shown: str) -> None:
    assert address_fault(address) == ""
    assert shown_address(address) == shown


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"PK\x03\x04", "is no journal of Optuna; name a new file"),
        (b"model: yolov5n\n", "is no journal of Optuna"),
        (b"[1, 2]\n", "is no journal of Optuna"),
        (b"5\n", "is no journal of Optuna"),
        (b"[" * 60000, "is no journal of Optuna"),
        (b'{"op_code": 0}\n', r"study\.journal is damaged, or no journal of Optuna"),
        (b'{"op_code": 99, "worker_id": "x"}\n', "is damaged"),
        (b'{"op_code": 0, "worker_id": "x", "study_name": "a", "directions": [1]}\n{"op_\n\n', "is damaged"),
    ],
)
def test_files_of_something_else_are_refused_and_left_alone(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    file = tmp_path / "study.journal"
    file.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        open_storage(str(file))
    assert "\n" not in str(error.value)
    assert file.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("nowhere/zoo.journal", "there is no folder .*nowhere; make it, or see whether it is mounted"),
        ("", "is a folder"),
    ],
)
def test_a_share_that_is_not_there_is_not_made(tmp_path: Path, path: str, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        open_storage(f"journal:{tmp_path / path}")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "study.journal.lock"))

    monkeypatch.setattr(os, "symlink", refuse)  # also for root, who may write everywhere
    with pytest.raises(OSError, match="Permission denied"):
        Study(str(tmp_path / "study.journal"), "zoo", {}, tmp_path, instead="")


@pytest.mark.parametrize(
    ("module", "address", "pip"),
    [
        ("optuna", "zoo.journal", "optuna"),
        ("sqlalchemy", "postgresql://host/zoo", "sqlalchemy"),
        ("psycopg2", "postgresql://host/zoo", "psycopg2-binary"),
    ],
)
def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, address: str, pip: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"{module}.*pip install (-U )?{pip}$"):
        open_storage(address)


@pytest.mark.slow
def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2")
    address = "postgresql://me:hidden@127.0.0.1:1/zoo"
    with pytest.raises(UserError, match=r"--study: postgresql://127\.0\.0\.1:1/zoo does not answer") as error:
        Study(address, "zoo", {}, tmp_path, instead="")
    assert "hidden" not in str(error.value) and "\n" not in str(error.value)


def test_nothing_of_optuna_that_is_used_here_unpickles(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal on Redis keeps pickled snapshots; journals in files and databases hold JSON."""
    import pickle

    from optuna.storages._rdb import models
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._base import BaseJournalSnapshot
    from sqlalchemy import LargeBinary, PickleType

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    study = opened()
    study.done(claimed(study, "a"), 1.0, {"b": 1})
    assert opened().results() == {"a": {"b": 1}}
    assert not issubclass(JournalFileBackend, BaseJournalSnapshot)
    columns = [column for table in models.BaseModel.metadata.tables.values() for column in table.columns]
    assert len(columns) > 20
    assert not [c for c in columns if isinstance(c.type, (PickleType, LargeBinary))]


def test_a_journal_holds_one_line_of_json_for_everything(opened: Opener, tmp_path: Path) -> None:
    study = opened()
    study.done(claimed(study, "a"), 1.0, {"b": float("nan")})
    lines = (tmp_path / "study.journal").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r'\{"op_code":\d', line) and json.loads(line) for line in lines)
