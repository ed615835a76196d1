"""Faults that the scan of the labels has met: a kind of finding for each kind of fault."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from curation.findings.finding import LISTED, Example, Found, Grade, Kind
from curation.survey import Survey
from utils.data.labels import SEPARATION
from utils.data.report import ACTIONS, MEANT

DROPPED = "row dropped"
# nothing is lost by them, or whoever made the labels has said so
HARMLESS = ("slightly out of bounds", "duplicate row", *MEANT)
# kind of fault -> what to do about it
CURES = {
    "missing image": "put the picture where the list says, or take the line out",
    "unreadable image": "open it in a viewer; save it anew or take it out",
    "truncated image": "copy it again from its source",
    "image too small": "take it out, or use the original",
    "unreadable label file": "make it readable, or write it anew",
    "label without image": "bring the picture back, or remove the label file; look for a name that changed",
    "wrong encoding": "save the file as UTF-8",
    "wrong column count": "a row is `class xc yc w h`; leave confidences and names out",
    "not a number": "a row is five numbers; a class is its number, not its name",
    "not finite": "write the box anew",
    "class not an integer": "a row begins with the class; are its columns in another order?",
    "class out of range": "count classes from 0, and give each a name in the data yaml",
    "no area": "remove the box, or draw it anew",
    "degenerate polygon": "remove the polygon, or draw it anew",
    "out of bounds": "write fractions of the picture's sides, centre first: `xc yc w h` from 0 to 1",
    "slightly out of bounds": "nothing, or let the tool clip boxes to the picture",
    "duplicate row": "remove the second row",
    "unknown class": "give it a name in the data yaml, or take its boxes out",
    "broken annotation": "write it anew; what is wrong stands beside the place",
    "picture of another shape": "take the labels of this very picture, not of one that was resized",
    "picture twice": "name each picture once",
    "crowd": "nothing: a crowd has no box of one object",
    "difficult": "nothing, or take the mark away from what should be found",
    "other shape": "draw a box, or nothing where none is meant",
}


def fault_kinds() -> tuple[Kind, ...]:
    """A kind for each that the scan knows."""
    return tuple(_kind(fault, action) for fault, action in ACTIONS.items())


def nothing_to_learn(survey: Survey) -> Found:
    """Splits whose labels teach nothing, or the wrong thing."""
    reasons = {split: index.report.nothing_to_learn for split, index in survey.indices.items()}
    examples = [Example("", split, detail=why, drawn=False) for split, why in reasons.items() if why]
    return Found(len(examples), examples, "; ".join(f"{one.split}: {one.detail}" for one in examples))


def _cure_of_separators(details: Sequence[str]) -> str:
    """What to do where most rows have something else than blanks between their numbers; else nothing."""
    cures = Counter(found[0] for detail in details if (found := SEPARATION.search(detail)))
    cure, count = cures.most_common(1)[0] if cures else ("", 0)
    return f"rows are {cure}" if count > len(details) / 2 else ""


def _kind(fault: str, action: str) -> Kind:
    def find(survey: Survey) -> Found:
        faults = [
            (split, one)
            for split, index in survey.indices.items()
            for one in index.report.faults
            if one.kind == fault
        ]
        examples = [
            Example(one.place, split, detail=one.detail, drawn=False) for split, one in faults[:LISTED]
        ]
        return Found(len(faults), examples, cure=_cure_of_separators([one.detail for _, one in faults]))

    lost = "left out" in action or action == DROPPED
    grade: Grade = "note" if fault in HARMLESS else "error" if lost else "warning"
    meaning = f"The scan of the labels met this; what it did: {action}."
    key = "fault-" + fault.replace(" ", "-")
    cure = CURES.get(fault, "look at the places below")
    return Kind(key, f"label fault: {fault}", grade, meaning, cure, find)
