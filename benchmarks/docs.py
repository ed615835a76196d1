"""Write the tables of README.md and docs/ that can be computed, and docs/ledger.md.

    python benchmark.py docs            # writes what is stale
    python benchmark.py docs --check    # changes nothing, and ends with status 1 when something is
    python benchmark.py docs --lightened runs/lighten/*    # notes what these runs have kept, and writes

A table stands between the lines `<!-- table: NAME -->` and `<!-- end -->`; `TABLES` says where and of what.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import complexity, ledger, losses, recount
from benchmarks.lightening import kept
from benchmarks.pages import check_page, markdown_table, render
from models.exporting.formats import FORMATS, SYNONYMS
from utils.errors import UserError
from utils.files import ROOT, write_text
from utils.flags import CommandConfig, flag, parse_flags
from utils.losses.composition import MODIFIERS
from utils.losses.overlaps import BASES
from utils.losses.scores import CLASS_WEIGHTS, SCORE_LOSSES

BASELINE, SIZE_S = "yolov5n", "yolov5s"
CHANGE = re.compile(r"# Change: (.+)\n")  # the first line of a variant's yaml, for the README
OFFICIAL = ("n", "s", "m", "l", "x", "n6", "s6", "m6", "l6", "x6")
# how YOLOv5s comes to six numbers: flags of `benchmark.py complexity`, and what is quoted of its table
QUOTED = (
    ("yolov5s.yaml --nc 1", "GFLOPs", "parameters"),
    ("yolov5s.yaml --nc 1 --convention bn", "GFLOPs", "parameters"),
    ("yolov5s.yaml", "GFLOPs", "parameters"),
    ("yolov5s.yaml --convention all --fused", "GFLOPs", "products", "biases"),
    ("yolov5s.yaml --convention bn", "GFLOPs", "parameters"),
    ("yolov5s.yaml --convention thop", "GFLOPs", "parameters"),
    ("yolov5s6.yaml", "GFLOPs", "parameters"),
)


@dataclass(frozen=True)
class Config(CommandConfig):
    """Write the tables of the documentation that can be computed, and the ledger."""

    check: bool = flag(False, "change nothing; end with status 1 and a line for each table that is stale")
    lightened: tuple[str, ...] = flag((), "folders of finished runs of lighten.py with --data, to be noted")


def run(config: Config) -> None:
    """Write what is stale, or tell of it.

    Raises:
        UserError: the lines around a table are not as they must be, a yaml says nothing of its change, or a
            claim cannot be recounted.
    """
    if config.lightened and not config.check:
        kept.note(config.lightened, ROOT)
    page = ROOT / "docs" / "ledger.md"
    check_page(page, ledger.MARK, "docs")
    files = {ROOT / file for file, _ in TABLES.values()}
    old = {file: file.read_text(encoding="utf-8") if file.exists() else "" for file in (*files, page)}
    for name, (file, _) in TABLES.items():  # before anything is counted
        split(old[ROOT / file], name, file)
    new, stale = dict(old), []
    for name, (file, make) in TABLES.items():
        before, was, after = split(new[ROOT / file], name, file)
        now = f"{make()}\n"
        new[ROOT / file] = before + now + after
        stale += [f"{file}: table {name}: {line}" for line in ledger.changed_lines(was, now)[:1]]
    new[page] = ledger.page(ledger.recounted(ROOT / "published.yaml"))
    stale += [f"docs/ledger.md: {line}" for line in ledger.changed_lines(old[page], new[page])[:1]]
    if config.check and stale:
        print("\n".join(f"{line}; python benchmark.py docs writes it" for line in stale), file=sys.stderr)
        raise SystemExit(1)
    for path, text in new.items():
        if text != old[path]:
            write_text(path, text)
    print("\n".join([*(f"{line}; written" for line in stale), f"{len(TABLES) + 1} tables are up to date"]))


def split(text: str, name: str, file: str) -> tuple[str, str, str]:
    """What stands before a table, the table, and what stands behind it, the lines around it left outside."""
    begin, end = f"<!-- table: {name} -->\n", "<!-- end -->"
    before, found, rest = text.partition(begin)
    table, ended, after = rest.partition(end)
    if not (found and ended) or begin in rest or "<!-- table:" in table:
        raise UserError(f"{file}: the table must stand once between the lines '{begin.strip()}' and '{end}'")
    return before + begin, table, end + after


def models() -> str:
    """YOLOv5n, its variants and the others by name, with size s beside them where that is a file."""
    rows = [("yaml", "change to YOLOv5", "parameters", "GFLOPs", "kept", "size s: parameters", "GFLOPs")]
    shares = kept.shares(ROOT)
    files = [file for file in (ROOT / "models").glob("*.yaml") if not re.match(r"yolov5[smlx]", file.name)]
    for file in sorted(files, key=lambda file: (not file.name.startswith(BASELINE), file.stem)):
        change = CHANGE.match(file.read_text(encoding="utf-8"))
        if not change and file.stem != BASELINE:
            raise UserError(f"models/{file.name}: begin it with '# Change: …', which the README shows")
        larger = file.with_name(file.name.replace(BASELINE, SIZE_S))
        others = costs(larger) if larger != file and larger.exists() else ("–", "–")
        share = f"{shares[file.stem]:.1%}" if file.stem in shares else "–"
        rows.append((f"`{file.stem}`", change[1] if change else "–", *costs(file), share, *others))
    return markdown_table(rows, "llrrrrr")


def costs(file: Path) -> tuple[str, str]:
    """Parameters and GFLOPs of a yaml, at the image side that its comment tells, 640 pixels without one."""
    told = re.search(r"GFLOPs at (\d+)", file.read_text(encoding="utf-8"))
    side = int(told[1]) if told else 640
    subject = {"model": file.name} if side == 640 else {"model": file.name, "imgsz": side}
    gflops = f"{recount.flops(subject, 'conv') / 1e9:.3f}"
    return f"{recount.parameters(subject):,}", gflops if side == 640 else f"{gflops} at {side} px"


def official() -> str:
    """GFLOPs of the ten official models: those of the table of YOLOv5, and ours by its way of counting."""
    claims = {claim.id: claim for claim in ledger.load_claims(ROOT / "published.yaml")}
    quoted = ["table of v6.1 and v7.0"]
    counted = ["products + 2 × biases"]
    for size in OFFICIAL:
        numbers = claims[f"yolov5{size}"].numbers
        quoted.append(next(number.published for number in numbers if number.convention == "table"))
        flops = recount.flops({"model": f"yolov5{size}.yaml"}, "table")
        counted.append(f"{flops / 1e9:.4f}")
    return markdown_table([("GFLOPs at 640", *OFFICIAL), quoted, counted], "l" + "r" * len(OFFICIAL))


def quotes() -> str:
    """The commands of `QUOTED`, and beside them what they print."""
    lines = []
    for flags, *titles in QUOTED:
        (record,) = complexity.records(parse_flags(complexity.Config, shlex.split(flags)), thop=False)
        columns, kinds = complexity.shown(record), complexity.shown_operations(record)
        said = (
            f"{columns[title]} {title}" if title in columns else f"{title} {kinds[title]}" for title in titles
        )
        command = f"python benchmark.py complexity {flags}"
        lines.append(f"{command:<70} # {', '.join(said)}")
    return "\n".join(["```bash", *lines, "```"])


def formats() -> str:
    return render("formats.md.j2", formats=FORMATS.values(), synonyms=SYNONYMS).rstrip()


def loss_numbers() -> str:
    """What parts of the names of losses take numbers: their defaults, and the limits."""
    parts = {**BASES, **MODIFIERS}
    hyp = {"iou": parts, "obj_loss, cls_loss": SCORE_LOSSES, "class_weights": CLASS_WEIGHTS}
    rows = [
        (
            f"`{part.name}`" if i == 0 else "",
            f"`{number}`",
            f"{default:g}",
            f"{low:g} to {high:g}",
            f"`{key}`",
        )
        for key, registry in hyp.items()
        for name, part in registry.items()
        if name == part.name
        for i, (number, (default, low, high)) in enumerate(part.numbers.items())
    ]
    return markdown_table([("name", "number", "default", "may be", "in"), *rows], "llrll")


def loss_ranking() -> str:
    found = losses.load(ROOT / "docs" / "losses.json")
    titles, *rows = losses.rows(found)
    return markdown_table([titles, *((rank, f"`{name}`", *more) for rank, name, *more in rows)], "rlrrrrrr")


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "models": ("README.md", models),
    "six numbers": ("docs/counting.md", quotes),
    "official models": ("docs/counting.md", official),
    "formats": ("docs/export.md", formats),
    "loss numbers": ("docs/losses.md", loss_numbers),
    "loss ranking": ("docs/losses.md", loss_ranking),
    "kept": ("docs/lighten.md", lambda: kept.table(ROOT)),
}
