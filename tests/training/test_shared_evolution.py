"""Generations that several processes do together."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_evolve import quality
from training import shared_evolution
from training.config import TrainConfig
from training.evolve import evolve, load_trials
from training.shared_evolution import evolve_together, evolving
from training.study import Study
from training.study_storage import open_storage
from utils.errors import UserError
from utils.hyperparameters import Hyperparameters

pytest.importorskip("optuna", reason="studies need optuna")


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("evolve", "shared_evolution"):
        monkeypatch.setattr(f"training.{module}.plot_trials", lambda trials, path: None)
    monkeypatch.setattr(shared_evolution, "POLL", 0.01)


def together(folder: Path, generations: int, train_once: Any = quality, **more: Any) -> Hyperparameters:
    folder.mkdir(exist_ok=True)
    address = str(folder.parent / "evolve.journal")
    settings = {"address": address, "name": "exp", "settings": {"--epochs": 2}} | more
    return evolve_together(train_once, Hyperparameters(), generations, folder, seed=3, **settings)


def test_one_process_alone_does_what_it_does_without_a_study(tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    other = Hyperparameters(lr0=0.015)
    alone = evolve(quality, Hyperparameters(), 12, tmp_path / "alone", seed=3, population=[other])
    assert together(tmp_path / "study", 5, population=[other]) != alone  # and stops
    assert together(tmp_path / "study", 12, population=[other]) == alone  # and goes on
    for file in ("evolve.csv", "hyp_evolve.yaml"):
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "study" / file).read_bytes()


def test_two_processes_share_the_generations(tmp_path: Path) -> None:
    both = threading.Barrier(2)
    done: list[int] = []

    def slowly(hyp: Hyperparameters, generation: int) -> list[float]:
        if generation < 2:
            both.wait(30)  # each has one at the same time
        done.append(generation)
        return quality(hyp, generation)

    thread = threading.Thread(target=together, args=(tmp_path / "b", 8, slowly))
    thread.start()
    found = together(tmp_path / "a", 8, slowly)
    thread.join()
    assert sorted(done) == list(range(8))
    trials = load_trials(tmp_path / "a" / "evolve.csv")
    assert len(trials) == 8 and trials == load_trials(tmp_path / "b" / "evolve.csv")
    assert trials[0].hyp == Hyperparameters() and found in [trial.hyp for trial in trials]


def test_a_lost_generation_is_done_again_with_the_same_hyperparameters(tmp_path: Path) -> None:
    tried: list[Hyperparameters] = []

    def fails_once(hyp: Hyperparameters, generation: int) -> list[float]:
        tried.append(hyp)
        if generation == 1 and len(tried) == 2:
            raise OSError("disk full")
        return quality(hyp, generation)

    with pytest.raises(OSError, match="disk full"):
        together(tmp_path / "a", 2, fails_once)
    together(tmp_path / "b", 2, fails_once)
    assert len(tried) == 3 and tried[1] == tried[2] != tried[0]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    together(tmp_path / "a", 1)
    with pytest.raises(
        UserError, match=r"study evolve exp at evolve\.journal was begun with --epochs 2, now 3"
    ):
        together(tmp_path / "a", 1, settings={"--epochs": 3})
    with pytest.raises(UserError, match="hyper-parameters to start from"):
        together(tmp_path / "a", 1, population=[Hyperparameters(lr0=0.5)])


def test_where_files_lie_and_how_many_generations_there_are_may_differ() -> None:
    def settings(**values: Any) -> Any:
        config = TrainConfig(evolve=9, study="s.journal", epochs=3, **values)
        return evolving(config).keywords["settings"]  # type: ignore[attr-defined]

    assert settings(data="/a/b.yaml", project="/x", device="cpu") == {"--data": "b.yaml", "--epochs": 3}


@pytest.mark.parametrize(
    "result", [None, {"metrics": [1.0]}, {"metrics": [0.0] * 7, "hyp": {"lr0": "rm -rf"}}]
)
def test_what_others_wrote_is_checked(tmp_path: Path, result: Any) -> None:
    together(tmp_path / "a", 1)
    with Study(
        str(tmp_path / "evolve.journal"), "evolve exp", _settings(tmp_path), tmp_path, instead=""
    ) as study:
        job = study.claim(["generation1"])
        assert job is not None
        study.done(job, 1.0, result)
    with pytest.raises(UserError, match=r"generation1"):
        together(tmp_path / "a", 2)


def _settings(folder: Path) -> dict[str, Any]:
    """Those that the study was begun with."""
    storage = open_storage(str(folder / "evolve.journal"))
    return dict(storage.get_study_user_attrs(storage.get_study_id_from_name("evolve exp"))["settings"])


def test_hyperparameters_survive_the_way_through_a_study(tmp_path: Path) -> None:
    odd = Hyperparameters(lr0=1 / 3, iou="Inner-SIoU(ratio=0.75)")
    seen = []
    together(tmp_path / "a", 2, lambda hyp, k: seen.append(hyp) or quality(hyp, k), population=[odd])  # type: ignore[func-returns-value]
    assert load_trials(tmp_path / "a" / "evolve.csv")[1].hyp == odd == seen[1]
    assert dataclasses.asdict(seen[1])["lr0"] == 1 / 3
