"""dataset.py check as a user runs it: the page, the numbers, the status, and the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dataset
from curation.survey import open_splits
from tests.curation.planted import PLANTS, Made, blobs, jpeg
from tests.detectors import content_of, detector
from utils.checkpoints.files import write_checkpoint
from utils.errors import UserError
from utils.files import ROOT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FAULTS = ("copies-across", "absent-in-val", "doubled", "huge", "fault-class-out-of-range", "unlabelled")
# sorts the second table by its last column, and tells what became of the page in the title
PROBE = """<script>
const table = document.querySelectorAll("table")[1];
table.closest("details").open = true;
const heads = table.querySelectorAll("th button");
heads[heads.length - 1].click();
const names = [...table.tBodies[0].rows].map(row => row.cells[0].textContent).join();
const fits = document.documentElement.scrollWidth <= innerWidth;
const images = [...document.images];
for (const image of images) image.loading = "eager";
const nameless = images.filter(image => !image.alt).length;
const broken = [...document.querySelectorAll(".summary a")].filter(
  link => !document.getElementById(link.hash.slice(1))).length;
document.title = [names, fits, nameless, broken, images.length].join("|");
</script>"""


def check(data: Path, folder: Path, *flags: str) -> dict[str, Any]:
    """The JSON of a check whose run folder is `folder`."""
    dataset.main(
        ["check", "--data", str(data), "--project", str(folder.parent), "--name", folder.name, *flags]
    )
    return json.loads((folder / "check.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data yaml with some faults, and names that would break a page."""
    made = Made.sound()
    for key in FAULTS:
        PLANTS[key][0](made)
    made.names = ["<b>cat", "dog & 'co'", "owl"]
    made.rows["train/1"] = [*(made.rows["train/1"] or []), "7 0.5 0.5 0.2 0.2"]
    return made.write(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def checked(faulty: Path) -> tuple[dict[str, Any], str]:
    """JSON and page."""
    record = check(faulty, faulty.parent / "run")
    return record, (faulty.parent / "run" / "check.html").read_text(encoding="utf-8")


def test_json_and_page_have_the_same_numbers(checked: tuple[dict[str, Any], str]) -> None:
    record, page = checked
    assert set(FAULTS) <= {finding["key"] for finding in record["findings"]}
    told = re.findall(r'<section class="finding (\w+)" id="([\w-]+)" data-count="(\d+)"', page)
    assert told == [(one["grade"], one["key"], str(one["count"])) for one in record["findings"]]
    for grade in ("error", "warning", "note"):
        count = sum(finding["grade"] == grade for finding in record["findings"])
        assert f'data-grade="{grade}">{count}<' in page
    rows = re.findall(r'<tr><td class="name" data-value="(\w+)">.*?</tr>', page, re.S)
    assert rows[:2] == ["train", "val"]
    for split, counts in record["splits"].items():
        (row,) = re.findall(rf'<tr><td class="name" data-value="{split}">(.*?)</tr>', page, re.S)
        values = re.findall(r'data-value="([\d.]+)"', row)
        assert values[:3] == [str(counts[key]) for key in ("pictures", "backgrounds", "boxes")]
    assert record["pictures"] == 16 and record["anchors"]["best possible recall"] == 1.0


def test_the_page_needs_nothing_else(checked: tuple[dict[str, Any], str]) -> None:
    _, page = checked
    assert "<b>cat" not in page and "&lt;b&gt;cat" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    assert page.count("data:image/jpeg;base64,") == 5  # a pair, and three
    assert str(ROOT) not in page


def test_counts_of_classes(checked: tuple[dict[str, Any], str]) -> None:
    record, _ = checked
    # 12 x 2 + a doubled and a huge box in train; 4 pictures of val, one of them without labels
    assert record["classes"][0] == {
        "class": 0, "name": "<b>cat", "boxes": {"train": 26, "val": 6}, "pictures": 15
    }  # fmt: skip


def test_console_and_status(faulty: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "dataset.py"),
        "check",
        "--data",
        str(faulty),
        "--project",
        str(tmp_path),
    ]
    ended = subprocess.run([*command, "--strict"], capture_output=True, encoding="utf-8", timeout=120)
    assert ended.returncode == 1
    record = json.loads((tmp_path / "exp" / "check.json").read_text(encoding="utf-8"))
    lines = ended.stdout.splitlines()
    told = [line.split()[:2] for line in lines if line.startswith(("error", "warning", "note"))]
    assert told == [[finding["grade"], str(finding["count"])] for finding in record["findings"]]
    assert re.search(r"16 pictures and \d+ boxes of planted\.yaml: \d+ findings, .*check\.html", lines[-1])
    errors = sum(grade == "error" for grade, _ in told)
    assert ended.stderr == (f"error: {errors} of {len(told)} findings are errors, fatal with --strict\n")


def test_warnings_pass_strict(tmp_path: Path) -> None:
    made = Made.sound()
    PLANTS["doubled"][0](made)
    record = check(made.write(tmp_path), tmp_path / "run", "--strict")
    assert [finding["grade"] for finding in record["findings"]] == ["warning"]


def test_a_sound_data_set(tmp_path: Path) -> None:
    record = check(Made.sound().write(tmp_path), tmp_path / "run", "--strict", "--cfg", "yolov5n")
    assert record["findings"] == []
    assert "Nothing was found." in (tmp_path / "run" / "check.html").read_text(encoding="utf-8")


def test_no_box_at_all(tmp_path: Path) -> None:
    made = Made.sound()
    made.rows = {place: [] for place in made.rows}
    made.names = ["a $b", "ß"]
    record = check(made.write(tmp_path), tmp_path / "run")
    assert record["boxes"] == 0 and record["splits"]["val"]["backgrounds"] == 4
    assert {finding["key"]: finding["count"] for finding in record["findings"]} == {
        "nothing-to-learn": 2, "without-labels": 2
    }  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text are Linux's")
def test_names_of_files_that_are_no_text(tmp_path: Path) -> None:
    made = Made.sound()
    place = "train/b\udce4r"
    made.files[place], made.rows[place] = jpeg(blobs(99)), ["0 0.5 0.5 1 1"]
    record = check(made.write(tmp_path), tmp_path / "run")
    assert record["findings"][0]["examples"][0]["path"].endswith("b\udce4r.jpg")
    assert "train/b?r.jpg" in (tmp_path / "run" / "check.html").read_text(encoding="utf-8")


def test_json_elsewhere(faulty: Path, tmp_path: Path) -> None:
    target = tmp_path / "made" / "all.json"
    for _ in range(2):  # its own file is replaced
        check(faulty, tmp_path / "exp", "--json", str(target), "--exist-ok")
    assert target.read_bytes() == (tmp_path / "exp" / "check.json").read_bytes()
    foreign = tmp_path / "mine.json"
    foreign.write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(UserError, match=r"--json: .*mine\.json was not written by this command"):
        check(faulty, tmp_path / "exp", "--json", str(foreign), "--exist-ok")
    assert foreign.read_text(encoding="utf-8") == '{"mine": 1}'


def test_without_imagehash(faulty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    record = check(faulty, tmp_path / "run")
    assert record["not looked for"]["alike-across"] == "pip install imagehash"
    assert "copies-across" in {finding["key"] for finding in record["findings"]}
    assert "pip install imagehash" in (tmp_path / "run" / "check.html").read_text(encoding="utf-8")


def test_with_weights(faulty: Path, tmp_path: Path) -> None:
    """An untrained network that is sure of something in many places: there is no label at most of them."""
    write_checkpoint(tmp_path / "net.pt", content_of(detector("<b>cat", "dog & 'co'", "owl")))
    record = check(faulty, tmp_path / "run", "--weights", str(tmp_path / "net.pt"), "--imgsz", "128")
    assert record["network"] == "net.pt (PyTorch, cpu)"
    keys = {finding["key"]: finding for finding in record["findings"]}
    looked = {*keys, *record["without findings"]}
    assert {"likely-swapped", "likely-overlooked", "likely-misplaced", "likely-spurious"} <= looked
    assert not set(record["not looked for"]) & looked
    assert keys["likely-overlooked"]["count"] > 0
    example = keys["likely-overlooked"]["examples"][0]
    assert len(example["box"]) == 4 and example["detail"].endswith("not labelled")
    assert record["imgsz"] == 128


def test_weights_of_other_classes(faulty: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "net.pt", content_of(detector("a", "b")))
    with pytest.raises(UserError, match=r"the weights know 2 classes and .*planted\.yaml has 3"):
        check(faulty, tmp_path / "run", "--weights", str(tmp_path / "net.pt"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data", "nothing.yaml"), "file 'nothing.yaml' not found"),
        (("--cfg", "yolov5q"), "yolov5q"),
        (("--weights", "nothing.pt"), "nothing.pt"),
    ],
)
def test_bad_flags_are_one_line(faulty: Path, tmp_path: Path, flags: tuple[str, str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check(faulty, tmp_path / "run", *flags)
    assert not (tmp_path / "run").exists()


def test_a_split_without_pictures_is_named(tmp_path: Path) -> None:
    made = Made.sound()
    made.splits["val"] = "images/none"
    with pytest.raises(UserError, match=r"val: no such file or folder"):
        check(made.write(tmp_path), tmp_path / "run")


def test_test_may_point_to_nothing(tmp_path: Path) -> None:
    made = Made.sound()
    made.splits["test"] = "images/none"
    assert list(open_splits(str(made.write(tmp_path)))[1]) == ["train", "val"]


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(checked: tuple[dict[str, Any], str], tmp_path: Path, width: int) -> None:
    record, page = checked
    probed = tmp_path / "probed.html"
    probed.write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    command += [f"--window-size={width},900", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    ended = subprocess.run(
        [*command, probed.as_uri()], capture_output=True, encoding="utf-8", timeout=120, check=True
    )
    assert "CONSOLE" not in ended.stderr  # where the browser tells of errors in scripts
    found = re.search(r"<title>(.*)</title>", ended.stdout)
    assert found
    names, fits, nameless, broken, images = found[1].split("|")
    pictures = {row["name"]: row["pictures"] for row in record["classes"]}
    expected = sorted(pictures, key=lambda name: pictures[name])
    assert names.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").split(",") == expected
    assert (fits, nameless, broken) == ("true", "0", "0") and int(images) == 5
