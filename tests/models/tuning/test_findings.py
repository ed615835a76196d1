"""What was measured before, in the repository and on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import platformdirs
import pytest
import torch

from models.folding.forms import Site
from models.runtimes import machine
from models.runtimes.machine import Machine, instruction_set
from models.tuning import findings
from models.tuning.findings import cache_file, remember, remembered, table, usual
from models.tuning.tune import TUNED, Finding, Findings, Known
from utils.errors import UserError

HERE = Machine("onnx", "1.32.0", "a CPU", "avx512", 2)
SITE = Site("groups", 16, 16, (3, 3), 1, 4, (160, 160))


def by_usual(found: Findings) -> Known:
    return {(site, one.usual): one for site, one in found.items()}


FOUND = {SITE: Finding("1", {"2": (1.0, 1.0, 1.0), "1": (0.7, 0.72, 0.75)})}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    return tmp_path / "cache" / "forms.json"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of our own in place of the repository's."""
    path = tmp_path / "forms.yaml"
    monkeypatch.setattr(findings, "TABLE", path)
    table.cache_clear()
    yield path
    table.cache_clear()


def test_findings_are_kept_for_this_machine_alone(cache: Path) -> None:
    assert remembered(HERE) == {}
    remember(HERE, SITE, FOUND[SITE])
    assert cache_file() == cache
    assert remembered(HERE) == by_usual(FOUND)
    more = {Site.parse("sum 48>32 k1x1/1 n3 @160x160"): Finding("sum", {"sum": (1.0, 1.0, 1.0)})}
    remember(HERE, *next(iter(more.items())))
    assert remembered(HERE) == by_usual(FOUND | more)
    for other in ("openvino", "1.33.0", "another", "avx2", 4):
        changed = [
            getattr(HERE, name) for name in ("runtime", "version", "processor", "instructions", "threads")
        ]
        place = 4 if other == 4 else ["openvino", "1.33.0", "another", "avx2"].index(other)
        changed[place] = other
        assert remembered(Machine(*changed)) == {}


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"X": 1}', '{"X": {"groups": {}}}', "\x00", "[" * 100_000]
)
def test_a_damaged_cache_is_no_more_than_an_empty_one(cache: Path, content: str) -> None:
    cache.parent.mkdir()
    cache.write_text(content.replace("X", str(HERE)), encoding="utf-8")
    assert remembered(HERE) == {}
    remember(HERE, SITE, FOUND[SITE])
    assert remembered(HERE) == by_usual(FOUND)


def test_what_was_compared_with_another_form_stays(cache: Path) -> None:
    """`benchmark.py tune` begins with the forms by rule, `export.py --tune` with those of the table."""
    other = Finding("1", {"1": (1.0, 1.0, 1.0), "2": (1.3, 1.4, 1.5)})
    for one in (FOUND[SITE], other, FOUND[SITE]):
        remember(HERE, SITE, one)
    assert remembered(HERE) == {(SITE, "2"): FOUND[SITE], (SITE, "1"): other}


def test_what_an_older_version_has_kept(cache: Path) -> None:
    cache.parent.mkdir()
    entry = {"form": "1", "ratios": {"2": [1, 1, 1], "1": [0.7, 0.72, 0.75]}}
    cache.write_text(json.dumps({str(HERE): {str(SITE): entry}}), encoding="utf-8")
    assert remembered(HERE) == by_usual(FOUND)


def test_a_form_that_was_never_timed_is_not_believed(cache: Path) -> None:
    remember(HERE, SITE, FOUND[SITE])
    content = json.loads(cache.read_text(encoding="utf-8"))
    content[str(HERE)][f"{SITE} over 2"]["form"] = "3"
    cache.write_text(json.dumps(content), encoding="utf-8")
    assert remembered(HERE) == {}


def test_a_cache_that_cannot_be_written_is_told(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache.parent.write_text("no folder", encoding="utf-8")
    remember(HERE, SITE, FOUND[SITE])
    assert "what was measured cannot be kept for the next time" in capsys.readouterr().err


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def unknown(*_: object, **__: object) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(platformdirs, "user_cache_dir", unknown)
    assert remembered(HERE) == {}
    remember(HERE, SITE, FOUND[SITE])
    remember(HERE, SITE, FOUND[SITE])
    told = capsys.readouterr().err
    assert told.count("there is no home folder, and XDG_CACHE_HOME is not set") == 1


def test_a_package_under_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise machine.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(machine.importlib.metadata, "version", missing)
    assert Machine.here("torch", 1).version == torch.__version__


def test_the_table_is_whole() -> None:
    for entry in table():
        assert entry["runtime"] in TUNED
        assert entry["instructions"] in entry["machine"]
        assert {Site.parse(text).kind for text in entry["forms"]} >= {"groups"}


@pytest.mark.parametrize(
    "content",
    ["a", "- a", "- {runtime: onnx}", "- {runtime: onnx, instructions: a, machine: b, forms: {x: y}}",
     f"- {{runtime: onnx, instructions: a, machine: b, forms: {{{SITE}: 1}}}}"],
)  # fmt: skip
def test_a_damaged_table_is_told(written: Path, content: str) -> None:
    written.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"benchmark\.py tune --table"):
        table()


def test_a_site_takes_the_form_of_its_nearest(written: Path) -> None:
    sites = {
        "groups 16>16 k3x3/1 n4 @160x160": "1",
        "groups 32>32 k3x3/1 n4 @80x80": "2",
        "sum 8>8 k1x1/1 n2 @80x80": "one",
    }
    entry: dict[str, Any] = {"runtime": "onnx", "instructions": "avx512", "machine": "m", "forms": sites}
    written.write_text(json.dumps([entry]), encoding="utf-8")
    choose = usual("onnx", "avx512")
    forms = ("4", "2", "1")
    assert choose(SITE, forms) == "1"
    assert choose(Site.parse("groups 32>32 k3x3/1 n4 @60x60"), forms) == "2"
    assert choose(Site.parse("groups 16>16 k3x3/1 n4 @100x100"), forms) == "1"
    assert choose(SITE, ("4", "2")) == "4"  # a form that it has not
    for other in (
        "groups 128>128 k3x3/1 n4 @20x20",
        "groups 16>16 k5x5/1 n4 @160x160",
        "groups 16>16 k3x3/2 n4 @160x160",
        "groups 16>16 k3x3/1 n2 @160x160",
    ):
        assert choose(Site.parse(other), forms) == "4"
    assert usual("onnx", "avx2")(SITE, forms) == "4"
    assert usual("openvino", "avx512")(SITE, forms) == "4"


@pytest.mark.parametrize(
    ("known", "told", "expected"),
    [
        ({"avx512_f": True, "avx2": True}, "AVX2", "avx512"),
        ({"avx512_f": False, "avx2": True}, "DEFAULT", "avx2"),
        ({}, "AVX512", "avx512"),
        ({}, "DEFAULT", "aarch64"),
    ],
)
def test_instructions(
    known: dict[str, object], told: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: told)
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    assert instruction_set() == expected


def test_a_machine_is_a_line() -> None:
    assert str(HERE) == "onnx 1.32.0, a CPU (avx512), 2 threads"
    assert "torch" in str(Machine.here("torch", 1))
