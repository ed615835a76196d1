"""The same with a PostgreSQL server, which is a real one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("optuna", reason="studies need optuna")
pytest.importorskip("psycopg2", reason="PostgreSQL needs psycopg2-binary")
if not hasattr(os, "getuid"):
    pytest.skip("the server is started as POSIX does", allow_module_level=True)

from tests import postgres
from tests.training.test_study import KILLED, claimed
from tests.training_runs import ENVIRONMENT, ROOT
from training import study as study_module
from training.study import Study
from utils.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    with postgres.running() as one:
        yield one


def opened(server: postgres.Server, folder: Path, name: str, **settings: object) -> Study:
    return Study(server.address, name, settings, folder, instead="take another --name")


def test_two_processes_share_jobs_and_one_is_killed(server: postgres.Server, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, server.address, str(tmp_path)],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.stdout == "claimed\n", ended.stderr
    with opened(server, tmp_path, "zoo") as first, opened(server, tmp_path, "zoo") as second:
        one, two = claimed(first, "a", "b"), claimed(second, "a", "b")
        assert (one.name, one.notes, two.name) == ("a", {"at": 3}, "b")
        first.done(one, 0.5, {"scores": [[0.25, float("nan")]]}, curve=[0.25, 0.5])
        second.end(two, "failed", "the loss became nan")
        assert repr(second.results()) == "{'a': {'scores': [[0.25, nan]]}}"
        assert first.failures() == {"b": "the loss became nan"}
        assert first.claim(["a", "b"]) is None


def test_a_process_that_gives_no_sign_of_life_loses_its_job(
    server: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "GRACE", 1.0)
    monkeypatch.setattr(study_module, "BEAT", 0.1)
    with opened(server, tmp_path, "silent") as first, opened(server, tmp_path, "silent") as second:
        job = claimed(first, "a")
        with first.working(job):
            end = time.monotonic() + 2.5
            while time.monotonic() < end:
                assert second.claim(["a"]) is None
                time.sleep(0.1)
        assert second.claim(["a"]) is None
        time.sleep(1.2)
        assert claimed(second, "a").trial != job.trial


def test_other_settings_and_wrong_passwords_are_one_line(server: postgres.Server, tmp_path: Path) -> None:
    opened(server, tmp_path, "settings", epochs=1).close()
    with pytest.raises(
        UserError, match=r"study settings at postgresql://127\.0\.0\.1:\d+/postgres was begun"
    ):
        opened(server, tmp_path, "settings", epochs=2)
    wrong = server.address.replace(postgres.PASSWORD, "wrong-battery")
    with pytest.raises(UserError, match=r"does not answer as a study does: .*password") as error:
        Study(wrong, "zoo", {}, tmp_path, instead="")
    assert "wrong-battery" not in str(error.value) and "\n" not in str(error.value)


def test_a_server_that_goes_away_takes_the_job_and_comes_back(
    server: postgres.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "GRACE", 2.0)
    monkeypatch.setattr(study_module, "BEAT", 0.1)
    with opened(server, tmp_path, "away") as study:
        job = claimed(study, "a")
        with study.working(job) as lost:
            server.control("-m", "fast", "stop")
            try:
                end = time.monotonic() + 30
                while not lost() and time.monotonic() < end:
                    time.sleep(0.1)
                assert lost()  # others cannot know that we live, so that we stop
                with pytest.raises(UserError, match="does not answer"):
                    study.claim(["a"])
            finally:
                server.control("-l", str(server.data / "log"), "start")
        assert study.claim(["a"]) is None
        time.sleep(2.2)
        assert claimed(study, "a").trial != job.trial
