"""The page of `dataset.py check`, and the same as JSON."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from benchmarks.pages import bare, render
from curation import plots
from curation.counts import record_of
from curation.findings.boxes import nearest_anchor, recall_of
from curation.findings.finding import GRADES, MEANINGS, Example, Finding, Kind
from curation.fingerprints import PIP
from curation.survey import Survey
from curation.thumbnails import thumbnails
from utils.console import printable
from utils.files import write_text
from utils.flags import CommandConfig, arguments
from utils.plots.canvas import svg_of

TEMPLATES = Path(__file__).with_name("templates")
TEMPLATE = "check.html.j2"
WRITER = {"written by": "dataset.py check"}
MARK = json.dumps(WRITER)[1:-1]
SHOWN = 8  # examples of a finding on the page
WHY = {"looks": f"pip install {PIP}", "network": "--weights names a trained network"}


@dataclass(frozen=True)
class Shown:
    """A finding with the thumbnails of its first examples."""

    finding: Finding
    examples: list[tuple[Example, list[str]]]


def write_findings(
    folder: Path,
    config: CommandConfig,
    survey: Survey,
    findings: Sequence[Finding],
    sound: Sequence[Kind],
    skipped: Sequence[Kind],
) -> Path:
    """Write check.json and check.html into a run's folder, and return the latter."""
    words = ("python", "dataset.py", "check", *map(printable, map(bare, arguments(config))))
    record = {
        **WRITER,
        "date": datetime.date.today().isoformat(),
        "command": list(words),
        "imgsz": survey.imgsz,
        "network": survey.network.title if survey.network else "",
        **record_of(survey),
        "anchors": {
            "best possible recall": round(recall_of(survey), 4),
            "strides": survey.geometry.strides.tolist(),
            "anchors": survey.geometry.anchors.round(1).tolist(),
        },
        "findings": [finding.record() for finding in findings],
        "without findings": [kind.key for kind in sound],
        "not looked for": {kind.key: WHY[kind.needs] for kind in skipped},
    }
    write_text(folder / "check.json", json.dumps(record, indent=1) + "\n")
    page = folder / "check.html"
    write_text(page, page_of(survey, record, findings, sound, skipped))
    return page


def page_of(
    survey: Survey,
    record: dict[str, Any],
    findings: Sequence[Finding],
    sound: Sequence[Kind],
    skipped: Sequence[Kind],
) -> str:
    """The page, which needs nothing but a browser."""
    first = [one for finding in findings for one in finding.examples[:SHOWN]]
    drawn = iter(thumbnails(first))
    shown = [Shown(finding, [(one, next(drawn)) for one in finding.examples[:SHOWN]]) for finding in findings]
    grades = {grade: sum(finding.grade == grade for finding in findings) for grade in GRADES}
    return render(
        TEMPLATE,
        TEMPLATES,
        record=record,
        title=printable(bare(str(survey.spec.file))),
        shown=shown,
        grades=grades,
        meanings=MEANINGS,
        sound=sound,
        skipped=[(kind, WHY[kind.needs]) for kind in skipped],
        plots=drawings(survey),
        near=near,
        printable=printable,
    )


def near(path: str) -> str:
    """The end of a path: file and folder, as a page shows it."""
    return printable("/".join(Path(path).parts[-2:]))


def drawings(survey: Survey) -> list[tuple[str, str, Markup]]:
    """Title, note and drawing."""
    if not len(survey.boxes):
        return []
    _, level = nearest_anchor(survey)
    finest = f"{survey.geometry.strides[0]:g}"
    recall = f"Best possible recall {recall_of(survey):.3f}."
    half = plots.NAMED // 2
    those = f", of the {half} most and the {half} least frequent" if survey.spec.nc > plots.NAMED else ""
    found = [
        ("Class balance", f"Boxes of each class in each split{those}.", plots.class_balance(survey)),
        (
            "Box sizes against the anchors",
            "Crosses: anchors. Dashed: a cell of each stride; what lies below "
            f"{finest} x {finest} px is smaller than any cell. {recall}",
            plots.box_sizes(survey),
        ),
        ("Boxes on each stride", "By the anchor that fits best.", plots.levels(survey, level)),
        ("Positions", "Centres of all boxes, in shares of the picture.", plots.positions(survey)),
    ]
    return [(title, note, Markup(svg_of(figure, title))) for title, note, figure in found]
