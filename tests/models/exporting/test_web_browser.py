"""--include web in headless Chromium, with ONNX Runtime Web: boxes as detect.py's, and the page."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from models.detector import Detector
from models.exporting import web
from models.runtimes.opening import load_backend
from tests.layouts import small
from tests.models.exporting.browser import BROWSER, visit
from tests.models.exporting.command import call
from tests.models.exporting.weights import spread, write_weights
from utils.data.sources import read_picture
from utils.detections.annotate import annotate
from utils.files import ROOT

pytest.importorskip("onnx")
PACKAGE = Path(os.environ.get("LEAN5_WEB_RUNTIME", ROOT / web.ARCHIVE))
pytestmark = [
    pytest.mark.skipif(BROWSER is None, reason="needs chromium"),
    pytest.mark.skipif(
        not PACKAGE.exists(), reason=f"needs {web.ARCHIVE}: npm pack {web.PACKAGE}@{web.VERSION}"
    ),
]
PICTURES = {file.name: file for file in sorted((ROOT / "data" / "images").glob("*.jpg"))[:2]}
PIXEL, SCORE = 1.0, 0.002  # how far a box may be from detect.py's
Row = list[Any]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small network, which finds something everywhere."""
    weights = write_weights(tmp_path_factory.mktemp("web") / "a #1 <b>.pt", spread(small("yolov5n")))
    call(weights, "--include", "web", "--imgsz", "96", "128", "--web-runtime", str(PACKAGE))
    return weights.with_name(f"{weights.stem}_web")


def detector(folder: Path, confidence: float = 0.25) -> Detector:
    made = Detector(load_backend(web.network_of(folder)))
    made.conf = confidence
    return made


def expected(detector: Detector, picture: Path) -> list[list[float]]:
    rows = detector.detect(detector.prepare([read_picture(str(picture))], 640))[0][0]
    return [[float(value) for value in row] for row in rows]


def check_boxes(found: list[list[str]], wanted: list[list[float]], detector: Detector) -> None:
    """Each has a partner of its class; only what lies at the threshold may be there on one side alone."""
    rows = [[*map(float, row[2:]), float(row[1]), row[0]] for row in found]
    others = [[*row[:5], detector.names[int(row[5])]] for row in wanted]
    for some, partners in ((rows, others), (others, rows)):
        for row in (row for row in some if row[4] > detector.conf + SCORE):
            near = [
                other for other in partners
                if row[5] == other[5] and abs(row[4] - other[4]) <= SCORE
                and max(abs(a - b) for a, b in zip(row[:4], other[:4])) <= PIXEL
            ]  # fmt: skip
            assert near, f"{row} has no partner"


@pytest.mark.parametrize(("width", "isolated"), [(1280, False), (390, True)])
def test_pictures(page: Path, tmp_path: Path, width: int, isolated: bool) -> None:
    (tmp_path / "broken.jpg").write_bytes(next(iter(PICTURES.values())).read_bytes()[:30])
    (tmp_path / "cut.onnx").write_bytes(web.network_of(page).read_bytes()[:5000])
    given = {**PICTURES, "other.onnx": web.network_of(page)}
    given |= {name: tmp_path / name for name in ("broken.jpg", "cut.onnx")}
    script = f"""
    await ready();
    move("confidence", 0.6);
    await give("files", {json.dumps(list(PICTURES))});
    await calm();
    const [first] = boxes();
    move("confidence", first[2][1] - 0.01);
    const drawn = [document.querySelector("#stage canvas").toDataURL(), boxes()[0]];
    move("confidence", 0.6);
    $("next").click();
    await calm();
    const [second] = boxes();
    await give("other", ["other.onnx"]);
    await until(() => boxes().length === 2 && boxes()[1].length);
    const both = boxes(), caption = document.querySelectorAll(".times")[1].textContent;
    const wide = document.documentElement.scrollWidth;
    [...document.querySelectorAll("#classes input")][0].click();
    const fewer = boxes()[0];
    await give("other", ["cut.onnx"]);
    const cut = await complaint();
    await give("files", ["broken.jpg"]);
    await until(() => $("problem").textContent.startsWith("broken"));
    const refused = await fetch("http://127.0.0.2:1/").catch(() => "refused");
    await until(() => violations.length);
    return {{ first, second, both, caption, wide, fewer, cut, refused, drawn,
      broken: $("problem").textContent, title: document.title,
      name: document.querySelector(".name").textContent }};
    """
    report = visit(page, script, given, width=width, isolated=isolated)
    seen = report["seen"]
    assert isinstance(seen, dict), seen
    own = detector(page, 0.6)
    for found, picture in zip((seen["first"], seen["second"]), PICTURES.values()):
        wanted = expected(own, picture)
        assert 3 <= len(wanted) <= 100
        check_boxes(found, wanted, own)
    assert seen["both"] == [seen["second"], seen["second"]] and "of the first's" in seen["caption"]
    hidden = own.names[0]
    assert seen["fewer"] == [row for row in seen["second"] if row[0] != hidden] != seen["second"]
    assert seen["cut"].startswith("cut.onnx cannot be compared: it is cut off")
    assert seen["broken"].startswith("broken.jpg cannot be shown as a picture")
    assert seen["title"] == "a #1 <b>: custom" and seen["name"].startswith("a #1 <b>.onnx, ")
    assert (report["isolated"], "thread" in report["status"]) == (isolated, True)
    assert report["window"] == width and max(seen["wide"], report["page"]) <= width
    assert seen["refused"] == "refused" and report["violations"] == ["http://127.0.0.2:1/"]
    others = {address for address in report["asked"] if not address.startswith(report["address"])}
    assert others <= set(report["violations"])
    check_drawing(*seen["drawn"], next(iter(PICTURES.values())), own)


def check_drawing(address: str, rows: list[list[str]], picture: Path, own: Detector) -> None:
    """What the page drew of its boxes is what `annotate` draws of them, but for the letters' font."""
    content = np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8)
    drawn, plain = cv2.imdecode(content, cv2.IMREAD_COLOR), read_picture(str(picture))
    number = {name: kind for kind, name in own.names.items()}
    detections = np.array([[*map(float, row[2:]), float(row[1]), number[row[0]]] for row in rows], np.float32)
    wanted = annotate(plain.copy(), detections, own.names)

    def differ(one: np.ndarray, other: np.ndarray) -> float:
        return float((np.abs(one.astype(int) - other).max(axis=2) > 40).mean())

    print(differ(drawn, wanted), differ(plain, wanted))
    assert drawn.shape == wanted.shape
    assert differ(drawn, wanted) < differ(plain, wanted) / 4
