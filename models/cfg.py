"""Model yamls: finding one by name, reading it safely, and saying what is wrong with it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from utils.data.channels import checked_channels
from utils.errors import UserError
from utils.files import ROOT, find_file
from utils.reading import is_number, read_yaml

FOLDERS = (ROOT / "models", ROOT / "models" / "hub")
MULTIPLES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}
REQUIRED = ("nc", "depth_multiple", "width_multiple", "anchors", "backbone", "head")
# `fixed_backbone: true` keeps the multiples away from the backbone rows, for published backbones of one size;
# `inplace` stands in old yamls and has no effect
OPTIONAL = ("activation", "ch", "fixed_backbone", "inplace")
MAX_REPEATS = 1000

_SIZED = re.compile(r"(yolov5)([nsmlx])(\d*(?:[-_].+)?)")


def load_cfg(name: str | Path) -> dict[str, Any]:
    """Read and check the model yaml `name`: a path, or a name of models/ or models/hub/ without its folder.

    A size without a file of its own is the s (or n) file with that size's multiples: `yolov5m-gsconv.yaml` is
    `yolov5s-gsconv.yaml` with depth 0.67 and width 0.75.

    Raises:
        UserError: no such file, not yaml, or not a model; the message names file, layer, value and rule.
    """
    path = resolve_cfg(name)
    cfg = read_yaml(path)
    wanted, found = _SIZED.fullmatch(Path(name).name.removesuffix(".yaml")), _SIZED.fullmatch(path.stem)
    if wanted and found and wanted[2] != found[2]:
        cfg["depth_multiple"], cfg["width_multiple"] = MULTIPLES[wanted[2]]
    validate_cfg(cfg, source=path.name)
    return cfg


def resolve_cfg(name: str | Path) -> Path:
    """The file that `load_cfg(name)` reads.

    Raises:
        UserError: there is none; the message proposes the nearest names.
    """
    path = Path(name)
    # 'models/yolov5n.yaml' is meant as ours from any working directory
    own = path.parent == Path() or path.parent.name in ("models", "hub")
    for candidate in (path.name, *_siblings(path.name)):
        for folder in (path.parent, *(FOLDERS if own else ())):
            for file in (folder / candidate, folder / f"{candidate}.yaml"):
                if file.is_file():
                    return file
    return find_file(path.name if own else path, FOLDERS)  # raises, with proposals


def _siblings(name: str) -> list[str]:
    """The same layout in the sizes that are written out as files."""
    match = _SIZED.fullmatch(name.removesuffix(".yaml"))
    return [f"{match[1]}{size}{match[3]}.yaml" for size in "sn"] if match else []


def validate_cfg(cfg: Any, source: str) -> None:
    """Check a model description: keys, value types and ranges, the form of every row and of its `from`.

    Raises:
        UserError: naming `source`, the layer or key, the value and the rule.
    """
    if not isinstance(cfg, dict):
        raise UserError(f"{source}: a model yaml is a mapping with the keys {', '.join(REQUIRED)}")
    _check_keys(cfg, source)
    if type(cfg["nc"]) is not int or cfg["nc"] < 1:
        raise UserError(f"{source}: nc is {cfg['nc']!r}; it must be an integer >= 1")
    checked_channels(cfg.get("ch", 3), f"{source}: ch")
    for key in ("depth_multiple", "width_multiple"):
        if not is_number(cfg[key]) or not 0 < cfg[key] <= 100:
            raise UserError(f"{source}: {key} is {cfg[key]!r}; it must be a number > 0")
    if not isinstance(cfg.get("fixed_backbone", False), bool):
        raise UserError(f"{source}: fixed_backbone is {cfg['fixed_backbone']!r}; it must be true or false")
    _check_anchors(cfg["anchors"], source)
    for part in ("backbone", "head"):
        if not isinstance(cfg[part], list) or not cfg[part]:
            raise UserError(f"{source}: {part} is {cfg[part]!r}; it must be a list of layers")
    for index, row in enumerate(cfg["backbone"] + cfg["head"]):
        _check_row(row, index, f"{source}: layer {index}")


def _check_keys(cfg: dict[Any, Any], source: str) -> None:
    known = (*REQUIRED, *OPTIONAL)
    for key in cfg:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"a model yaml has {', '.join(known)}"
            raise UserError(f"{source}: unknown key '{key}'; {hint}")
    missing = [key for key in REQUIRED if key not in cfg]
    if missing:
        raise UserError(f"{source}: missing key '{missing[0]}'; a model yaml has {', '.join(REQUIRED)}")


def _check_anchors(anchors: Any, source: str) -> None:
    if type(anchors) is int and 1 <= anchors <= 100:
        return
    rows = anchors if isinstance(anchors, list) and anchors else [anchors]
    for row in rows:
        if not isinstance(row, list) or len(row) < 2 or len(row) % 2 or len(row) != len(rows[0]):
            raise UserError(
                f"{source}: anchors has {row!r}; give an integer from 1 to 100, or per level a row of "
                "equally many w, h pairs"
            )
        for value in row:
            if not is_number(value) or value <= 0:
                raise UserError(f"{source}: anchors has {value!r}; sizes are pixels, numbers > 0")


def _check_row(row: Any, index: int, place: str) -> None:
    if not isinstance(row, list) or len(row) != 4:
        raise UserError(f"{place}: {row!r} is no layer; it must be [from, number, module, args]")
    sources, number, module, args = row
    if type(number) is not int or not 1 <= number <= MAX_REPEATS:
        raise UserError(f"{place}: number is {number!r}; it must be an integer from 1 to {MAX_REPEATS}")
    if not isinstance(module, str):
        raise UserError(f"{place}: module is {module!r}; it must be a block's name")
    if not isinstance(args, list):
        raise UserError(f"{place}: args is {args!r}; it must be a list")
    if isinstance(sources, list) and not sources:
        raise UserError(f"{place}: from is an empty list; name at least one layer")
    for source in sources if isinstance(sources, list) else [sources]:
        if type(source) is not int:
            raise UserError(f"{place}: from is {source!r}; it must be a layer's index or -1, -2, …")
        if source >= index:
            raise UserError(f"{place}: from {source} is not an earlier layer; it must be below {index}")
        if source < -1 and index + source < 0:
            raise UserError(f"{place}: from {source} lies before layer 0; the least is {min(-index, -1)}")
