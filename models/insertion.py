"""Put blocks into a network by words: `CBAM after C3`, `EMA(8) before Detect`, `SE in 8`.

    BLOCK[(ARGUMENTS)] after|before|in LAYERS [in STAGE]

LAYERS is an index, as the layer table has it, or the name of a block: every layer of that name. STAGE is
`backbone` or `neck` (`head`, as the yaml calls it, is the same). What is put after a layer, or in it, is what
all that follow read in its place; what is put before a layer is read by that layer alone, and there is one
block for each map that it takes. Indices are those of the description before anything is put into it, so that
several insertions do not depend on their order; at one place they stand in the order in which they are given.

Blocks that may be put anywhere keep their map's shape and have a method `pass_through` (`blocks/taking.py`):
with `--weights`, they begin by returning their input.
"""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import models.blocks  # noqa: F401  # registers every block
from models.blocks.detect import Detect
from models.cfg import load_cfg, validate_cfg
from models.registry import BLOCKS, keeping, lookup, nearest
from utils.console import LOGGER
from utils.errors import UserError

FORM = "write it as in 'CBAM after C3', 'EMA(8) before Detect', 'SE in 8' or 'SimAM after C3 in backbone'"
STAGES = {"backbone": "backbone", "neck": "head", "head": "head"}  # and which part of a yaml they are
INSERT_HELP = (
    "put blocks into the network: 'CBAM after C3', 'EMA(8) before Detect', 'SE in 8' (docs/insert.md)"
)

_WRITTEN = re.compile(
    r"\s*(?P<block>[\w.]+)\s*(?:\((?P<args>[^()]*)\))?\s+(?P<where>after|before|in)\s+(?P<target>[\w.]+)"
    r"(?:\s+in\s+(?P<stage>\w+))?\s*"
)


@dataclass(frozen=True)
class Insertion:
    """One block and the places it is put.

    Attributes:
        text: as it was written.
        block: its name.
        args: those behind its channels.
        before: whether it stands before the layers, else after them.
        target: the name of a block, or an index.
        stage: `backbone`, `head`, or nothing for both.
    """

    text: str
    block: str
    args: tuple[Any, ...]
    before: bool
    target: str | int
    stage: str

    def row_arguments(self) -> list[Any]:
        """The arguments of its row: behind `null`, which says that the first are not the channels."""
        return [None, *self.args] if self.args and lookup(self.block).rule is keeping else list(self.args)


@dataclass(frozen=True)
class NewRow:
    """A row that an insertion has made, and its index in the new description."""

    index: int
    row: list[Any]

    def __str__(self) -> str:
        return f"layer {self.index}: {flow(self.row)}"


def insertable() -> list[str]:
    """The blocks that may be put anywhere, by name."""
    return sorted(name for name, entry in BLOCKS.items() if hasattr(entry.block, "pass_through"))


def parse_insertion(text: str) -> Insertion:
    """An insertion from its words. Nothing is evaluated: arguments are plain values, as in a yaml.

    Raises:
        UserError: it is not of that form, or the block is none that may be put anywhere.
    """
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise UserError(f"--insert '{text}' is not understood; {FORM}")
    stage = found["stage"] or ""
    if stage and stage not in STAGES:
        raise UserError(f"--insert '{text}': there is no stage '{stage}'{_nearest(stage, STAGES)}")
    _check_block(found["block"], text)
    target = int(found["target"]) if found["target"].isdecimal() else found["target"]
    if stage and isinstance(target, int):
        raise UserError(f"--insert '{text}': an index names its layer; leave 'in {stage}' out")
    if found["where"] == "in" and found["target"] in STAGES:
        raise UserError(
            f"--insert '{text}': say after or before which layers, as in 'after C3 in {found['target']}'"
        )
    before, args = found["where"] == "before", plain_values(found["args"] or "", f"--insert '{text}'")
    return Insertion(text, found["block"], args, before, target, STAGES.get(stage, ""))


def _check_block(name: str, text: str) -> None:
    known = insertable()
    try:
        entry = lookup(name)
    except ValueError:
        raise UserError(f"--insert '{text}': there is no block '{name}'{_nearest(name, known)}") from None
    if not hasattr(entry.block, "pass_through"):
        raise UserError(
            f"--insert '{text}': {name} cannot be put anywhere, it would change its map from the start; "
            f"these can: {', '.join(known)}"
        )


def plain_values(text: str, flag: str) -> tuple[Any, ...]:
    """Arguments as they stand between brackets.

    Args:
        flag: what an error begins with.

    Raises:
        UserError: something else than numbers, words, true, false and null.
    """
    try:
        values = yaml.safe_load(f"[{text}]")
    except (yaml.YAMLError, ValueError, RecursionError):
        values = None
    plain = (int, float, str, bool, type(None))
    if not isinstance(values, list) or not all(isinstance(value, plain) for value in values):
        raise UserError(f"{flag}: the arguments ({text}) must be plain values, such as (8, true)")
    return tuple(values)


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    return nearest(name, names, f"there are {', '.join(names)}")


def inserted(cfg: str | Path | dict[str, Any], texts: Sequence[str]) -> dict[str, Any]:
    """A description, by name or path or its content, with blocks put into it, of which the console is told.

    Raises:
        UserError: as `insert`, or the description is faulty.
    """
    source = "the network" if isinstance(cfg, dict) else Path(cfg).name
    content = cfg if isinstance(cfg, dict) else load_cfg(cfg)
    validate_cfg(content, source)
    result, new = insert(content, texts, source)
    LOGGER.info("\n".join((f"--insert puts {len(new)} into {source}:", *map(str, new))))
    return result


def insert(cfg: dict[str, Any], texts: Sequence[str], source: str) -> tuple[dict[str, Any], list[NewRow]]:
    """A checked description (`models.cfg.validate_cfg`) with blocks put into it; `cfg` itself is left alone.

    Args:
        texts: insertions, as written.
        source: what to call the description in errors.

    Returns:
        The description, and the new rows.

    Raises:
        UserError: words that are not understood, or layers that are not there.
    """
    rows = cfg["backbone"] + cfg["head"]
    first = len(cfg["backbone"])
    before: dict[int, list[Insertion]] = defaultdict(list)
    after: dict[int, list[Insertion]] = defaultdict(list)
    for insertion in map(parse_insertion, texts):
        for index in _places(insertion, rows, first, source):
            (before if insertion.before else after)[index].append(insertion)
    result = copy.deepcopy(cfg) | {"backbone": [], "head": []}
    made: list[list[Any]] = []
    output = {-1: -1}  # by the index of a layer: where what is read in its place stands now
    new: list[NewRow] = []

    def add(row: list[Any], part: str, insertion: Insertion | None = None) -> int:
        made.append(row)
        result[part].append(row)
        if insertion is not None:
            new.append(NewRow(len(made) - 1, row))
        return len(made) - 1

    def chain(source: int, insertions: Sequence[Insertion], part: str) -> int:
        for insertion in insertions:
            place = -1 if source == len(made) - 1 else source
            source = add([place, 1, insertion.block, insertion.row_arguments()], part, insertion)
        return source

    for index, (given, *rest) in enumerate(rows):
        part = "backbone" if index < first else "head"
        several = given if isinstance(given, list) else [given]
        old = [j if j >= 0 else index + j for j in several]
        reads = {j: chain(output[j], before[index], part) for j in dict.fromkeys(old)}
        place = len(made)
        own = [reads[j] - place if was < 0 else reads[j] for j, was in zip(old, several)]
        row = [own if isinstance(given, list) else own[0], *copy.deepcopy(rest)]
        output[index] = chain(add(row, part), after[index], part)
    return result, new


def _places(insertion: Insertion, rows: Sequence[Sequence[Any]], first: int, source: str) -> list[int]:
    """The layers before or after which an insertion puts its block."""
    inside = {"backbone": range(first), "head": range(first, len(rows)), "": range(len(rows))}[
        insertion.stage
    ]
    target, text = insertion.target, insertion.text
    if isinstance(target, int):
        if target not in inside:
            raise UserError(f"--insert '{text}': {source} has layers 0 to {len(rows) - 1}")
        places = [target]
    else:
        places = [index for index in inside if _is_called(rows[index][2], target)]
        if not places:
            where = f" in its {insertion.stage}" if insertion.stage else ""
            names = list(dict.fromkeys(str(rows[index][2]) for index in inside))
            raise UserError(
                f"--insert '{text}': {source} has no layer '{target}'{where}{_nearest(target, names)}"
            )
    if not insertion.before and len(rows) - 1 in places:
        raise UserError(f"--insert '{text}': nothing can follow the last layer; put it before {rows[-1][2]}")
    return places


def _is_called(name: str, target: str) -> bool:
    """Whether a layer is meant by a name: its own, or `Detect` of whatever head."""
    head = name in BLOCKS and target == Detect.__name__ and BLOCKS[name].block
    return name == target or (isinstance(head, type) and issubclass(head, Detect))


def flow(row: Sequence[Any]) -> str:
    """A row as a yaml has it, on one line."""
    text = yaml.safe_dump(list(row), default_flow_style=True, width=10**6, allow_unicode=True)
    return text.strip()


def written(cfg: dict[str, Any]) -> str:
    """A description as the text of a model yaml, a row a line with its index."""
    settings = {key: value for key, value in cfg.items() if key not in ("anchors", "backbone", "head")}
    lines = [yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip()]
    anchors = cfg["anchors"]
    lines.append(f"anchors: {flow(anchors) if isinstance(anchors, list) else anchors}")
    index = 0
    for part in ("backbone", "head"):
        lines += ["", f"{part}:  # [from, number, module, args]"]
        for row in cfg[part]:
            lines.append(f"  - {flow(row)}  # {index}")
            index += 1
    return "\n".join(lines) + "\n"
