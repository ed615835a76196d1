"""benchmark.py train as a study, as users run it: pairs, rungs, several processes, and one of them killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmark
import train
from benchmarks.runs import Diverged, Run
from benchmarks.study import work
from benchmarks.train_config import Config
from tests import postgres
from tests.training_runs import ENVIRONMENT, ROOT, rows, wait_until
from training.config import TrainConfig
from utils.errors import Incomplete, UserError
from utils.flags import arguments, parse_flags

pytest.importorskip("optuna", reason="studies need optuna")

Arguments = tuple[str, ...]
SMALL = ("--imgsz", "32", "--batch-size", "4", "--device", "cpu", "--workers", "0")
WHAT = ("--cfg", "yolov5n", "--iou", "CIoU", "SIoU", "--insert", "ECA after C3", "--singly")
RUNGS = ("--seeds", "0", "1", "--epochs", "2", "--rungs", "1", "--keep", "1")


def flags(data: Path, project: Path, *more: str) -> Arguments:
    return ("train", "--data", str(data), *WHAT, *SMALL, "--project", str(project), "--name", "zoo", *more)


def trained_here(run: Run, config: TrainConfig, stop: Any, lost: Callable[[], bool] | None = None) -> None:
    """The training itself without the seconds that a process takes to begin."""
    if run.started:
        config = TrainConfig(resume=str(run.files.last), pause=config.pause, noplots=True, workers=0)
    train.main(arguments(config))


@pytest.fixture(scope="module")
def studied(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that is done: three candidates, of which two were trained to the end."""
    project = tmp_path_factory.mktemp("studied")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work, "carry_out", trained_here)
        benchmark.main(flags(tiny_data, project, *RUNGS))
    return project / "zoo"


def test_everybody_in_a_rung_has_the_same_seeds_and_epochs(studied: Path) -> None:
    trained = {
        folder.name: len(rows(folder / "results.csv"))
        for folder in studied.glob("*-seed*")
        if folder.is_dir()
    }
    out = {name for name, epochs in trained.items() if epochs == 1}
    assert len(out) == 1 and out < {"yolov5n_SIoU-seed0", "yolov5n_ECA_after_C3-seed0"}
    (winner,) = {"yolov5n_SIoU", "yolov5n_ECA_after_C3"} - {name.removesuffix("-seed0") for name in out}
    assert set(trained) - out == {f"{name}-seed{seed}" for name in ("yolov5n", winner) for seed in (0, 1)}
    assert {trained[name] for name in set(trained) - out} == {2}


def test_page_and_table(studied: Path) -> None:
    page = (studied / "results.md").read_text(encoding="utf-8")
    assert "| yolov5n (baseline) | 2 |" in page and "not told apart |" in page
    assert "## Stopped after rung 1: epoch 1 of 2" in page and "Not finished" not in page
    assert str(studied.parent) not in page and str(ROOT) not in page
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len(tables) == 2 + 2 + 2 + 1  # two heads, two rows, one row
    assert len({line.count("|") for line in tables[:4]}) == len({line.count("|") for line in tables[4:]}) == 1
    assert (studied / "results.png").read_bytes().startswith(b"\x89PNG")
    table = rows(studied / "results.csv")
    assert [(row["epochs"], row["seed"]) for row in table] == [("1", "0")] * 3 + [
        ("2", "0"), ("2", "0"), ("2", "1"), ("2", "1"),
    ]  # fmt: skip
    last = {row["network"] + row["loss"]: row for row in table if (row["epochs"], row["seed"]) == ("2", "1")}
    base = float(last.pop("yolov5nas in hyp")["mAP50-95"])
    (other,) = last.values()
    assert float(other["difference"]) == pytest.approx(float(other["mAP50-95"]) - base, abs=2e-6)


def test_a_second_call_trains_nothing_and_writes_the_same(
    studied: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(work, "carry_out", lambda *_: pytest.fail("trained again"))
    before = (studied / "results.md").read_bytes(), (studied / "study.journal").read_bytes()
    benchmark.main(flags(tiny_data, studied.parent, *RUNGS))
    assert ((studied / "results.md").read_bytes(), (studied / "study.journal").read_bytes()) == before
    elsewhere = tmp_path / "results-zoo.md"
    benchmark.main(flags(tiny_data, studied.parent, *RUNGS, "--output", str(elsewhere)))
    assert "results-zoo.png" in elsewhere.read_text(encoding="utf-8")


def test_another_machine_writes_the_page_from_the_study_alone(
    studied: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its folder of runs is not the one where they were trained."""
    monkeypatch.setattr(work, "carry_out", lambda *_: pytest.fail("trained again"))
    benchmark.main(flags(tiny_data, tmp_path, *RUNGS, "--study", str(studied / "study.journal")))
    for name in ("results.csv",):
        assert (tmp_path / "zoo" / name).read_bytes() == (studied / name).read_bytes()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (
            ("--epochs", "3"),
            r"study train zoo at study\.journal was begun with --epochs 2, now 3; repeat it, or take",
        ),
        (("--iou", "EIoU"), r"begun with candidates yolov5n yolov5n, SIoU .*, now yolov5n yolov5n, EIoU"),
        (("--hyp", "hyp.scratch-med.yaml"), r"with hyper-parameter .* \(none\), now"),
        (("--optimizer", "Adam"), r"with --optimizer \(none\), now Adam"),
        (("--seeds", "0", "2"), "with --seeds 0 1, now 0 2"),
        (("--insert", "SE after nothing"), "has no layer 'nothing'"),
        (("--cfg", "yolov5n-nope"), "did you mean"),
        (("--output", "README.md"), "README.md was not written by this command"),
        (("--study", "/dev/null/zoo.journal"), r"there is no folder .*null"),
    ],
)
def test_mistakes_are_refused_before_any_training(
    studied: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, more: Arguments, complaint: str
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(work, "carry_out", lambda *_: pytest.fail("trained"))
    before = (studied / "results.md").read_bytes()
    with pytest.raises(UserError, match=complaint):
        benchmark.main(flags(tiny_data, studied.parent, *RUNGS, *more))
    assert (studied / "results.md").read_bytes() == before


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--study", "{folder}/notes.txt"), r"notes\.txt is no journal of Optuna"),
        (("--notes", "nowhere.txt"), "nowhere.txt"),
        (("--data", "nowhere.yaml"), "nowhere.yaml"),
        (("--weights", "nowhere.pt"), "nowhere.pt"),
    ],
)
@pytest.mark.parametrize("what", [(*WHAT, *RUNGS), ("--cfg", "yolov5n")])  # a study, and a comparison
def test_what_is_refused_leaves_no_folder(
    tiny_data: Path, tmp_path: Path, more: Arguments, complaint: str, what: Arguments
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine\n", encoding="utf-8")
    told = [flag.format(folder=tmp_path) for flag in more]
    with pytest.raises(UserError, match=complaint):
        benchmark.main(["train", "--data", str(tiny_data), *what, *SMALL, "--project", str(tmp_path), *told])
    assert list(tmp_path.iterdir()) == [notes]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (("--iou", "XIoU"), "--iou: "),
        (("--rungs", "2"), "--rungs: the epochs must grow"),
        (("--rungs", "x"), "--rungs must be EPOCHS or EPOCHSxSEEDS"),
        (("--keep", "0"), "--keep must be a share"),
        (("--study", "mysql://host/zoo"), "--study must be a file that all machines see"),
        (("--milliseconds", "abacus"), "--milliseconds must be some of"),
    ],
)
def test_wrong_flags_are_one_line(
    tiny_data: Path, tmp_path: Path, more: Arguments, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        benchmark.main(flags(tiny_data, tmp_path, *RUNGS, *more))
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1


@pytest.mark.slow
def test_who_diverges_is_told_and_the_others_go_on(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_diverges(run: Run, config: TrainConfig, *rest: Any) -> None:
        if config.iou:
            raise Diverged(f"{run}: the loss became nan in epoch 0, batch 1 | again")
        trained_here(run, config, *rest)

    monkeypatch.setattr(work, "carry_out", one_diverges)
    words = flags(tiny_data, tmp_path, "--insert", "--epochs", "1")
    config = parse_flags(Config, [word for word in words[1:] if word not in ("--insert", "ECA after C3")])
    with pytest.raises(
        Incomplete, match=r"1 of 2 could not be trained, such as yolov5n, SIoU: .*the loss became nan"
    ):
        work.run(config)
    page = (tmp_path / "zoo" / "results.md").read_text(encoding="utf-8")
    assert "## Not trained" in page and "- yolov5n, SIoU: yolov5n, SIoU seed 0: the loss became nan" in page


@pytest.fixture(params=["journal", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "journal":
        yield str(tmp_path / "zoo.journal")
        return
    pytest.importorskip("psycopg2", reason="PostgreSQL needs psycopg2-binary")
    with postgres.running() as server:
        yield server.address


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="SIGKILL is of POSIX")
def test_a_killed_worker_has_its_training_taken_up(tiny_data: Path, tmp_path: Path, address: str) -> None:
    """One is killed in the middle of a training; two others go on with it and do the rest together."""
    words = flags(tiny_data, tmp_path, "--epochs", "3", "--study", address, "--milliseconds", "torch")
    words = (*words, "--batch-size", "1")  # so that it is killed in the middle of an epoch

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "benchmark.py", *words]
        return subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    first = start()
    folder = tmp_path / "zoo" / "yolov5n-seed0"
    wait_until((folder / "weights" / "last.pt").is_file, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    others = [start(), start()]
    said = [one.communicate()[0].decode() for one in others]
    assert [one.returncode for one in others] == [0, 0], said
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert log.count("resuming at epoch") == 1
    assert [row["epoch"] for row in rows(folder / "results.csv")] == ["0", "1", "2"]
    page = (tmp_path / "zoo" / "results.md").read_text(encoding="utf-8")
    assert "Not finished" not in page and page.count("| not told apart |") == 2 and " | ms |" in page
    assert postgres.PASSWORD not in page + "".join(said) and "postgresql://tester" not in page
    done = [line for text in said for line in text.splitlines() if line.startswith("[")]
    assert len(done) == 3  # every training once
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    assert facts["parameters"] == 1_872_157 - 105_534
