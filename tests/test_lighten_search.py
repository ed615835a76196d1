"""lighten.py --faster, --smaller, --flops: what is chosen, what is kept, and how it goes on after a kill."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lighten
from benchmarks.lightening import candidates, search
from benchmarks.lightening.candidates import layouts, named
from benchmarks.lightening.state import search_above, to_continue
from benchmarks.timings import Timing
from models.weights import load_model
from models.yolo import DetectionModel
from tests.benchmarks.test_latency import TIMING
from tests.test_lighten import SMALL, teacher  # noqa: F401 - a fixture
from tests.training_runs import rows, tensors
from training.engine import NonFiniteLoss
from training.lightening.config import LightenConfig
from utils.counting.measure import count_parameters
from utils.errors import UserError

SOME = ("--candidates", "yolov5n-csppc.yaml", "yolov5n-csppc-neck.yaml", "0.75", "yolov5n-gsconv.yaml")


@pytest.fixture
def arguments(teacher: Path, tiny_data: Path, tmp_path: Path) -> tuple[str, ...]:  # noqa: F811
    return (*flags_for(teacher, tiny_data), "--project", str(tmp_path))


def flags_for(teacher: Path, data: Path) -> tuple[str, ...]:  # noqa: F811
    return ("--weights", str(teacher), "--source", str(data.parent / "images" / "train"), *SMALL)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    return without_clock(monkeypatch)


def without_clock(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Latency without a clock: as many parameters, as long. The names of each measurement."""
    calls: list[list[str]] = []

    def compare(runtime: str, networks: Mapping[str, DetectionModel], imgsz: int, runs: int) -> list[Timing]:
        calls.append([*networks])
        sizes = {name: count_parameters(model) for name, model in networks.items()}
        ratios = {name: (0.5, size / sizes["teacher"], 2.0) for name, size in sizes.items()}
        return [replace(TIMING, variant=name, ratio=ratio) for name, ratio in ratios.items()]

    monkeypatch.setattr(candidates, "GROUP", 2)
    monkeypatch.setattr(candidates, "compare", compare)
    return calls


@dataclass(frozen=True)
class Whole:
    """A search that was not disturbed."""

    flags: tuple[str, ...]
    root: Path
    measured: list[list[str]]
    said: str


@pytest.fixture(scope="module")
def whole(teacher: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:  # noqa: F811
    folder, said = tmp_path_factory.mktemp("whole"), io.StringIO()
    budget = ("--faster", "0.92", "--runtime", "torch", "--steps", "30", "--measures", "2")
    flags = (*flags_for(teacher, tiny_data), *SOME, *budget, "--data", str(tiny_data))
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(said):
        calls = without_clock(monkeypatch)
        lighten.main([*flags, "--project", str(folder)])
    return Whole(flags, folder / "exp", calls, said.getvalue())


def state(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    return content


def test_the_whole_search(whole: Whole, teacher: Path) -> None:  # noqa: F811
    root, said, found = whole.root, whole.said, state(whole.root)
    # the teacher with each two
    pairs = [["yolov5n-gsconv", "yolov5n-csppc-neck"], ["yolov5n-csppc", "width 0.75"]]
    assert whole.measured == [["teacher", *pair] for pair in pairs]
    # parameters of gsconv are 0.94 of the teacher's, so that three are left
    assert "4 candidates, 3 meet the budget (--faster 0.92 in torch)" in said and "30 steps in all" in said
    short, full = found["fits"]["short"], found["fits"]["full"]
    assert [fit["steps"] for fit in short.values()] == [4, 4, 4]  # 0.4 of 30, over three
    assert [fit["steps"] for fit in full.values()] == [9, 9]  # the rest, over two
    order = sorted(short, key=lambda name: -short[name]["end"])
    assert list(full) == order[:2]
    best = max(full, key=lambda name: full[name]["end"])
    inner = root / "full" / best / "weights" / "best.pt"
    assert (root / "weights" / "best.pt").read_bytes() == inner.read_bytes()
    numbers = json.loads((root / "lighten.json").read_text(encoding="utf-8"))
    roles = {row["name"]: row["role"] for row in numbers["variants"]}
    assert list(roles.values()) == ["teacher", "student", "student", "candidate", "candidate"]
    assert list(roles)[1] == best and "over the budget: 0.93" in numbers["variants"][-1]["note"]
    assert all(row["true_map"] is not None for row in numbers["variants"][:3])
    page = (root / "lighten.html").read_text(encoding="utf-8")
    assert "short fit" in page and str(root.parent) not in page


@pytest.mark.slow
def test_a_fit_is_what_lighten_makes_of_that_network_alone(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    lighten.main([*arguments, "--candidates", "0.75", "--smaller", "0.8", "--steps", "6", "--measures", "2"])
    lighten.main([*arguments, "--width", "0.75", "--steps", "6", "--measures", "2", "--name", "alone"])
    first, second = (tensors(tmp_path / place / "weights" / "best.pt") for place in ("exp", "alone"))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert list(state(tmp_path / "exp")["fits"]["short"]) == []  # one candidate gets all the time
    assert load_model(tmp_path / "exp" / "weights" / "best.pt").yaml["width_multiple"] == 0.75 * 0.25


@pytest.mark.slow
def test_what_was_done_is_not_done_again(
    whole: Whole, tmp_path: Path, measured: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search that is ended anywhere goes on there, and comes to the same weights."""

    class Killed(BaseException):
        pass

    def after(count: int, work: Callable[..., Any]) -> Callable[..., Any]:
        left = iter(range(count))

        def counted(*args: Any) -> Any:
            if next(left, None) is None:
                raise Killed
            return work(*args)

        return counted

    # ten parts in all, two a fit
    places: list[tuple[Any, str, int]] = [
        (candidates, "compare", 1),
        (lighten, "finish_part", 3),
        (lighten, "finish_part", 4),
        (search, "keep", 0),
        (search, "write_page", 0),
    ]
    words = [*whole.flags, "--project", str(tmp_path)]
    for where, name, count in places:
        with monkeypatch.context() as patch:
            patch.setattr(where, name, after(count, getattr(where, name)))
            with pytest.raises(Killed):
                lighten.main(words)
        words = ["--resume", "--project", str(tmp_path)]
    lighten.main(words)
    assert [folder.name for folder in tmp_path.iterdir()] == ["exp"]
    assert measured == whole.measured  # each group was measured once
    fits = [state(root)["fits"] for root in (whole.root, tmp_path / "exp")]
    for one in fits:
        for fit in (*one["short"].values(), *one["full"].values()):
            del fit["seconds"]
    assert fits[0] == fits[1]
    first, second = (tensors(root / "weights" / "best.pt") for root in (whole.root, tmp_path / "exp"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_resume_finds_the_search(arguments: tuple[str, ...], tmp_path: Path) -> None:
    lighten.main([*arguments, "--candidates", "0.5", "--smaller", "0.8", "--steps", "2"])
    root = tmp_path / "exp"
    inner = root / "full" / "width 0.5" / "weights" / "last.pt"
    for named_one in (inner, root / "search.json", root / "weights" / "last.pt"):
        assert search_above(named_one) == root / "search.json"
    config = LightenConfig(resume=True, project=str(tmp_path))
    assert to_continue(config) == root / "search.json"
    (root / "lighten.html").unlink()
    lighten.main(["--resume", str(inner)])
    assert (root / "lighten.html").is_file() and len(rows(root / "full" / "width 0.5" / "results.csv")) == 2
    lighten.main([*arguments, "--width", "0.5", "--steps", "2", "--name", "alone"])
    assert to_continue(config) is None  # the newest is a run of one student
    for flags, message in (
        (["--steps", "5"], "where steps is 2"), (["--runtime", "torch"], "leave --runtime out"),
        (["--smaller", "0.5"], "where smaller is 0.8"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            lighten.main(["--resume", str(inner), *flags])
    content = state(root)
    for damage in ("{", "[]", json.dumps(content | {"fits": {}}), json.dumps(content | {"settings": []})):
        (root / "search.json").write_text(damage, encoding="utf-8")
        with pytest.raises(UserError, match="is not what a search"):
            lighten.main(["--resume", str(inner)])


@pytest.mark.slow
def test_one_that_cannot_learn_is_given_up(
    arguments: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def teach(config: LightenConfig, *args: Any) -> Any:
        if config.cfg == "yolov5n-csppc.yaml":
            raise NonFiniteLoss("the error became nan")
        return lighten_one(config, *args)

    lighten_one = lighten.lighten
    monkeypatch.setattr(lighten, "lighten", teach)
    lighten.main([*arguments, *SOME, "--smaller", "0.92", "--steps", "20", "--measures", "2"])
    assert "yolov5n-csppc is given up: the error became nan" in capsys.readouterr().err
    numbers = json.loads((tmp_path / "exp" / "lighten.json").read_text(encoding="utf-8"))
    notes = {row["name"]: row["note"] for row in numbers["variants"]}
    assert notes["yolov5n-csppc"] == "the error became nan" and notes["yolov5n-csppc-neck"] == ""
    flags = ["--candidates", "yolov5n-csppc.yaml", "--smaller", "0.9", "--steps", "4", "--name", "none"]
    with pytest.raises(UserError, match="none can be taught: the error became nan"):
        lighten.main([*arguments, *flags])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(
            ["--smaller", "0.1"],
            r"none of 4 candidates .* --smaller 0.1: width 0.75 takes 0.5\d\d of its param",
            marks=pytest.mark.slow,
        ),
        (["--faster", "0.1"], r"--faster 0.1: width 0.75 takes 0.5\d\d of its time"),
        (
            ["--flops", "0.7", "--smaller", "0.4"],
            r"for --smaller 0.4: .*; for --flops 0.7: width 0.75 takes 0.6",
        ),
        pytest.param(
            ["--faster", "0.9", "--smaller", "0.1"],
            r"--faster 0.9: not measured; for --smaller 0.1: width",
            marks=pytest.mark.slow,
        ),
        (["--smaller", "0.9", "--candidates", "2"], "a width lies between"),
        (["--smaller", "0.9", "--candidates", "yolov5n6.yaml"], "other levels or anchors"),
        (["--smaller", "0.9", "--candidates", "nowhere.yaml"], "nowhere.yaml"),
        (["--smaller", "0.9", "--source", "nowhere"], "nowhere"),
        (["--smaller", "0.9", "--source", ""], "--source is missing"),
    ],
)
def test_what_cannot_be_found_leaves_no_folder(
    arguments: tuple[str, ...], tmp_path: Path, measured: list[list[str]], flags: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        lighten.main([*arguments, *SOME, *flags])
    assert not (tmp_path / "exp").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cfg", "a.yaml", "--faster", "0.8"], "--cfg names the network"),
        (["--width", "0.5", "--flops", "0.8"], "--width names the network"),
        (["--candidates", "a.yaml"], "--candidates are chosen from by"),
        (["--faster", "1.5"], "--faster must lie between"),
    ],
)
def test_flags_that_contradict_each_other(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        lighten.main(flags)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_missing_package_is_told_first(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ncnn", None)
    for flags in (["--faster", "0.8"], ["--width", "0.5"]):
        with pytest.raises(UserError, match="pip install"):
            lighten.main([*arguments, *flags, "--runtime", "ncnn"])
    assert not (tmp_path / "exp").exists()


def test_candidates_are_of_the_size_of_the_teacher() -> None:
    small, medium = DetectionModel("yolov5n.yaml"), DetectionModel("yolov5m.yaml")
    assert "yolov5n-asff.yaml" in layouts(small) and "yolov5s-csppc.yaml" not in layouts(small)
    assert "yolov5m-asff.yaml" in layouts(medium) and len(layouts(medium)) == len(layouts(small))
    assert list(named(LightenConfig(), small))[-4:] == [
        "width 0.875",
        "width 0.75",
        "width 0.625",
        "width 0.5",
    ]


def test_which_networks_of_models_are_candidates(
    teacher: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    some = ("yolov5n.yaml", "v5lite-e.yaml", "yolov5n-csppc.yaml", "yolov5n-lcnet-backbone.yaml")
    monkeypatch.setattr(candidates, "layouts", lambda teacher: some)
    monkeypatch.setattr(candidates, "LITTLE", 0.8)
    found, left_out = candidates.candidates_for(LightenConfig(), load_model(teacher), 64)
    names, reasons = [one.name for one in found], dict(left_out)
    assert names[:2] == ["width 0.875", "yolov5n-csppc"] or names[:2] == ["yolov5n-csppc", "width 0.875"]
    assert reasons["yolov5n"] == "it is the teacher's own" and reasons["v5lite-e"] == "it is of another size"
    assert "begins with next to nothing of the teacher" in reasons["yolov5n-lcnet-backbone"]
    gflops = [one.variant.gflops for one in found]
    assert gflops == sorted(gflops, reverse=True)
