"""Evolution of hyper-parameters on a made-up training whose best learning rate is known."""

from __future__ import annotations

import collections
import csv
import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import cv2
import pytest

from training.evolve import (
    EVOLUTIONS,
    METRICS,
    Trial,
    best,
    choose_parent,
    evolve,
    load_population,
    load_trials,
    mutate,
    offspring,
    plot_trials,
    save_trials,
)
from training.hyp_yaml import NAMES, load_hyperparameters
from utils.errors import UserError
from utils.hyperparameters import FIELDS, Hyperparameters
from utils.seeding import generator_for


def quality(hyp: Hyperparameters, generation: int) -> list[float]:
    """Best at lr0 = 0.02 and box = 0.1."""
    score = math.exp(-(math.log(hyp.lr0 / 0.02) ** 2) - math.log(hyp.box / 0.1) ** 2)
    return [0.5, 0.5, score, score, 0.1, 0.2, 0.3]


def trial(score: float, **values: float | str) -> Trial:
    return Trial((0.0, 0.0, score, score, 0.0, 0.0, 0.0), Hyperparameters(**values))  # type: ignore[arg-type]


def test_evolution_improves_and_is_reproducible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = evolve(quality, Hyperparameters(), 60, tmp_path / name, seed=3)
        monkeypatch.setattr("training.evolve.plot_trials", lambda trials, path: None)  # one picture is enough
    assert quality(found, 0)[2] > quality(Hyperparameters(), 0)[2] + 0.2
    for file in ("evolve.csv", "hyp_evolve.yaml"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert load_hyperparameters(tmp_path / "a" / "hyp_evolve.yaml") == found
    picture = cv2.imread(str(tmp_path / "a" / "evolve.png"))
    assert picture is not None and picture.shape[0] > 500


def test_the_picture_shows_every_trial_of_each_value_and_marks_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr("training.evolve.save_figure", lambda figure, path: drawn.append((figure, path)))
    trials = [trial(0.1, lr0=0.01, shear=2.0), trial(0.3, lr0=0.02, degrees=5.0), trial(0.2, lr0=0.03)]
    plot_trials(trials, tmp_path / "evolve.png")
    ((figure, path),) = drawn
    assert path == tmp_path / "evolve.png"
    titles = [axes.get_title() for axes in figure.axes]
    assert {"lr0 0.02", "degrees 5", "shear 0"} <= set(titles)
    off = {"perspective", "flipud", "mixup", "copy_paste", "fl_gamma", "label_smoothing", "anchors"}
    assert {title.split()[0] for title in titles} == set(EVOLUTIONS) - off
    points, best_of_them = figure.axes[titles.index("degrees 5")].lines
    assert points.get_xydata().tolist() == [[0, 0.1], [5, pytest.approx(0.3)], [0, 0.2]]
    assert best_of_them.get_xydata().tolist() == [[5, pytest.approx(0.3)]]
    assert (points.get_linestyle(), points.get_marker(), best_of_them.get_marker()) == ("None", ".", "+")
    places = [axes.get_position() for axes in figure.axes]
    assert all(0 < p.x0 < p.x1 < 1 and 0 < p.y0 < p.y1 < 1 for p in places)
    for one, other in itertools.combinations(places, 2):
        assert one.x1 < other.x0 or other.x1 < one.x0 or one.y1 < other.y0 or other.y1 < one.y0
    wide, high = figure.get_size_inches()
    assert 1 < wide / 6 < 3 and 1 < high / math.ceil(len(titles) / 6) < 3, "six in a row, each as large"


@pytest.fixture
def unplotted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The picture takes a second; one test looks at it."""
    monkeypatch.setattr("training.evolve.plot_trials", lambda trials, path: None)


@pytest.mark.usefixtures("unplotted")
def test_a_stopped_evolution_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    evolve(quality, Hyperparameters(), 12, whole)

    def stopping(hyp: Hyperparameters, generation: int) -> list[float]:
        if generation == 7:
            raise KeyboardInterrupt
        return quality(hyp, generation)

    with pytest.raises(KeyboardInterrupt):
        evolve(stopping, Hyperparameters(), 12, parts)
    assert len(load_trials(parts / "evolve.csv")) == 7
    evolve(quality, Hyperparameters(), 12, parts, resume=parts / "evolve.csv")
    assert (whole / "evolve.csv").read_bytes() == (parts / "evolve.csv").read_bytes()


@pytest.mark.usefixtures("unplotted")
def test_base_and_population_are_tried_unchanged(tmp_path: Path) -> None:
    seen: list[tuple[int, Hyperparameters]] = []

    def record(hyp: Hyperparameters, generation: int) -> list[float]:
        seen.append((generation, hyp))
        return quality(hyp, generation)

    base, other = Hyperparameters(), Hyperparameters(lr0=0.5)
    evolve(record, base, 3, tmp_path, population=[other])
    assert [generation for generation, _ in seen] == [0, 1, 2]
    assert [hyp for _, hyp in seen][:2] == [base, other]
    assert seen[2][1] not in (base, other)


def test_mutation_stays_in_range_rounds_and_leaves_zero_off() -> None:
    hyp = Hyperparameters(lr0=0.0999, hsv_s=0.99, anchors=3.0)
    for seed in range(200):
        child = mutate(hyp, generator_for(seed))
        assert child != hyp
        assert child.degrees == child.mixup == child.fl_gamma == 0.0
        assert (child.anchors, child.nominal_batch, child.iou_t) == (3.0, 64, 0.2)
        for key, allowed in EVOLUTIONS.items():
            value = getattr(child, key)
            if value:
                assert allowed.low <= value <= allowed.high
                assert value == float(f"{value:.5g}")


def test_four_in_five_values_change_by_about_a_fifth() -> None:
    factors = [mutate(Hyperparameters(), generator_for(seed)).box / 0.05 for seed in range(2000)]
    unchanged = sum(factor == 1 for factor in factors) / len(factors)
    assert unchanged == pytest.approx(0.2, abs=0.03)
    changed = [factor for factor in factors if factor != 1]
    spread = math.sqrt(sum((factor - 1) ** 2 for factor in changed) / len(changed))
    assert spread == pytest.approx(0.2, abs=0.02)


def test_parents_are_the_five_fittest_in_proportion_to_their_lead() -> None:
    # leads over the fifth (0.1): 0.4, 0.3, 0.2, 0.1, 0 -> chances 40, 30, 20, 10 and about 0 %
    trials = [trial(score / 10, lr0=score / 100) for score in (1, 2, 3, 4, 5)]
    trials.append(trial(0.05, lr0=0.09))
    draws = collections.Counter(choose_parent(trials, generator_for(seed)).lr0 for seed in range(2000))
    shares = [draws[lr0] / 2000 for lr0 in (0.05, 0.04, 0.03, 0.02, 0.01, 0.09)]
    assert shares == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0, 0.0], abs=0.04)


def test_equals_and_diverged_trainings_can_be_parents() -> None:
    assert trial(float("nan")).fitness == 0.0
    assert isinstance(offspring([trial(float("nan")), trial(0.0)], seed=0, generation=2), Hyperparameters)
    assert best([trial(float("nan"), lr0=0.1), trial(0.2, lr0=0.2), trial(0.2, lr0=0.3)]).hyp.lr0 == 0.2


def test_ranges_name_hyperparameters_and_hold_the_defaults() -> None:
    assert set(FIELDS) - set(EVOLUTIONS) == {*NAMES, "iou_t", "nominal_batch"}
    for key, allowed in EVOLUTIONS.items():
        default: float | None = getattr(Hyperparameters(), key)
        assert default is None or default == 0 or allowed.low <= default <= allowed.high


@pytest.mark.usefixtures("unplotted")
def test_the_box_loss_is_inherited_and_never_mutated(tmp_path: Path) -> None:
    tried: list[str] = []

    def record(hyp: Hyperparameters, generation: int) -> list[float]:
        tried.append(hyp.iou)
        return [*quality(hyp, generation)[:2], 0.9, 0.9, 0, 0, 0] if hyp.iou == "SIoU" else [0.0] * 7

    found = evolve(record, Hyperparameters(), 12, tmp_path, population=[Hyperparameters(iou="SIoU")])
    assert tried[:2] == ["CIoU", "SIoU"]
    assert set(tried[2:]) == {"SIoU"}  # the parent that is chosen for its lead
    assert [row.hyp.iou for row in load_trials(tmp_path / "evolve.csv")] == tried
    assert found.iou == load_hyperparameters(tmp_path / "hyp_evolve.yaml").iou == "SIoU"


def test_csv_keeps_every_digit(tmp_path: Path) -> None:
    trials = [trial(0.1 + 0.2, lr0=1 / 3), trial(float("nan"), anchors=3.0, iou="Focaler-SIoU(d=0, u=0.95)")]
    save_trials(tmp_path, trials)
    assert repr(load_trials(tmp_path / "evolve.csv")) == repr(trials)
    with (tmp_path / "evolve.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file))[:4] == list(METRICS[:4])


def test_population(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no hyper-parameter yaml"):
        load_population(tmp_path)
    (tmp_path / "b.yaml").write_text("lr0: 0.2\n", encoding="utf-8")
    (tmp_path / "a.yaml").write_text("lr0: 0.1\n", encoding="utf-8")
    assert [hyp.lr0 for hyp in load_population(tmp_path)] == [0.1, 0.2]


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one generation"):
        evolve(quality, Hyperparameters(), 0, tmp_path)
    with pytest.raises(UserError, match="no such file"):
        evolve(quality, Hyperparameters(), 1, tmp_path, resume=tmp_path / "evolve.csv")
    with pytest.raises(ValueError, match="returned 2 numbers"):
        evolve(lambda hyp, generation: [1.0, 2.0], Hyperparameters(), 1, tmp_path)
    file = tmp_path / "evolve.csv"
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(UserError, match="first line names other columns"):
        load_trials(file)
    save_trials(tmp_path, [trial(0.5)])
    good = file.read_text(encoding="utf-8")
    for bad, message in [
        (good + "1,2\n", "line 3: 2 columns"),
        (good.replace("\n0.0", "\nhalf", 1), "line 2"),
        (good.replace("CIoU", "ciou"), "line 2: hyper-parameter 'iou': .* mean 'CIoU'"),
        (good.replace("0.937", "fast"), "line 2: hyper-parameter 'momentum' must be a number, found 'fast'"),
        (good.replace("0.937", ""), "line 2: hyper-parameter 'momentum' must be a number, found None"),
    ]:
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(UserError, match=message):
            load_trials(file)


def test_a_hyperparameter_yaml_of_an_evolution_is_complete(tmp_path: Path) -> None:
    hyp = Hyperparameters(lr0=1e-5, perspective=0.00012, anchors=4.0, iou="NWD-CIoU(share=0.5, c=20)")
    save_trials(tmp_path, [Trial((0.0,) * 7, hyp)])
    file = tmp_path / "hyp_evolve.yaml"
    assert dataclasses.asdict(load_hyperparameters(file)) == dataclasses.asdict(hyp)
    lines = file.read_text(encoding="utf-8").splitlines()
    keys = [line.partition(":")[0] for line in lines if not line.startswith("#")]
    assert keys == list(FIELDS), "in the order of the documentation"
