"""--include web in headless Chromium, with ONNX Runtime Web: boxes as detect.py's, and the page."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from models.detector import Detector, prepare
from models.exporting import web
from models.runtimes.opening import load_backend
from tests.layouts import small
from tests.models.exporting.browser import BROWSER, CAMERA, visit
from tests.models.exporting.command import call
from tests.models.exporting.weights import spread, write_weights
from utils.data.sources import read_picture
from utils.detections.annotate import Style, annotate
from utils.files import ROOT
from utils.nms import non_max_suppression

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


def test_the_rules(page: Path) -> None:
    """Letterbox and suppression alone, on numbers that leave no doubt: the same values, the same boxes."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (75, 50, 3), dtype=np.uint8)
    pixels = cv2.cvtColor(picture, cv2.COLOR_BGR2RGBA).flatten().tolist()
    rows = (rng.random((400, 5 + 3)) * ([100, 100, 60, 60] + [1] * 4)).astype(np.float32)
    script = f"""
    const {{ letterbox, suppress }} = await import("/rules.js");
    const image = new ImageData(Uint8ClampedArray.from({pixels}), 50, 75);
    const planes = [1, 3].map((channels) => [...letterbox(image, {{ width: 96, height: 64, channels }})]);
    const options = {{ confidence: 0.3, overlap: 0.45, most: 50, wanted: (kind) => kind !== 1 }};
    const kept = suppress(Float32Array.from({rows.flatten().tolist()}), 3, options);
    return {{ planes, kept: kept.map(({{ box, score, kind }}) => [...box, score, kind]) }};
    """
    seen = visit(page, script)["seen"]
    for channels, planes in zip((1, 3), seen["planes"]):
        wanted = prepare([picture], (64, 96), stride=1, exact=True, channels=channels).images[0].numpy()
        apart = np.abs(np.array(planes).reshape(wanted.shape) * 255 - wanted)
        assert apart.max() < 1.01 and (apart < 0.01).mean() > 0.95
    (kept,) = non_max_suppression(torch.from_numpy(rows)[None], 0.3, 0.45, classes=[0, 2], max_det=50)
    assert len(kept) == 50
    np.testing.assert_allclose(np.array(seen["kept"]), kept.numpy(), atol=1e-4)


@pytest.mark.parametrize(("width", "isolated"), [(1280, False), (390, True)])
def test_pictures(page: Path, tmp_path: Path, width: int, isolated: bool) -> None:
    (tmp_path / "broken.jpg").write_bytes(next(iter(PICTURES.values())).read_bytes()[:30])
    (tmp_path / "cut.onnx").write_bytes(web.network_of(page).read_bytes()[:5000])
    given = {**PICTURES, "other.onnx": web.network_of(page)}
    given |= {name: tmp_path / name for name in ("broken.jpg", "cut.onnx")}
    script = f"""
    await ready();
    move("confidence", 0.6);
    move("overlap", 1); // rounding decides which of this network's boxes hides another
    await give("files", {json.dumps(list(PICTURES))});
    await calm();
    const [first] = boxes();
    move("confidence", first[2][1] - 0.01);
    move("overlap", 0.45);
    const drawn = [document.querySelector("#stage canvas").toDataURL(), boxes()[0]];
    move("confidence", 0.6);
    move("overlap", 1);
    $("next").click();
    await calm();
    const [second] = boxes();
    await give("other", ["other.onnx"]);
    await until(() => boxes().length === 2 && boxes()[1].length);
    const both = boxes(), caption = document.querySelectorAll(".times")[1].textContent;
    document.body.style.width = "{width}px"; // of the window, which has a least width in some versions
    $("classes").parentElement.open = document.querySelector("#stage details").open = true;
    const wide = document.body.scrollWidth;
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
    own.iou = 1.0
    for found, picture in zip((seen["first"], seen["second"]), PICTURES.values()):
        wanted = expected(own, picture)
        assert len(wanted) >= 3
        check_boxes(found, wanted, own)
    assert seen["both"] == [seen["second"], seen["second"]] and "of the first's" in seen["caption"]
    hidden = own.names[0]
    assert seen["fewer"] == [row for row in seen["second"] if row[0] != hidden] != seen["second"]
    assert seen["cut"].startswith("cut.onnx cannot be compared: it is cut off")
    assert seen["broken"].startswith("broken.jpg cannot be shown as a picture")
    assert seen["title"] == "a #1 <b>: custom" and seen["name"].startswith("a #1 <b>.onnx, ")
    assert (report["isolated"], "thread" in report["status"]) == (isolated, True)
    assert seen["wide"] <= width and report["page"] <= report["window"]
    assert seen["refused"] == "refused" and report["violations"] == ["http://127.0.0.2:1/"]
    others = {address for address in report["asked"] if not address.startswith(report["address"])}
    assert others <= set(report["violations"])
    check_drawing(*seen["drawn"], next(iter(PICTURES.values())), own)


@pytest.mark.slow
def test_without_a_graphics_card_the_processor_goes_on(page: Path) -> None:
    """WebGPU's files load; as there is no adapter here, the networks are opened anew on the processor."""
    script = """
    await ready();
    $("engine").value = "gpu";
    $("engine").dispatchEvent(new Event("change"));
    const told = await complaint();
    await ready();
    return [told, $("engine").value];
    """
    report = visit(page, script, isolated=True)
    told, engine = report["seen"]
    assert told.startswith("The graphics card does not run it (") and engine == "cpu"
    assert "on the processor" in report["status"]
    assert any(address.endswith(f"{web.GPU}.wasm") for address in report["asked"])


def check_drawing(address: str, rows: list[list[str]], picture: Path, own: Detector) -> None:
    """The frames that `annotate` draws are there, but where labels hide them, and the rest of the picture."""
    content = np.frombuffer(base64.b64decode(address.split(",")[1]), np.uint8)
    drawn, plain = cv2.imdecode(content, cv2.IMREAD_COLOR), read_picture(str(picture))
    number = {name: kind for kind, name in own.names.items()}
    detections = np.array([[*map(float, row[2:]), float(row[1]), number[row[0]]] for row in rows], np.float32)
    bare = annotate(plain.copy(), detections, own.names, Style(labels=False))
    wanted = annotate(plain.copy(), detections, own.names)
    framed, labelled = (bare != plain).any(axis=2), (wanted != bare).any(axis=2)
    assert drawn.shape == plain.shape and framed.any() and labelled.any()
    around = cv2.dilate(labelled.astype(np.uint8), np.ones((1, 41), np.uint8)) > 0  # letters differ in width
    same = np.abs(drawn.astype(int) - bare).max(axis=2) <= 4  # two decoders of JPEG
    assert same[framed & ~around].all() and same[~framed & ~around].mean() > 0.999
    assert (drawn != bare).any(axis=2)[labelled].mean() > 0.6


@pytest.mark.slow
def test_photographs_as_detect_sees_them(shared: Path, tmp_path: Path) -> None:
    """The official yolov5n at 640 px."""
    shutil.copyfile(shared / "weights" / "yolov5n-v6.0.pt", tmp_path / "n.pt")
    call(tmp_path / "n.pt", "--include", "web", "--web-runtime", str(PACKAGE))
    folder, pictures = tmp_path / "n_web", [shared / "data" / name for name in ("bus.jpg", "zidane.jpg")]
    pictures += sorted((shared / "data" / "scenes").rglob("*.jpg"))[:4]
    given = {file.name: file for file in [*pictures, *PICTURES.values()]}
    script = f"""
    await ready();
    const names = {json.dumps(list(given))}, all = [];
    await give("files", names);
    for (const name of names) {{
      await calm();
      all.push(boxes()[0]);
      $("next").click();
    }}
    return all;
    """
    seen, own = visit(folder, script, given, isolated=True)["seen"], detector(folder)
    for found, picture in zip(seen, given.values(), strict=True):
        wanted = expected(own, picture)
        assert abs(len(found) - len(wanted)) <= 1
        check_boxes(found, wanted, own)
    assert sum(map(len, seen)) > 8


@pytest.mark.slow
def test_videos_the_camera_and_the_clock(page: Path, tmp_path: Path) -> None:
    video, picture = tmp_path / "clip.webm", read_picture(str(next(iter(PICTURES.values()))))
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"VP80"), 10, picture.shape[1::-1])
    if not writer.isOpened():
        pytest.skip("OpenCV cannot write WebM here")
    for shift in range(20):
        writer.write(np.roll(picture, 4 * shift, axis=1))
    writer.release()
    (tmp_path / "broken.webm").write_bytes(video.read_bytes()[:200])
    script = """
    await ready();
    move("confidence", 0.5);
    const seen = [], frames = async (wanted) => {
      const views = new Set();
      await until(() => views.add(document.querySelector("canvas").toDataURL()).size > wanted);
      return boxes()[0].length;
    };
    await give("files", ["clip.webm"]);
    seen.push(await frames(4), document.querySelector("#stage canvas").width);
    $("camera").click();
    await until(() => $("camera").textContent === "Stop camera");
    seen.push(await frames(4));
    $("camera").click();
    seen.push($("camera").textContent, $("video").hidden);
    $("measure").click();
    await until(() => $("status").textContent.startsWith("Measuring"));
    await ready();
    await give("files", ["broken.webm"]);
    seen.push(await complaint());
    return seen;
    """
    given = {file.name: file for file in (video, tmp_path / "broken.webm")}
    log = tmp_path / "net.json"
    report = visit(page, script, given, flags=(*CAMERA, f"--log-net-log={log}"))
    found, width, filmed, button, hidden, complaint = report["seen"]
    assert min(found, filmed) > 0 and width == picture.shape[1]
    assert (button, hidden) == ("Camera", True)
    assert complaint.startswith("broken.webm cannot be played") and report["violations"] == []
    own = report["address"].rstrip("/")  # workers' requests are in the browser's log only
    asked = [line for line in log.read_text(encoding="utf-8").splitlines() if f'"initiator":"{own}"' in line]
    assert any("ort-wasm-simd-threaded.wasm" in line for line in asked)
    assert [line for line in asked if '"url":"' in line and f'"url":"{own}/' not in line] == []
