"""Recount every published number: what a table, paper or tutorial says beside what comes out here.

    python benchmark.py ledger

`published.yaml` holds each number with its source, how it is recounted, what came out and the verdict. This
reads it, counts again, prints claim, ours, verdict and reason, and writes `docs/ledger.md`. It ends with
status 1 when a number drifts: a recount differs from the file, a verdict no longer follows, or the page shows
other numbers. Such a page stays until `--update`, so that the same drift ends every run alike.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from benchmarks.pages import check_page
from benchmarks.recount import KNOWN_CONVENTIONS, Recount, Value, parse_recount, recount
from utils.errors import UserError
from utils.files import ROOT, atomic_write
from utils.flags import CommandConfig, flag

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "%": 1}
CLOSE = 0.05  # relative distance up to which a number that does not match counts as close
NOT_CHECKED = "not checked"
TITLE = "# The ledger of published numbers"
VERDICTS = ("matches", "close", "differs", NOT_CHECKED)


@dataclass(frozen=True)
class Config(CommandConfig):
    """Recount every published number and write docs/ledger.md; status 1 when one drifts."""

    published: str = flag(str(ROOT / "published.yaml"), "the file of claims")
    page: str = flag(str(ROOT / "docs" / "ledger.md"), "the page to write")
    update: bool = flag(False, "write the page anew although it shows other numbers")


@dataclass(frozen=True)
class Number:
    """One number of a claim.

    Attributes:
        published: as the source writes it, such as "7.2 M"; its last digit is its precision.
        ours: what the recount gave when the file was written; None when it cannot be recounted here.
        verdict: one of `VERDICTS`, which followed from that.
        convention: of operations, see docs/counting.md.
        found: what the recount gives now.
    """

    quantity: str
    published: str
    verdict: str
    ours: Value | None = None
    convention: str = "conv"
    found: Value | None = None

    @property
    def off(self) -> str:
        """How far ours is from the published number, in percent of it."""
        if self.found is None:
            return "–"
        value, _ = parse_number(self.published)
        return f"{(self.found - value) / abs(value):+.1%}"

    @property
    def drifts(self) -> Iterator[str]:
        """What of it no longer holds."""
        if self.found != self.ours:
            yield f"{self.quantity} is {self.found}, the file says {self.ours}"
        verdict = verdict_of(self.published, self.found)
        if verdict != self.verdict:
            yield f"{self.quantity} {self.published} {verdict} ({self.found}), the file says '{self.verdict}'"


@dataclass(frozen=True)
class Claim:
    """What one source says of one model or block, and how it is recounted (None: it cannot be)."""

    id: str
    source: str
    why: str
    numbers: tuple[Number, ...]
    recount: Recount | None = None

    def recounted(self) -> Claim:
        """The same with `found` of every number that has `ours`.

        Raises:
            ValueError: the recipe does not work.
        """
        numbers = []
        for number in self.numbers:
            if number.ours is None or self.recount is None:
                numbers.append(number)
            else:
                found = recount(self.recount, number.quantity, number.convention)
                numbers.append(replace(number, found=found))
        return replace(self, numbers=tuple(numbers))


def run(config: Config) -> None:
    """Recount, print, write the page, and end with status 1 after a drift."""
    path = Path(config.published)
    claims = []
    for claim in load_claims(path):
        try:
            claims.append(claim.recounted())
        except (ValueError, TypeError, KeyError, RuntimeError) as error:  # a recount that cannot be made
            raise UserError(f"{path.name}: {claim.id}: {' '.join(str(error).split())}") from error
    print(console_table(claims))
    drifts = [
        f"{claim.id}: {drift}" for claim in claims for number in claim.numbers for drift in number.drifts
    ]
    if not drifts:  # a page of numbers that drifted would look as if all were well
        drifts = write_page(Path(config.page), page(claims), update=config.update)
    print(tally(claims))
    for drift in drifts:
        print(f"drift: {drift}", file=sys.stderr)
    if drifts:
        raise SystemExit(1)


def write_page(path: Path, text: str, *, update: bool) -> list[str]:
    """Write the page where there is none, or with `update`; otherwise tell of a page that differs.

    Raises:
        UserError: the file is something else.
    """
    check_page(path, TITLE, "--page")
    if path.exists() and path.read_bytes() == text.encode():
        return []
    if path.exists() and not update:
        return [f"{path.name} does not show these numbers; --update writes it anew, then look at the change"]
    with atomic_write(path) as file:
        file.write(text.encode())
    return []


def verdict_of(published: str, found: Value | None) -> str:
    """`matches` when ours rounds to the published digits, `close` within 5 % of it, else `differs`."""
    if found is None:
        return NOT_CHECKED
    value, step = parse_number(published)
    if abs(found - value) <= step / 2 * (1 + 1e-9):  # the margin absorbs binary fractions
        return "matches"
    return "close" if abs(found - value) <= CLOSE * abs(value) else "differs"


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
    claims = []
    for index, entry in enumerate(content):
        place = entry.get("id", f"claim {index + 1}") if isinstance(entry, dict) else f"claim {index + 1}"
        try:
            claims.append(_claim(entry))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            missing = f"has no {error}" if isinstance(error, KeyError) else error
            raise UserError(f"{path.name}: {place}: {missing}") from error
    ids = [claim.id for claim in claims]
    twice = next((name for name in ids if ids.count(name) > 1), None)
    if twice:
        raise UserError(f"{path.name}: the id '{twice}' stands there twice")
    return claims


def _claim(entry: dict[str, Any]) -> Claim:
    known = ("id", "source", "why", "numbers", "recount")
    unknown = [key for key in entry if key not in known]
    if unknown:
        raise ValueError(f"unknown key '{unknown[0]}'; a claim has {', '.join(known)}")
    recipe = parse_recount(entry["recount"]) if "recount" in entry else None
    numbers = tuple(_number(item, recipe) for item in entry["numbers"])
    return Claim(str(entry["id"]), str(entry["source"]), str(entry["why"]), numbers, recipe)


def _number(entry: dict[str, Any], recipe: Recount | None) -> Number:
    number = Number(**{**entry, "published": str(entry["published"])})
    parse_number(number.published)
    if number.verdict not in VERDICTS:
        raise ValueError(f"verdict '{number.verdict}' is none of {', '.join(VERDICTS)}")
    if number.convention not in KNOWN_CONVENTIONS:
        raise ValueError(f"convention '{number.convention}' is none of {', '.join(KNOWN_CONVENTIONS)}")
    if recipe is None and number.ours is not None:
        raise ValueError(f"{number.quantity} has `ours`, but nothing says how to recount it")
    return number


def shown(number: Number) -> str:
    """Ours as text, with thousands separated."""
    if number.found is None:
        return "–"
    return f"{number.found:,.3f}" if number.quantity == "GFLOPs" else f"{number.found:,}"


def tally(claims: Sequence[Claim]) -> str:
    """How many numbers have which verdict."""
    numbers = [number for claim in claims for number in claim.numbers]
    parts = (f"{sum(number.verdict == verdict for number in numbers)} {verdict}" for verdict in VERDICTS)
    return f"{len(numbers)} numbers in {len(claims)} claims: {', '.join(parts)}"


def console_table(claims: Sequence[Claim]) -> str:
    """claim | quantity | published | ours | off | verdict | why, a line each number."""
    width = max(len(claim.id) for claim in claims)
    lines = [
        f"{'claim':<{width}}  {'quantity':<20} {'published':>9} {'ours':>14} {'off':>7}  {'verdict':<11}  why"
    ]
    for claim in claims:
        for place, n in enumerate(claim.numbers):
            why = "" if place else claim.why  # once a claim
            row = f"{claim.id:<{width}}  {n.quantity:<20} {n.published:>9} {shown(n):>14} {n.off:>7}"
            lines.append(f"{row}  {n.verdict:<11}  {why}".rstrip())
    return "\n".join(lines)


def page(claims: Sequence[Claim]) -> str:
    """The content of docs/ledger.md."""
    lines = [
        TITLE,
        "",
        f"{tally(claims)}.",
        "",
        "`python benchmark.py ledger` recounts the claims of `published.yaml` and ends with status 1 when a",
        "number drifts; with `--update` it writes this page anew.",
        "",
        "*matches*: ours rounds to the published digits. *close*: within 5 %. *not checked*: needs COCO,",
        "ImageNet or CIFAR, or a model that is not built here. In brackets: the way of counting operations,",
        "when it is not `conv`, 2 x multiply-adds of convolutions; see [counting.md](counting.md). Models",
        "have 80 classes and images 640 pixels unless stated otherwise.",
        "",
        "| claim | quantity | published | ours | off | verdict |",
        "|---|---|---:|---:|---:|---|",
    ]
    for claim in claims:
        for n in claim.numbers:
            counting = f" ({n.convention})" if n.found is not None and n.convention != "conv" else ""
            row = (claim.id, n.quantity + counting, n.published, shown(n), n.off, n.verdict)
            lines.append(f"| {' | '.join(row)} |")
    lines += ["", "## Sources and reasons", ""]
    for (source, why), alike in groupby(claims, key=lambda claim: (claim.source, claim.why)):
        group = list(alike)
        names = ", ".join(claim.id for claim in group)
        recipes = "; ".join(f"`{claim.recount}`" for claim in group if claim.recount)
        lines.append(f"- **{names}**: {source}. {why}" + (f" Recounted: {recipes}." if recipes else ""))
    return "\n".join([*lines, ""])
