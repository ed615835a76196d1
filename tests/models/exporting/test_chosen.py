"""In which forms export.py writes a network, and what it says of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import platformdirs
import pytest

from models.deploy import deploy
from models.exporting import chosen
from models.folding.forms import Site
from models.tuning import findings
from models.tuning.findings import table
from models.tuning.tune import Finding, Tuning
from models.weights import load_model
from tests.layouts import small
from tests.models.exporting.command import call, left, refusal, session
from tests.models.exporting.weights import lively, seeing, write_weights

onnx = pytest.importorskip("onnx")

FASTER = (0.7, 0.8, 0.9)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_weights(tmp_path / "best.pt", seeing(lively(small("yolov5n-csphet"))))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda *_, **__: f"{tmp_path}-cache")


def groups_of(weights: Path) -> list[int]:
    """Of each convolution of the file, in how many groups it is."""
    graph = onnx.load(str(weights.with_suffix(".onnx"))).graph
    return [
        next((a.i for a in node.attribute if a.name == "group"), 1)
        for node in graph.node
        if node.op_type == "Conv"
    ]


def told(weights: Path) -> str:
    return str(session(weights).get_modelmeta().custom_metadata_map["forms"])


def test_the_table_decides(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sites = [site for site in sites_of(weights) if site.kind == "groups"]
    forms = "".join(f", '{site}': '1'" for site in sites)[2:]
    path = tmp_path.with_name(f"{tmp_path.name}-forms.yaml")
    path.write_text(
        f"- {{runtime: onnx, instructions: avx512, machine: m, forms: {{{forms}}}}}", encoding="utf-8"
    )
    monkeypatch.setattr(findings, "TABLE", path)
    table.cache_clear()
    try:
        call(weights, "--include", "onnx", "--imgsz", "64", "--cpu", "avx512")
        assert set(groups_of(weights)) == {1}
        assert told(weights) == "as measured in onnx on avx512"
        call(weights, "--include", "onnx", "--imgsz", "64", "--cpu", "avx2")
        assert set(groups_of(weights)) > {1}
        monkeypatch.setattr(chosen, "instruction_set", lambda: "avx512")
        call(weights, "--include", "onnx", "--imgsz", "64")
        assert set(groups_of(weights)) == {1}
    finally:
        table.cache_clear()


def sites_of(weights: Path) -> list[Site]:
    return list(deploy(load_model(weights), (64, 64)).sites)


def test_what_was_timed_decides(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}
    known: list[Any] = []

    def tuned(model: Any, runtime: str, size: tuple[int, int], threads: int, **more: Any) -> Tuning:
        given.update(runtime=runtime, size=size, threads=threads)
        known.append(more["known"])
        sites = [site for site in sites_of(weights) if site.kind == "groups"]
        found = {site: Finding("1", {"2": (1.0, 1.0, 1.0), "1": FASTER}) for site in sites}
        for site, one in found.items():
            more["keep"](site, one)
        return Tuning(more["usual"], found, whole=FASTER)

    monkeypatch.setattr(findings, "tune", tuned)
    for _ in range(2):
        call(weights, "--include", "onnx", "--imgsz", "64", "96", "--tune", "--threads", "3")
    assert given == {"runtime": "onnx", "size": (64, 96), "threads": 3}
    assert not known[0]
    assert {str(site) for site, _ in known[1]} == {
        str(site) for site in sites_of(weights) if site.kind == "groups"
    }
    assert {usual for _, usual in known[1]} == {"2"}
    assert "4 are faster in another form; the whole network takes 0.800 (0.700-0.900) of its time" in told(
        weights
    )
    assert "; groups 16>16 k3x3/1 n4 @8x8: 1" in told(weights)
    assert "3 threads, 64x96 px)" in told(weights)
    printed = capsys.readouterr().out
    assert "timing equal forms" in printed
    assert "what is timed is kept, also after Ctrl-C" in printed


@pytest.mark.slow
def test_tuning_for_real(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.tuning.tune.ROUNDS", (2, 3))
    monkeypatch.setattr("models.tuning.tune.WHOLE_ROUNDS", (2, 3))
    monkeypatch.setattr(findings, "tune", partial(findings.tune, budget=2))
    call(weights, "--include", "onnx", "--imgsz", "64", "--tune")
    assert " sites known (" in told(weights)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--include", "ncnn"], "--tune is for torchscript, onnx, openvino; leave it out for ncnn"),
        (["--include", "onnx", "--dynamic"], "leave out --dynamic"),
        (["--include", "onnx", "--half"], "leave out --half"),
        (["--include", "onnx", "--int8"], "leave out --int8"),
        (["--include", "onnx", "--no-deploy"], "leave out --no-deploy"),
        (["--include", "onnx", "--batch-size", "2"], "leave out --batch-size 2"),
        (["--include", "onnx", "--cpu", "avx2"], "leave out --cpu"),
    ],
)
def test_what_is_not_timed_is_refused(
    weights: Path, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    assert said in refusal(capsys, "--weights", str(weights), "--tune", *flags)
    assert left(weights) == set()


def test_other_flags_of_forms(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--threads is for --tune" in refusal(capsys, "--weights", str(weights), "--threads", "2")
    assert "avx2, avx512, other" in refusal(capsys, "--weights", str(weights), "--cpu", "pentium")
