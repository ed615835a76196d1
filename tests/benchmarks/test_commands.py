"""benchmark.py commands: the clocks, and the whole command on a few small pictures."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import benchmark
from benchmarks.commands import ratio_rows
from benchmarks.stages import BEGINS, STAGES, Clocks, replace
from tests.models.exporting.weights import write_weights


class Time:
    """A clock that goes when somebody sleeps."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now

    time = perf_counter

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions inside one another count once, for the outer stage; generators while they work."""
    inner, outer, clock = types.ModuleType("inner"), types.ModuleType("outer"), Time()
    monkeypatch.setattr("benchmarks.stages.time", clock)

    def work() -> str:
        clock.sleep(1)
        return "done"

    def items() -> Iterator[int]:
        for number in range(3):
            clock.sleep(2)
            yield number

    class Kind:
        def method(self) -> str:
            return outer.work()  # type: ignore[no-any-return]

    inner.work = outer.work = work  # type: ignore[attr-defined]
    inner.items, inner.Kind = items, Kind  # type: ignore[attr-defined]
    for module in (inner, outer):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    clocks = Clocks(clock.now - 7)
    replace("inner:Kind.method", lambda function: clocks.of("a", function))
    replace("inner.work", lambda function: clocks.of("b", function))
    replace("inner.items", lambda function: clocks.of("c", function))
    replace("inner.items", clocks.begins)
    assert Kind().method() == "done" and outer.work() == "done"
    for _ in inner.items():
        clock.sleep(10)
    assert clocks.seconds == {"a": 1, "b": 1, "start": 9, "c": 6}


def test_every_clock_has_its_place() -> None:
    """A function that was renamed would be a stage without seconds."""
    for name in (*BEGINS.values(), *(name for names in STAGES.values() for name in names)):
        replace(name, lambda function: function)


def test_ratios_are_of_pairs() -> None:
    found = {"val": {"pairs": [(10.0, 5.0), (30.0, 10.0), (12.0, 8.0)]}}
    assert ratio_rows(found)[1] == (
        "val", "12.00 (10.00, 30.00)", "8.00 (5.00, 10.00)", "2.00 (1.50, 3.00)"
    )  # fmt: skip


@pytest.mark.slow
def test_the_command(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    weights, record, data = write_weights(tmp_path / "best.pt"), tmp_path / "record.json", tmp_path / "d.yaml"
    names = tiny_data.read_text(encoding="utf-8").replace("green]", "green, c]")
    data.write_text(names, encoding="utf-8")
    flags = ["--weights", str(weights), "--data", str(data), "--imgsz", "64", "--rounds", "2"]
    benchmark.main(["commands", *flags, "--frames", "20", "--runtime", "torch", "--json", str(record)])
    told = capsys.readouterr().out
    found = json.loads(record.read_text(encoding="utf-8"))["commands"]
    assert list(found) == ["val", "detect", "video"]
    for command, stages in {
        "val": {"decode", "letterbox", "network", "NMS", "matching", "plots"},
        "detect": {"decode", "letterbox", "network", "NMS", "writing"},
        "video": {"decode", "letterbox", "network", "NMS", "writing"},
    }.items():
        assert len(found[command]["pairs"]) == 2
        assert found[command]["stages"].keys() >= stages | {"start", "whole"}
        assert found[command]["stages"]["start"] < found[command]["stages"]["whole"]
        assert command in told
