"""The form of a finding: how grave it is, how often it occurs, what it means, and where to look."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from curation.survey import Survey
from utils.console import printable

Grade: TypeAlias = Literal["error", "warning", "note"]
GRADES: tuple[Grade, ...] = ("error", "warning", "note")  # most serious first
MEANINGS: dict[Grade, str] = {
    "error": "what is learnt or measured is wrong until it is mended",
    "warning": "probably a fault, and worth a look",
    "note": "may well be as it should be",
}
LISTED = 2000  # examples that a finding names; the count is always the whole


@dataclass(frozen=True)
class Example:
    """One place where something was found.

    Attributes:
        path: of the picture or the file.
        box: x1, y1, x2, y2 in pixels of the upright picture; None: the whole picture.
        name: class of the box.
        detail: what is special about this one.
        other: a picture that this one is compared with.
        seen: x1, y1, x2, y2 of what a network sees there.
        drawn: whether `path` is a picture that can be shown.
    """

    path: str
    split: str = ""
    box: tuple[float, float, float, float] | None = None
    name: str = ""
    detail: str = ""
    other: str = ""
    seen: tuple[float, float, float, float] | None = None
    drawn: bool = True


@dataclass(frozen=True)
class Found:
    """What a kind's function returns.

    Attributes:
        count: how often, of `unit`.
        examples: at most `LISTED`, the worst first.
        said: a sentence that says what was found in this data set.
        grade: where it is not the kind's own.
        cure: the same.
    """

    count: int = 0
    examples: list[Example] = field(default_factory=list)
    said: str = ""
    grade: Grade | None = None
    cure: str = ""


@dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
        key: its name in files, which does not change.
        title: a heading; what is counted is its subject.
        grade: unless a `Found` says another one.
        meaning: one line, what it means.
        cure: one line, what to do.
        find: looks for it.
        needs: what has to be there to look: "looks" are perceptual hashes, "network" is `--weights`.
    """

    key: str
    title: str
    grade: Grade
    meaning: str
    cure: str
    find: Callable[[Survey], Found]
    needs: Literal["", "looks", "network"] = ""


@dataclass(frozen=True)
class Finding:
    """A kind that was found."""

    key: str
    title: str
    grade: Grade
    count: int
    said: str
    meaning: str
    cure: str
    examples: list[Example]

    def line(self) -> str:
        """For the console."""
        said = f": {self.said}" if self.said else ""
        where = f" ({self.examples[0].path})" if self.examples and self.examples[0].path else ""
        return printable(f"{self.grade:<8}{self.count:>7}  {self.title}{said}{where}; {self.cure}")

    def record(self) -> dict[str, Any]:
        """For a JSON file."""
        examples = []
        for one in self.examples:
            values = {name: value for name, value in vars(one).items() if value and name != "drawn"}
            for key, box in (("box", one.box), ("seen", one.seen)):
                if box:
                    values[key] = [round(edge, 2) for edge in box]
            examples.append(values)
        return {**vars(self), "examples": examples}


def survey_findings(survey: Survey, kinds: tuple[Kind, ...]) -> tuple[list[Finding], list[Kind], list[Kind]]:
    """Look for every kind.

    Returns:
        What was found, most serious first; kinds that were looked for in vain; kinds that could not be looked
        for.
    """
    found, sound, skipped = [], [], []
    for kind in kinds:
        if kind.needs and getattr(survey, kind.needs) is None:
            skipped.append(kind)
            continue
        outcome = kind.find(survey)
        if not outcome.count:
            sound.append(kind)
            continue
        found.append(
            Finding(
                key=kind.key,
                title=kind.title,
                grade=outcome.grade or kind.grade,
                count=outcome.count,
                said=outcome.said,
                meaning=kind.meaning,
                cure=outcome.cure or kind.cure,
                examples=outcome.examples,
            )
        )
    return sorted(found, key=lambda finding: GRADES.index(finding.grade)), sound, skipped
