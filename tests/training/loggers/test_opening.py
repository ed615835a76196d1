"""Services behind one door: chosen by --loggers, left out when they fail, taken up again by a resumed run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

import train
from tests import training_runs
from tests.training_runs import ROOT, torchrun
from training.loggers import opening
from training.loggers.logger import About, Ending, Logger
from training.loggers.opening import BEST, SERVICES, Service, check_services, chosen, open_loggers
from training.run_folder import RESULT_COLUMNS
from utils.errors import UserError

SMALL = ("--imgsz", "64", "--batch-size", "4", "--device", "cpu", "--workers", "0")
CALLS: list[tuple[object, ...]] = []


class Notes(Logger):
    """A service that notes what it is told, and fails where a test asks for it."""

    fails_in = ""

    def __init__(self, about: About) -> None:
        self.key, self.place = about.known or f"key{len(CALLS)}", "in the test"
        self._note("open", about.project, about.name, about.known, about.epoch)

    def _note(self, what: str, *values: object) -> None:
        CALLS.append((what, *values))
        if what == self.fails_in:
            raise ConnectionError("no answer\nfrom the server")

    def settings(self, values: Mapping[str, object]) -> None:
        self._note("settings", dict(values))

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        self._note("scalars", epoch, dict(values))

    def picture(self, file: Path, epoch: int) -> None:
        self._note("picture", file.name, epoch)

    def final(self, values: Mapping[str, float]) -> None:
        self._note("final", dict(values))

    def close(self, ending: Ending) -> None:
        self._note("close", ending)


def named(what: str) -> list[tuple[object, ...]]:
    return [rest for kind, *rest in CALLS if kind == what]  # type: ignore[misc]


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> type[Notes]:
    """The only service, under MLflow's name."""
    CALLS.clear()
    monkeypatch.setattr(Notes, "fails_in", "")
    monkeypatch.setitem(opening.SERVICES, "mlflow", Service("MLflow", Notes, "yaml", "pyyaml"))
    return Notes


def test_a_run_is_told_from_its_settings_to_its_best_weights(
    notes: type[Notes], tiny_data: Path, tmp_path: Path
) -> None:
    flags = ["--data", str(tiny_data), "--project", str(tmp_path / "cells"), *SMALL, "--loggers", "mlflow"]
    train.main([*flags, "--epochs", "2"])
    assert named("open") == [["cells", "exp", "", 0]]
    ((settings,),) = named("settings")
    assert settings["epochs"] == 2 and settings["hyp.lr0"] == 0.01 and settings["loggers"] == ("mlflow",)
    (first, values), (second, _) = named("scalars")
    assert (first, second) == (0, 1) and [*values] == list(RESULT_COLUMNS[1:])
    pictures = [name for name, _ in named("picture")]
    assert {"labels.jpg", "train_batch0.jpg", "val_batch0_pred.jpg", "PR_curve.png", "results.png"} <= {
        *pictures
    }
    assert len(pictures) == len({*pictures})  # each once
    ((best,),) = named("final")
    assert [*best] == [*BEST, "best/epoch"] and best["best/epoch"] in (0, 1)
    assert [call[0] for call in CALLS][-2:] == ["final", "close"] and named("close") == [["finished"]]


def test_a_resumed_run_goes_on_under_its_key(notes: type[Notes], tiny_data: Path, tmp_path: Path) -> None:
    flags = ["--data", str(tiny_data), "--project", str(tmp_path), *SMALL, "--noplots", "--loggers", "mlflow"]
    train.main([*flags, "--epochs", "1"])
    key = yaml.safe_load((tmp_path / "exp" / "loggers.yaml").read_text(encoding="utf-8"))["mlflow"]
    CALLS.clear()
    train.main(["--resume", str(tmp_path / "exp" / "weights" / "last.pt"), "--device", "cpu"])
    assert named("open") == [[tmp_path.name, "exp", key, 1]]
    assert not named("settings") and not named("scalars") and named("final")
    CALLS.clear()
    last = str(tmp_path / "exp" / "weights" / "last.pt")
    train.main(["--resume", last, "--loggers", "none", "--device", "cpu"])  # it may be left out
    assert CALLS == []


@pytest.mark.parametrize("fails_in", ["scalars", "picture", "final", "close"])
def test_one_that_fails_is_said_once_and_training_goes_on(
    fails_in: str,
    notes: type[Notes],
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(notes, "fails_in", fails_in)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "labels.jpg").touch()
    with open_loggers(["mlflow"], tmp_path / "exp", tmp_path) as loggers:
        for epoch in (0, 1):
            loggers.epoch(("epoch", "train/box_loss"), (epoch, 0.5))
        loggers.final([0.1, 0.2, 0.3, 0.4], 1)
    line = "warning: MLflow is told no more of this run: no answer from the server; results.csv has all"
    assert capsys.readouterr().err == f"{line} figures\n"
    assert CALLS[-1][0] == fails_in and len(named(fails_in)) == 1


def test_one_that_fails_at_the_start(
    notes: type[Notes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notes, "fails_in", "open")
    with pytest.raises(
        UserError, match=r"cannot be told of this run: no answer .*; mend that, or leave mlflow out"
    ):
        open_loggers(["mlflow"], tmp_path, tmp_path)
    loggers = open_loggers(["mlflow"], tmp_path, tmp_path, epoch=3)  # training is worth more
    assert capsys.readouterr().err.count("\n") == 1
    loggers.final([0.1, 0.2, 0.3, 0.4], 1)
    assert [call[0] for call in CALLS] == ["open", "open"]


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (None, "finished"),
        (UserError("x"), "failed"),
        (SystemExit(130), "stopped"),
        (KeyboardInterrupt(), "stopped"),
    ],
)
def test_how_a_run_ended(
    error: BaseException | None, ending: str, notes: type[Notes], tmp_path: Path
) -> None:
    loggers = open_loggers(["mlflow"], tmp_path, tmp_path)
    try:
        with loggers.unless_done():
            if error is not None:
                raise error
    except (UserError, SystemExit, KeyboardInterrupt) as raised:
        assert raised is error
    else:
        assert not named("close")
    loggers.close("finished")
    assert named("close") == [[ending]]


@pytest.mark.slow
def test_generations_of_an_evolution_are_runs_of_their_own(
    notes: type[Notes], tiny_data: Path, tmp_path: Path
) -> None:
    flags = ["--data", str(tiny_data), "--project", str(tmp_path / "search"), *SMALL, "--loggers", "mlflow"]
    train.main([*flags, "--epochs", "1", "--evolve", "2", "--evolve_population", str(_population(tmp_path))])
    assert [call[:2] for call in named("open")] == [
        ["search", "exp/generation0"],
        ["search", "exp/generation1"],
    ]
    assert named("close") == [["finished"], ["finished"]] and len(named("scalars")) == 2


def _population(folder: Path) -> Path:
    (folder / "hyps").mkdir()
    (folder / "hyps" / "hyp.yaml").write_text("lr0: 0.02\n", encoding="utf-8")
    return folder / "hyps"


def test_which_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(["wandb", "none", "mlflow", "wandb"]) == ["wandb", "mlflow"]
    assert chosen(["none"]) == []
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    assert chosen([]) == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_package_that_is_missing_is_one_line_before_anything_is_read(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = SERVICES[name]
    monkeypatch.setitem(sys.modules, service.module, None)
    with pytest.raises(
        UserError, match=f"^this needs the package {service.module}: pip install {service.pip}$"
    ):
        check_services([name])


WITHOUT = """
import sys, train
from pathlib import Path
from training.loggers.opening import open_loggers
with open_loggers((), Path(sys.argv[1]), Path(sys.argv[1])) as loggers:
    loggers.epoch(("epoch", "train/box_loss"), (0, 0.5))
print("loaded:", sorted({"mlflow", "wandb", "comet_ml", "clearml"} & {*sys.modules}))
"""


def test_nothing_is_imported_that_was_not_asked_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "loaded: []" in ended.stdout, ended.stderr
    assert not (tmp_path / "loggers.yaml").exists()


@pytest.mark.slow
def test_only_the_main_process_tells(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(training_runs, "ENVIRONMENT", training_runs.ENVIRONMENT | dict(os.environ))
    flags = (
        "--data",
        str(tiny_data),
        "--project",
        str(tmp_path / "runs"),
        *SMALL,
        "--epochs",
        "2",
        "--noplots",
    )
    ended = torchrun(*flags, "--loggers", "mlflow")
    assert ended.returncode == 0, ended.stderr
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert found.info.status == "FINISHED"
    history = mlflow.MlflowClient().get_metric_history(found.info.run_id, "train/box_loss")
    assert [point.step for point in history] == [0, 1]
