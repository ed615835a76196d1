"""Which form is taken, given what the forms take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from models.deploy import deploy
from models.folding.forms import Site, by_rule
from models.tuning import tune as module
from models.tuning.places import NARROW, places_of
from models.tuning.tune import Finding, tune
from models.yolo import DetectionModel
from tests.models.tuning.network import CFG

SIZE = (64, 64)
SAME = (1.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def model() -> DetectionModel:
    torch.manual_seed(0)
    return DetectionModel(CFG).eval()


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """What a form takes, by name, in turn of the rounds; others take 10 ms, and nothing is run."""
    times: dict[str, list[float]] = {}

    def measured(calls: Mapping[str, Any], rounds: int, warmup: int) -> dict[str, list[float]]:
        return {name: (times.get(name, [10.0]) * rounds)[:rounds] for name in calls}

    monkeypatch.setattr(module, "measure", measured)
    monkeypatch.setattr(module._Bench, "call", lambda *_: lambda: None)
    return times


def groups(findings: Mapping[Site, Finding]) -> dict[int, str]:
    return {site.inputs: found.form for site, found in findings.items() if site.kind == "groups"}


def test_a_faster_form_is_taken(model: DetectionModel, timed: dict[str, list[float]]) -> None:
    timed |= {"2": [8.0], "found": [9.0]}  # 2 is the rule's at 16 channels
    tuning = tune(model, "onnx", SIZE, 1)
    assert tuning.left == 0
    assert set(tuning.findings) >= set(deploy(model, SIZE).sites)
    assert groups(tuning.findings) == {16: "2", 32: "2"}
    assert {site.inputs for site in tuning.forms} == {32}
    site = next(iter(tuning.forms))
    assert tuning.chooser(site, ("4", "2")) == "2"
    count = len(tuning.findings)
    assert str(tuning) == (
        f"{count} of {count} sites known ({count} timed now), 1 are faster in another form; "
        "the whole network takes 0.900 (0.900-0.900) of its time in them"
    )


@pytest.mark.parametrize(
    "times",
    [
        [8.0, 8.0, 11.0],
        pytest.param([10.0], marks=pytest.mark.slow),
        pytest.param([12.0], marks=pytest.mark.slow),
    ],
)
def test_one_that_is_not_faster_beyond_the_spread_is_not(
    model: DetectionModel, timed: dict[str, list[float]], times: list[float]
) -> None:
    timed |= {"1": times, "2": [10.0]}
    tuning = tune(model, "onnx", SIZE, 1)
    assert groups(tuning.findings) == {16: "2", 32: "4"}
    assert tuning.whole is None
    assert "no other form is faster" in str(tuning)


def test_forms_that_make_the_whole_network_no_faster_stay_away(
    model: DetectionModel, timed: dict[str, list[float]]
) -> None:
    timed |= {"1": [5.0], "found": [9.0, 9.0, 11.0]}
    tuning = tune(model, "onnx", SIZE, 1)
    assert set(groups(tuning.findings).values()) == {"1"}
    assert tuning.forms == {}
    assert tuning.chooser(next(iter(tuning.findings)), ("4", "1")) == "4"
    assert "0.900 (0.900-1.100) of its time in them, which is not enough" in str(tuning)


def test_it_begins_with_the_usual_forms(model: DetectionModel, timed: dict[str, list[float]]) -> None:
    def usual(site: Site, forms: Any) -> str:
        return "1" if site.kind == "groups" else by_rule(site, forms)

    tuning = tune(model, "onnx", SIZE, 1, usual=usual)
    assert {next(iter(found.ratios)) for site, found in tuning.findings.items() if site.kind == "groups"} == {
        "1"
    }
    assert tuning.forms == {}


def test_what_is_known_is_not_timed_again(
    model: DetectionModel, timed: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {
        site: Finding(forms[-1], dict.fromkeys(forms, SAME))
        for site, forms in deploy(model, SIZE).sites.items()
    }
    other = next(iter(known))
    known[other] = Finding("4", {"4": SAME, "2": SAME})  # compared with a form that is not the usual one
    asked = []
    finding = module._Bench.finding
    monkeypatch.setattr(
        module._Bench,
        "finding",
        lambda self, place, site, *more: asked.append(site) or finding(self, place, site, *more),
    )
    timed["found"] = [9.0]
    tuning = tune(model, "onnx", SIZE, 1, known={(site, one.usual): one for site, one in known.items()})
    assert asked == [site for site in asked if site not in known or site == other]
    assert all(
        tuning.findings[site] == found
        for site, found in known.items()
        if site in tuning.findings and site != other
    )


def test_it_ends_with_the_best_so_far(
    model: DetectionModel, timed: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed |= {"1": [5.0], "found": [9.0]}
    clock = iter(range(1000))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    tuning = tune(model, "onnx", SIZE, 1, budget=1.5)
    assert len(tuning.findings) == tuning.timed == 1
    assert tuning.left > 5
    assert list(tuning.forms.values()) == ["1"]
    assert str(tuning).endswith("; run it again for the rest")
    assert f"1 of {1 + tuning.left} sites known (1 timed now)" in str(tuning)


def test_each_finding_is_kept_at_once(
    model: DetectionModel, timed: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[Site, Finding] = {}
    finding = module._Bench.finding

    def interrupted(*given: Any) -> Finding:
        if len(kept) == 3:
            raise KeyboardInterrupt
        return finding(*given)

    monkeypatch.setattr(module._Bench, "finding", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tune(model, "onnx", SIZE, 1, keep=kept.__setitem__)
    assert len(kept) == 3
    monkeypatch.setattr(module._Bench, "finding", finding)
    tuning = tune(model, "onnx", SIZE, 1, known={(site, one.usual): one for site, one in kept.items()})
    assert tuning.timed == len(tuning.findings) - 3


def test_times_that_vary_too_much_say_nothing(model: DetectionModel, timed: dict[str, list[float]]) -> None:
    timed |= {"1": [2.0, 4.0, 8.0, 9.5], "found": [9.0]}
    kept: dict[Site, Finding] = {}
    tuning = tune(model, "onnx", SIZE, 1, keep=kept.__setitem__)
    assert set(groups(tuning.findings).values()) == {"2", "4"}  # those of the rule
    assert not groups(kept)
    assert len(kept) > 5


@pytest.mark.parametrize(
    "runtime",
    [pytest.param("torch", marks=pytest.mark.slow), "onnx", pytest.param("openvino", marks=pytest.mark.slow)],
)
def test_times_are_real(model: DetectionModel, runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime))
    monkeypatch.setattr(module, "SECONDS", 0.01)
    monkeypatch.setattr(module, "ROUNDS", (2, 3))
    monkeypatch.setattr(module, "WHOLE_ROUNDS", (2, 3))
    threads = torch.get_num_threads()
    tuning = tune(model, runtime, SIZE, 1, budget=30)
    assert tuning.findings
    for found in tuning.findings.values():
        assert next(iter(found.ratios.values())) == SAME
        assert all(low > 0 for low, _, _ in found.ratios.values())
    assert torch.get_num_threads() == threads


def test_a_place_is_a_layer_among_its_neighbours(model: DetectionModel) -> None:
    places = {place.name: place for place in places_of(model, SIZE)}
    assert "layer 2, CSPHet" in places
    assert "layer 0, Conv" not in places  # it reads the image
    assert not any("Detect" in name or "Concat" in name or "Upsample" in name for name in places)
    joined = places["layer 7, CSPHet"]
    assert joined.shape == (1, NARROW, 16, 16)
    assert [layer.name for layer in joined.network.layers] == ["nn.Upsample", "Concat", "CSPHet"]
    assert joined.network(torch.rand(joined.shape)).shape == (1, NARROW, 16, 16)


def test_equal_places_are_looked_at_once() -> None:
    names = [place.name for place in places_of(DetectionModel("yolov5n.yaml").eval(), SIZE)]
    assert "layer 17, C3" in names
    assert "layer 20, C3" in names
    rows = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8]], [-1, 1, "Conv", [8]], [-1, 1, "Conv", [8, 3]]]
    model = DetectionModel({**CFG, "backbone": rows, "head": [[[3], 1, "Detect", ["nc", "anchors"]]]}).eval()
    assert [place.name for place in places_of(model, SIZE)] == ["layer 1, Conv", "layer 3, Conv"]
