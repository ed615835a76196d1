"""Recount every published number: what a table, paper or tutorial says beside what comes out here.

    python benchmark.py ledger

`published.yaml` holds the claims: each number with its source and how it is recounted. This counts again,
prints claim, ours, verdict and reason, and compares them with `docs/ledger.md`, which shows what came out. It
ends with status 1 and the lines that differ when the page shows something else; `--update` writes it.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pages import check_page, console_table, mark_of, render
from benchmarks.recount import Subject, Value, recount
from utils.counting.conventions import CONVENTIONS
from utils.errors import UserError
from utils.files import ROOT, write_text
from utils.flags import CommandConfig, flag

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "%": 1}
CLOSE = 0.05  # relative distance up to which a number that does not match counts as close
NOT_CHECKED = "not checked"
VERDICTS = ("matches", "close", "differs", NOT_CHECKED)
MEASURED = ("mAP50-95", "mAP50", "accuracy")  # on data and with weights that are not here; quoted only
TITLES = ("claim", "quantity", "published", "ours", "off", "verdict")
ALIGN = "llrrrl"
TEMPLATE = "ledger.md.j2"
MARK = mark_of(TEMPLATE)


@dataclass(frozen=True)
class Config(CommandConfig):
    """Recount every published number; status 1 when docs/ledger.md shows others."""

    published: str = flag(str(ROOT / "published.yaml"), "the file of claims")
    page: str = flag(str(ROOT / "docs" / "ledger.md"), "the page that shows what came out; made when missing")
    update: bool = flag(False, "write the page anew")


@dataclass(frozen=True)
class Number:
    """One number of a claim.

    Attributes:
        published: as the source writes it, such as "7.2 M"; its last digit is its precision.
        convention: of operations, see docs/counting.md.
        found: what the recount gives; None when it cannot be recounted here.
    """

    quantity: str
    published: str
    convention: str = "conv"
    found: Value | None = None

    @property
    def verdict(self) -> str:
        """`matches` when ours rounds to the published digits, `close` within 5 % of it, else `differs`."""
        if self.found is None:
            return NOT_CHECKED
        value, step = parse_number(self.published)
        if abs(self.found - value) <= step / 2 * (1 + 1e-9):  # the margin absorbs binary fractions
            return "matches"
        return "close" if abs(self.found - value) <= CLOSE * abs(value) else "differs"

    @property
    def cells(self) -> tuple[str, ...]:
        """Under `TITLES`, without the claim; `off` is relative to the published number."""
        if self.found is None:
            return (self.quantity, self.published, "–", "–", self.verdict)
        value, _ = parse_number(self.published)
        counting = "" if self.convention == "conv" else f" ({self.convention})"
        ours = f"{self.found:,.3f}" if self.quantity == "GFLOPs" else f"{self.found:,}"
        off = f"{(self.found - value) / abs(value):+.1%}"
        return (self.quantity + counting, self.published, ours, off, self.verdict)


@dataclass(frozen=True)
class Claim:
    """What one source says of one model or block.

    Attributes:
        recount: the subject that is counted, see `benchmarks.recount`; None: it is not built here.
    """

    id: str
    source: str
    why: str
    numbers: tuple[Number, ...]
    recount: Subject | None = None

    def count(self, number: Number) -> Number:
        """The number with what comes out now. Raises `ValueError` as `benchmarks.recount.recount` does."""
        if self.recount is None or number.quantity in MEASURED:
            return number
        return replace(number, found=recount(self.recount, number.quantity, number.convention))

    @property
    def recipe(self) -> str:
        """How it is recounted, in words."""
        if self.recount is None:
            return ""
        alone = {key: value for key, value in self.recount.items() if key != "against"}
        against = self.recount.get("against")
        return _described(alone) + (f"; against {_described(against)}" if against else "")


def run(config: Config) -> None:
    """Recount, print, compare with the page or write it, and end with status 1 when they differ."""
    claims = recounted(Path(config.published))
    path = Path(config.page)
    check_page(path, MARK, "--page")
    rows = [
        (claim.id, *number.cells, "" if place else claim.why)  # once a claim
        for claim in claims
        for place, number in enumerate(claim.numbers)
    ]
    print(console_table([(*TITLES, "why"), *rows], f"{ALIGN}l"))
    print(tally(claims))
    text = page(claims)
    if config.update or not path.exists():
        write_text(path, text)
    elif changes := changed_lines(path.read_text(encoding="utf-8"), text):
        advice = f"{path.name} shows something else than comes out now; --update writes it anew"
        print("\n".join([*(f"{path.name}: {line}" for line in changes), advice]), file=sys.stderr)
        raise SystemExit(1)


def page(claims: Sequence[Claim]) -> str:
    """The content of docs/ledger.md."""
    rows = [(claim.id, *number.cells) for claim in claims for number in claim.numbers]
    groups = groupby(claims, key=lambda claim: (claim.source, claim.why))
    sources = [(source, why, list(alike)) for (source, why), alike in groups]
    return render(TEMPLATE, tally=tally(claims), rows=[TITLES, *rows], align=ALIGN, sources=sources)


def changed_lines(old: str, new: str) -> list[str]:
    """The lines that differ, old ones after a minus and new ones after a plus."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), n=0, lineterm="")
    return [f"{line[0]} {line[1:]}" for line in list(lines)[2:] if line[0] in "+-"]


def tally(claims: Sequence[Claim]) -> str:
    """How many numbers have which verdict."""
    found = [number.verdict for claim in claims for number in claim.numbers]
    parts = ", ".join(f"{found.count(verdict)} {verdict}" for verdict in VERDICTS)
    return f"{len(found)} numbers in {len(claims)} claims: {parts}"


def parse_number(text: str) -> tuple[float, float]:
    """Value of a published number, and what one of its last digit is worth: "7.2 M" is 7,200,000 and 100,000.

    Raises:
        ValueError: no number, or an unknown unit.
    """
    digits, _, unit = text.partition(" ")
    try:
        value = Decimal(digits)
    except InvalidOperation:
        raise ValueError(f"'{text}' is no number") from None
    exponent = value.as_tuple().exponent
    if unit not in UNITS or not isinstance(exponent, int) or not value:
        raise ValueError(f"'{text}' is no number other than 0 with a unit of k, M, G, % or none")
    return float(value * UNITS[unit]), float(Decimal(10) ** exponent * UNITS[unit])


def recounted(path: Path) -> list[Claim]:
    """The claims of a file with what comes out now.

    Raises:
        UserError: as `load_claims`, or a recount that cannot be made; the message names the claim.
    """
    claims = []
    for claim in load_claims(path):
        try:
            claims.append(replace(claim, numbers=tuple(map(claim.count, claim.numbers))))
        except (ValueError, TypeError, KeyError, RuntimeError) as error:
            raise UserError(f"{path.name}: {claim.id}: {' '.join(str(error).split())}") from error
    return claims


def load_claims(path: Path) -> list[Claim]:
    """Read a file of claims.

    Raises:
        UserError: missing, not of this form, or an id twice; the message names the claim.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"--published {path}: no such file") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid yaml: {' '.join(str(error).split())}") from error
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: expected a list of claims")
    claims: dict[str, Claim] = {}
    for index, entry in enumerate(content, start=1):
        place = entry.get("id", f"claim {index}") if isinstance(entry, dict) else f"claim {index}"
        try:
            claim = _claim(entry)
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path.name}: {place}: {error}") from error
        if claim.id in claims:
            raise UserError(f"{path.name}: the id '{claim.id}' stands there twice")
        claims[claim.id] = claim
    return list(claims.values())


def _claim(entry: dict[str, Any]) -> Claim:
    _check_keys(entry, needed=("id", "source", "why", "numbers"), optional=("recount",))
    subject = entry.get("recount")
    if not isinstance(subject, dict | None):
        raise ValueError(f"recount is {subject!r}; it must be a mapping such as {{model: yolov5n.yaml}}")
    numbers = tuple(map(_number, entry["numbers"]))
    return Claim(str(entry["id"]), str(entry["source"]), str(entry["why"]), numbers, subject)


def _number(entry: dict[str, Any]) -> Number:
    _check_keys(entry, needed=("quantity", "published"), optional=("convention",))
    number = Number(**{**entry, "published": str(entry["published"])})
    parse_number(number.published)
    if number.convention not in CONVENTIONS:
        raise ValueError(f"convention '{number.convention}' is none of {', '.join(CONVENTIONS)}")
    return number


def _check_keys(entry: dict[str, Any], needed: Sequence[str], optional: Sequence[str]) -> None:
    for key in entry:
        if key not in (*needed, *optional):
            raise ValueError(f"unknown key '{key}'; known are {', '.join((*needed, *optional))}")
    for key in needed:
        if key not in entry:
            raise ValueError(f"has no '{key}'")


def _described(subject: Subject) -> str:
    """A subject as the page shows it: its name, and its settings."""
    name, *settings = subject.items()
    words = (f"{key} {str(value).lower() if isinstance(value, bool) else value}" for key, value in settings)
    return ", ".join([str(name[1]), *words])
