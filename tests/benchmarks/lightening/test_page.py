"""The page of lighten.py: its numbers, its pictures, and that it needs nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks.lightening.page import (
    SHOWN,
    Compared,
    Record,
    Variant,
    compare_pictures,
    read_course,
    variant_of,
    write_page,
)
from models.yolo import DetectionModel
from tests.benchmarks.test_report import BROWSER
from utils.data.index import index_pictures
from utils.errors import UserError

EVIL = '"><script>alert(1)</script>'
RESULTS = (
    "part,step,output_error,agreement/mAP_0.5:0.95\n"
    "0,1,0,0.1\n1,3,0,0.2\n2,4,7.5,0.3\n3,6,5.5,0.4\n"  # of the second phase no step is below 3
)
TEACHER = Variant("teacher", "teacher", 1000, 4.0, 3.5, (9.0, 10.0, 11.0), (1.0, 1.0, 1.0), true_map=0.5)
STUDENT = Variant(
    "small", "student", 800, 3.0, 2.8, (7.0, 8.0, 9.0), (0.7, 0.8, 0.9), start=0.01, end=0.75, true_map=0.45
)
OTHER = Variant(EVIL, "candidate", 900, 3.5, 3.0, (8.0, 9.0, 9.5), (0.8, 0.9, 0.95), short=0.5, note=EVIL)


class Links(HTMLParser):
    """What a page refers to, and the text outside of its style and script."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.scripts, self.texts = 0, ""
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")
        ]
        self.scripts += tag == "script"
        self._inside = tag

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.texts += data


def record(*variants: Variant, **others: object) -> Record:
    machine = {"processor": "a processor", "cores": 2, "versions": {"onnx": "1"}}
    values = {"runtime": "onnx", "data": "d.yaml", **others}
    return Record(
        f"python lighten.py --source '{EVIL}'", "2026-01-02", machine, imgsz=64, source=EVIL, pictures=20,
        held=4, ceiling=0.97, variants=[*variants], **values,  # type: ignore[arg-type]
    )  # fmt: skip


def page_of(folder: Path, record: Record) -> Links:
    results = folder / "results.csv"
    results.write_text(RESULTS, encoding="utf-8")
    image = (
        f"data:image/jpeg;base64,{base64.b64encode(cv2.imencode('.jpg', np.zeros((8, 8, 3)))[1]).decode()}"
    )
    pictures = [Compared(EVIL, image, image, (3, 2))]
    page = Links()
    text = write_page(folder, record, {"small": results}, pictures).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    page.feed(text)
    return page


def test_the_page_of_a_search(tmp_path: Path) -> None:
    told = record(
        TEACHER, STUDENT, OTHER, plan="Looked for speed.", left_out=[(EVIL, "it begins with next to nothing")]
    )
    page = page_of(tmp_path, told)
    assert all(link.startswith(("data:", "#")) for link in page.links) and page.scripts == 1
    assert "80 % of the parameters, 75 % of the\nGFLOPs and 80 % of the time in onnx" in page.texts
    assert "0.450 of 0.500 mAP50-95, 90 %" in page.texts
    assert page.texts.count(EVIL) >= 6  # row, note, source, picture, left out, and command
    assert "1 network left out" in page.texts
    numbers = json.loads((tmp_path / "lighten.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in numbers["variants"]] == ["teacher", "small", EVIL]


def test_the_page_without_latency_labels_and_search(tmp_path: Path) -> None:
    bare = [
        Variant(v.name, v.role, v.parameters, v.gflops, v.megabytes, end=v.end) for v in (TEACHER, STUDENT)
    ]
    page = page_of(tmp_path, record(*bare, runtime="", data=""))
    assert "Agreement against" not in page.texts and "latency" not in page.texts  # two points are no front
    assert "with labels" not in page.texts and "short fit" not in page.texts
    more = replace(bare[1], name="other", end=0.5)
    assert "Agreement against GFLOPs" in page_of(tmp_path, record(*bare, more, runtime="", data="")).texts


def test_steps_add_up_over_phases(tmp_path: Path) -> None:
    results = tmp_path / "results.csv"
    results.write_text(RESULTS, encoding="utf-8")
    assert read_course(results) == [(1, 0.1), (3, 0.2), (7, 0.3), (9, 0.4)]  # the second phase begins after 3
    for damage in ("part,step\n0,1\n", RESULTS.replace("0.3", "x"), ""):
        results.write_text(damage, encoding="utf-8")
        if damage:
            with pytest.raises(UserError, match="missing or damaged"):
                read_course(results)
        else:
            assert read_course(results) == []


def test_costs_by_hand() -> None:
    model = DetectionModel("yolov5n.yaml")
    found = variant_of("x", "teacher", model, 640)
    assert (found.parameters, round(found.gflops, 3)) == (1_867_405, 4.468)
    floats = sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())
    assert abs(found.megabytes * 1e6 - 2 * floats) < 2000  # the counters of BatchNorm are the rest


def test_pictures_with_boxes_come_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DetectionModel("yolov5n.yaml", nc=2).eval()
    rng = np.random.default_rng(0)
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    index = index_pictures([str(path) for path in sorted(tmp_path.iterdir())])
    box = np.array([[0, 0.5, 0.5, 0.5, 0.5]], np.float32)
    index = index.with_boxes([box if number >= 9 else box[:0] for number in range(12)])
    names = [one.name for one in compare_pictures([model, model], index, 64)]
    assert len(names) == SHOWN and set(names) > {"09.png", "10.png", "11.png"}
    (tmp_path / "10.png").write_bytes(b"nothing")
    assert "10.png" not in [one.name for one in compare_pictures([model, model], index, 64)]


@pytest.mark.skipif(BROWSER is None, reason="no browser")
@pytest.mark.parametrize("width", [500, 1200])
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    """Nothing sticks out to the right, and every picture is shown."""
    page_of(tmp_path, record(TEACHER, STUDENT, OTHER, plan="p"))
    page = tmp_path / "lighten.html"
    probe = """<script>onload = () => {
    const fits = document.documentElement.scrollWidth <= innerWidth;
    const shown = [...document.images].every(image => image.complete && image.naturalWidth);
    document.title = `${fits} ${shown} ${document.images.length}`; }</script>"""
    page.write_text(page.read_text(encoding="utf-8").replace('loading="lazy"', "") + probe, encoding="utf-8")
    assert BROWSER and shutil.which(BROWSER)
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},900", "--dump-dom")
    home = f"--user-data-dir={tmp_path / 'profile'}"
    said = subprocess.run(
        [BROWSER, *flags, home, page.as_uri()], capture_output=True, timeout=120, check=True
    )
    assert "<title>true true 2</title>" in said.stdout.decode()
