"""Every kind of finding: planted, it is found; in a sound data set nothing is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from curation.disagreement import Disagreement, Suspect
from curation.findings.boxes import nearest_anchor, on_top, recall_of
from curation.findings.finding import Finding, survey_findings
from curation.findings.kinds import KINDS
from curation.findings.labels import CURES
from curation.fingerprints import fingerprints, hasher
from curation.survey import Geometry, Survey, open_splits
from tests.curation.planted import PLANTS, ROWS, Made
from utils.boxes import box_iou
from utils.data.report import ACTIONS, Fault
from utils.files import ROOT

NETWORK = ("likely-swapped", "likely-overlooked", "likely-misplaced", "likely-spurious")
LOOKS = tuple(kind.key for kind in KINDS if kind.needs == "looks")


@pytest.fixture(scope="session")
def geometry() -> Geometry:
    return Geometry.of_cfg("yolov5n.yaml")


def surveyed(data: Path, geometry: Geometry) -> Survey:
    survey = Survey(*open_splits(str(data)), 640, geometry)
    survey.prints = fingerprints([survey.path(number) for number in range(len(survey))], hasher())
    return survey


def found(survey: Survey) -> dict[str, Finding]:
    return {finding.key: finding for finding in survey_findings(survey, KINDS)[0]}


def test_a_sound_data_set_has_none(tmp_path: Path, geometry: Geometry) -> None:
    survey = surveyed(Made.sound().write(tmp_path), geometry)
    findings, sound, skipped = survey_findings(survey, KINDS)
    assert findings == []
    assert {kind.key for kind in skipped} - set(LOOKS) == set(NETWORK)
    assert len(sound) + len(skipped) == len(KINDS)


def test_every_kind_is_planted() -> None:
    """A new kind has to be added to `PLANTS`; those of faults that the scan knows are also tested below."""
    keys = [kind.key for kind in KINDS]
    assert len(set(keys)) == len(keys)
    assert {key for key in keys if not key.startswith("fault-")} == {
        *(key for key in PLANTS if not key.startswith("fault-")),
        *NETWORK,
    }


def test_the_documentation_tells_of_every_kind() -> None:
    page = (ROOT / "docs" / "dataset-check.md").read_text(encoding="utf-8")
    for kind in KINDS:
        if not kind.key.startswith("fault-"):
            assert f"| {kind.title} (`{kind.key}`) | {kind.grade} | {kind.meaning} | {kind.cure} |" in page


@pytest.mark.parametrize("key", PLANTS)
def test_a_planted_fault_is_found(key: str, tmp_path: Path, geometry: Geometry) -> None:
    if key in LOOKS:
        pytest.importorskip("imagehash")
    plant, count = PLANTS[key]
    made = Made.sound()
    plant(made)
    findings = found(surveyed(made.write(tmp_path), geometry))
    assert key in findings, sorted(findings)
    assert findings[key].count == count
    assert findings[key].meaning.endswith(".") and not findings[key].cure.endswith(".")
    record = findings[key].record()
    assert len(record["examples"]) in (0, count, 2 * count) and "drawn" not in str(record)


@pytest.mark.parametrize(
    ("key", "path", "box", "detail"),
    [
        # 160 x 120 px: 0.2 * 160 = 32 wide around 32, 0.295 * 120 = 35.4 high around 36
        ("doubled", "train/0.jpg", (16, 18.3, 48, 53.7), "IoU 0.983 with another cat"),
        ("copies-across", "val/2.jpg", None, "the same bytes, the same labels, in train"),
        ("small", "train/0.jpg", (79.2, 59.4, 80.8, 60.6), "6.4 x 4.8 px at 640 px"),
        ("huge", "train/0.jpg", (0, 0, 160, 120), "the whole picture"),
        ("fault-class-out-of-range", "train/0.txt:5", None, "class 2, names has 0 to 1"),
        ("without-labels", "", None, "0 labels in train, 0 labels in val"),
    ],
)
def test_examples_say_where(
    key: str,
    path: str,
    box: tuple[float, ...] | None,
    detail: str,
    tmp_path: Path,
    geometry: Geometry,
) -> None:
    made = Made.sound()
    PLANTS[key][0](made)
    example = found(surveyed(made.write(tmp_path), geometry))[key].examples[0]
    assert example.path.replace("\\", "/").endswith(path) and example.detail == detail
    assert example.box == (None if box is None else pytest.approx(box, abs=1e-3))


@pytest.mark.parametrize("fault", ACTIONS)
def test_faults_of_the_scan_become_findings(fault: str, tmp_path: Path, geometry: Geometry) -> None:
    survey = surveyed(Made.sound().write(tmp_path), geometry)
    survey.indices["val"].report.faults.append(Fault(fault, 3, "so it is", "labels/val/7.txt"))
    (finding,) = found(survey).values()
    assert (finding.count, finding.examples[0].path) == (1, "labels/val/7.txt:3")
    assert finding.cure and (fault not in CURES or finding.cure == CURES[fault])
    assert fault in finding.line() and "labels/val/7.txt:3" in finding.line()


def test_commas_have_a_cure_of_their_own(tmp_path: Path, geometry: Geometry) -> None:
    made = Made.sound()
    made.rows = {place: [row.replace(" ", ",") for row in rows or []] for place, rows in made.rows.items()}
    findings = found(surveyed(made.write(tmp_path), geometry))
    cure = "rows are separated by commas; write blanks"
    assert findings["fault-wrong-column-count"].cure == cure
    assert findings["nothing-to-learn"].said == f"train: {cure}; val: {cure}"
    made.rows["train/0"] = ["0 0.5 0.5 0.2"] * 100
    mixed = found(surveyed(made.write(tmp_path), geometry))["fault-wrong-column-count"]
    assert mixed.cure == CURES["wrong column count"]


def test_disagreement_becomes_findings(tmp_path: Path, geometry: Geometry) -> None:
    survey = surveyed(Made.sound().write(tmp_path), geometry)
    survey.network = Disagreement("a network")
    box = (10.0, 10.0, 50.0, 40.0)
    survey.network.swapped.add(Suspect(0.8, 13, box, 0, 1, 0.8, 0.9))
    survey.network.overlooked.add(Suspect(0.7, 0, box, 1, 1, 0.7))
    survey.network.misplaced.add(Suspect(0.4, 1, box, 0, 0, 0.6, 0.3, (20.0, 20.0, 60.0, 50.0)))
    survey.network.unseen.add(Suspect(34.6, 2, box, 0))
    findings = found(survey)
    assert set(findings) == set(NETWORK)
    (swapped,) = findings["likely-swapped"].examples
    assert (swapped.name, swapped.split, swapped.detail) == ("cat", "val", "the network says dog, 0.80")
    (misplaced,) = findings["likely-misplaced"].record()["examples"]
    assert (misplaced["box"], misplaced["seen"]) == ([10, 10, 50, 40], [20, 20, 60, 50])
    assert findings["likely-overlooked"].examples[0].name == "dog"
    assert findings["likely-spurious"].examples[0].detail == "40 x 30 px, and nothing is seen there"


def test_most_serious_first(tmp_path: Path, geometry: Geometry) -> None:
    made = Made.sound()
    for key in ("huge", "doubled", "absent-in-train"):
        PLANTS[key][0](made)
    findings = survey_findings(surveyed(made.write(tmp_path), geometry), KINDS)[0]
    assert [(finding.key, finding.grade) for finding in findings] == [
        ("absent-in-train", "error"), ("doubled", "warning"), ("huge", "note")
    ]  # fmt: skip


def test_many_small_boxes_are_a_warning(tmp_path: Path, geometry: Geometry) -> None:
    made = Made.sound()
    for number in range(12):
        made.rows[f"train/{number}"] = [*ROWS, "0 0.5 0.5 0.01 0.01"]  # 12 of 76: 15.8 %
    finding = found(surveyed(made.write(tmp_path), geometry))["small"]
    assert finding.grade == "warning" and finding.said.startswith(
        "15.8 % of the boxes are smaller than 8 x 8"
    )


def test_copies_with_other_labels_are_told(tmp_path: Path, geometry: Geometry) -> None:
    made = Made.sound()
    PLANTS["copies-within"][0](made)
    made.rows["train/2"] = ROWS[1:]
    (example,) = found(surveyed(made.write(tmp_path), geometry))["copies-within"].examples
    assert example.detail == "the same bytes, other labels"
    assert Path(example.path).name == "2.jpg" and Path(example.other).name == "11.jpg"


def test_an_empty_label_file_says_that_nothing_is_there(tmp_path: Path, geometry: Geometry) -> None:
    made = Made.sound()
    made.rows["val/3"] = []
    assert found(surveyed(made.write(tmp_path), geometry)) == {}


def test_many_pictures_without_labels_are_a_warning(tmp_path: Path, geometry: Geometry) -> None:
    made = Made.sound()
    made.rows["val/3"] = made.rows["val/2"] = None  # 2 of 4
    assert found(surveyed(made.write(tmp_path), geometry))["unlabelled"].grade == "warning"


def test_boxes_on_top_are_those_of_all_pairs(tmp_path: Path, geometry: Geometry) -> None:
    """The sweep along x finds what comparing every box with every other does."""
    rng = np.random.default_rng(3)
    made = Made.sound()
    for place in ("train/0", "train/1"):
        centres = rng.choice([0.3, 0.31, 0.5, 0.51], (60, 2))
        sides = rng.choice([0.2, 0.21, 0.4], (60, 2))
        rows = np.unique(np.concatenate([centres, sides], axis=1), axis=0)
        made.rows[place] = [f"{n % 2} {' '.join(map(str, row))}" for n, row in enumerate(rows.tolist())]
    survey = surveyed(made.write(tmp_path), geometry)
    first, second, overlap = on_top(survey, 0.8)
    expected = {}
    for picture in range(len(survey)):
        boxes = np.flatnonzero(survey.picture_of == picture)
        iou = np.triu(box_iou(survey.xyxy[boxes], survey.xyxy[boxes]), 1)
        expected.update({(int(boxes[a]), int(boxes[b])): iou[a, b] for a, b in np.argwhere(iou > 0.8)})
    assert len(expected) > 50
    assert dict(zip(zip(first.tolist(), second.tolist()), overlap)) == pytest.approx(expected, abs=1e-5)


def test_anchors_by_hand(tmp_path: Path) -> None:
    # at 160 px the four boxes of a picture are 32 x 36, 40 x 36, 48 x 30 and 32 x 36 px
    geometry = Geometry(np.array([[[8.0, 9.0]], [[50.0, 36.0]]]), np.array([8.0, 16.0]))
    survey = Survey(*open_splits(str(Made.sound().write(tmp_path))), 160, geometry)
    ratio, level = nearest_anchor(survey)
    assert ratio[:4] == pytest.approx([50 / 32, 50 / 40, 36 / 30, 50 / 32], rel=1e-5)
    assert level.tolist() == [1] * 64 and recall_of(survey) == 1.0
    survey.geometry = Geometry(np.array([[[8.0, 36.0]]]), np.array([8.0]))
    # 32 / 8 is 4, which is no match any more; 40 / 8 and 48 / 8 are none either
    assert recall_of(survey) == 0.0
