"""Beginners' mistakes in YOLO label files, told from their rows: what they are, and what cures them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from utils.data.labels import MOST_BYTES, ROUNDING, is_number, wrongly_separated
from utils.data.report import SUSPICIOUS, counted
from utils.errors import UserError
from utils.reading import read_bytes

MOST_FILES, MOST_ROWS = 200, 5000  # that are looked at
FEWEST_ROWS = 5  # that tell corners from centres
PIXELS = 2.0  # a coordinate above this is no fraction of a picture, also not of one that is cut off
FORM = "a row is `class xc yc w h`, the centre and the size as fractions of the picture"


def explain_slip(files: Sequence[str], names: Mapping[int, str]) -> str:
    """Why many rows of label files are faulty; empty when it is nothing that is known."""
    rows = list(itertools.islice(_rows(files), MOST_ROWS))
    boxes = [row for row in rows if len(row) == 5]
    return _separated(rows) or _named(rows, names) or _class_last(boxes) or _placed(boxes)


def _rows(files: Sequence[str]) -> Iterator[list[str]]:
    """The fields of the rows of some of the files."""
    there = 0
    for file in files:
        try:
            content = read_bytes(file, MOST_BYTES).decode("utf-8-sig", "replace")
        except (OSError, UserError):
            continue
        yield from (line.split() for line in content.splitlines() if line.strip())
        there += 1
        if there == MOST_FILES:
            return


def _separated(rows: Sequence[list[str]]) -> str:
    """Rows with something else than blanks between their numbers."""
    cures = Counter(filter(None, map(wrongly_separated, rows)))
    cure, count = cures.most_common(1)[0] if cures else ("", 0)
    return f"rows are {cure}" if count > SUSPICIOUS * len(rows) else ""


def _class_last(rows: Sequence[list[str]]) -> str:
    """Rows whose first number is no class and whose last number is one."""
    values = [[float(value) for value in row] for row in rows if all(map(is_number, row))]
    turned = [row for row in values if not row[0].is_integer() and row[4].is_integer() and row[4] >= 0]
    if len(turned) <= len(rows) / 2 or not all(row[4].is_integer() for row in values):
        return ""
    return "the class seems to stand last; it comes first: class xc yc w h"


def _named(rows: Sequence[list[str]], names: Mapping[int, str]) -> str:
    """Rows that begin with the name of a class where its number belongs."""
    numbers = {name.lower(): number for number, name in names.items()}
    begins = [fields[0] for fields in rows if not is_number(fields[0])]
    known = [word for word in begins if word.lower() in numbers]
    if len(begins) <= SUSPICIOUS * len(rows) or not known:
        return ""
    word = known[0]
    number = numbers[word.lower()]
    return f"rows begin with class names where numbers belong: write {number} for '{word}', as in 'names'"


def _placed(rows: Sequence[list[str]]) -> str:
    """Rows of five numbers whose coordinates are pixels, or corners."""
    boxes = [[float(value) for value in row[1:]] for row in rows if all(map(is_number, row))]
    if not boxes:
        return ""
    large = sum(max(box) > PIXELS for box in boxes)
    ascending = all(x2 > x1 and y2 > y1 for x1, y1, x2, y2 in boxes)
    corners = "corners" if ascending else "centres and sizes"
    if large > len(boxes) / 2:
        cure = "divide x and w by the width, y and h by the height"
        cure = f"first xc = (x1 + x2) / 2, w = x2 - x1, …; then {cure}" if ascending else cure
        return f"{large} of {counted(len(boxes), 'row')} seem to be {corners} in pixels; {FORM}: {cure}"
    edge = 1 + ROUNDING
    beyond = sum(x + w / 2 > edge or y + h / 2 > edge for x, y, w, h in boxes)
    if ascending and beyond > SUSPICIOUS * len(boxes) and len(boxes) >= FEWEST_ROWS:
        cure = "xc = (x1 + x2) / 2, yc = (y1 + y2) / 2, w = x2 - x1, h = y2 - y1"
        sign = f"{beyond} of {len(boxes)} would leave the picture"
        return f"rows seem to be corners x1 y1 x2 y2, since {sign}; {FORM}: {cure}"
    return ""
