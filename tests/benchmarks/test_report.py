"""benchmark.py report: the page, and the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import benchmark
from benchmarks.plots import Point, pareto
from benchmarks.report import Config
from tests.benchmarks.test_latency import TIMING
from utils.errors import UserError
from utils.files import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# sorts the first table by its third column, twice, and tells what became of it in the title
PROBE = """<script>
const heads = document.querySelectorAll("table")[0].querySelectorAll("th button");
const rows = document.querySelectorAll("table")[0].tBodies[0].rows;
const names = () => [...rows].map(row => row.cells[0].textContent).join();
heads[2].click(); const rising = names(); heads[2].click(); const falling = names();
const fits = document.documentElement.scrollWidth <= innerWidth;
document.title = `$${rising}|$${falling}|$${heads[2].parentElement.ariaSort}|$${fits}`;
</script>""".replace("$$", "$")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Three timings in each of two runtimes, and scores of two of the networks."""
    rows = [
        replace(
            TIMING, variant="base", is_baseline=True, flops_ratio=1.0, ratio=(1.0, 1.0, 1.0), parameters=30
        ),
        replace(TIMING, variant="light", parameters=200),
        replace(TIMING, variant="<b>", parameters=100, ratio=(1.1, 1.2, 1.3)),
    ]
    timings = [asdict(replace(row, runtime=runtime)) for runtime in ("onnx", "openvino") for row in rows]
    machine = {"processor": "a processor", "cores": 2, "versions": {"onnx": "1", "openvino": "2"}}
    record = {
        "command": "python x",
        "date": "2026-01-02",
        "machine": machine,
        "baseline": "base",
        "imgsz": 64,
        "batch": 1,
        "threads": 2,
        "runs": 3,
    }
    latency, accuracy = tmp_path / "latency.json", tmp_path / "results.csv"
    latency.write_text(json.dumps({**record, "timings": timings}), encoding="utf-8")
    accuracy.write_text(
        "variant,seed,mAP50,mAP50-95\nbase,0,0.7,0.4\nbase,1,0.7,0.5\nlight,0,0.6,0.3\n", encoding="utf-8"
    )
    return latency, accuracy


def report(latency: Path, accuracy: Path) -> str:
    target = latency.parent / "report.html"
    flags = ["--latency", str(latency), "--accuracy", str(accuracy), "--output", str(target)]
    benchmark.main(["report", *flags])
    return target.read_text(encoding="utf-8")


def test_the_page(files: tuple[Path, Path]) -> None:
    page = report(*files)
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert "0.450 <small>± 0.071</small>" in page  # mean and sample deviation of 0.4 and 0.5
    assert "onnx: of 2 lighter networks 1 are faster, 1 of them by what their FLOPs promise." in page
    assert page.count("<svg") == 2 + 2 + 1  # accuracy and FLOPs for each runtime, and the sizes
    assert "SLOWER ALTHOUGH LIGHTER" in page
    # nothing from elsewhere; a plot refers to parts of itself
    assert not re.search(r"(src|href)=\"(?!data:|#)|@import|url\((?!#)", page)
    assert "<title>light: 8.000, 0.300</title>" in page  # told under the pointer
    colours = re.findall(r"(?:fill|stroke): (#\w+)", page)
    assert not colours, "plots take their colours from the page, which has a light and a dark set"


def test_texts_from_elsewhere_stay_texts(files: tuple[Path, Path]) -> None:
    latency, accuracy = files
    evil = "<small></small><script>alert(1)</script>"
    latency.write_text(
        latency.read_text(encoding="utf-8").replace('"light"', json.dumps(evil)), encoding="utf-8"
    )
    page = report(latency, accuracy)
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page


def test_a_foreign_page_is_not_overwritten(files: tuple[Path, Path]) -> None:
    report(*files)
    report(*files)  # its own is
    (files[0].parent / "report.html").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="was not written by this command"):
        report(*files)


def test_by_default_no_file_of_the_repository_is_written() -> None:
    assert Path(Config(latency="x.json").output).parts[0] == "runs"  # which git ignores


@pytest.mark.parametrize(
    ("key", "value"),
    [("ratio", ["a", "b", "c"]), ("ratio", [1, 2]), ("parameters", "x"), ("flops_ratio", float("nan"))],
)
def test_damaged_timings_are_one_line(files: tuple[Path, Path], key: str, value: object) -> None:
    record = json.loads(files[0].read_text(encoding="utf-8"))
    record["timings"][0][key] = value
    files[0].write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=r"is not what `benchmark\.py latency --json` writes"):
        report(*files)


@pytest.mark.parametrize("score", ["nan", "inf", "-1", "x"])
def test_damaged_scores_are_one_line(files: tuple[Path, Path], score: str) -> None:
    files[1].write_text(f"variant,seed,mAP50,mAP50-95\nbase,0,0.7,{score}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not a results\.csv"):
        report(*files)


def test_other_files_are_refused(files: tuple[Path, Path]) -> None:
    latency, accuracy = files
    with pytest.raises(UserError, match=r"is not what `benchmark\.py latency --json` writes"):
        report(accuracy, accuracy)
    with pytest.raises(UserError, match=r"is not a results\.csv"):
        report(latency, latency)
    accuracy.write_text("variant,seed,mAP50,mAP50-95\nother,0,0.7,0.4\n", encoding="utf-8")
    with pytest.raises(UserError, match="no network in common"):
        report(latency, accuracy)


def test_the_frontier_holds_what_no_other_beats() -> None:
    points = [Point("slow", 3, 0.5), Point("fast", 1, 0.3), Point("beaten", 2, 0.2), Point("middle", 2, 0.4)]
    assert [point.name for point in pareto(points)] == ["fast", "middle", "slow"]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("own", [True, False])
def test_in_a_browser(files: tuple[Path, Path], width: int, own: bool) -> None:
    page = report(*files) if own else (ROOT / "docs" / "report.html").read_text(encoding="utf-8")
    probed = files[0].parent / "probed.html"
    probed.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--window-size={width},900", f"--user-data-dir={probed.parent / 'profile'}", "--dump-dom"]
    ended = subprocess.run(
        [*command, probed.as_uri()], capture_output=True, encoding="utf-8", timeout=120, check=True
    )
    assert "CONSOLE" not in ended.stderr  # where the browser tells of errors in scripts
    found = re.search(r"<title>(.*)</title>", ended.stdout)
    assert found
    rising, falling, state, fits = found[1].split("|")
    assert rising.split(",") == falling.split(",")[::-1] or not own
    assert (state, fits) == ("descending", "true")
    if own:
        assert falling == "light,&lt;b&gt;,base"  # 200, 100 and 30 parameters; as text, 30 would be first
