"""What an exported file says of itself. It may come from anywhere: every value is checked and none is run."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from models.runtimes.base import DEFAULT_STRIDE, Names
from utils.errors import UserError

LARGEST_STRIDE = 1024
LARGEST_SIDE = 16384
LARGEST_FILE = 1 << 20  # bytes of a metadata.yaml; 1000 class names take 30 kB
MALFORMED = (
    ValueError,
    SyntaxError,
    TypeError,
    OverflowError,
    MemoryError,
    RecursionError,
)  # what parsers raise


@dataclass(frozen=True)
class Description:
    """Metadata in the form that backends need.

    Attributes:
        shape: (height, width) of the images of the export, None when the file does not tell.
        batch: images per call of the export, None when the file does not tell.
        dynamic: any batch and shape are possible.
        checksum: of the other files of a folder, empty when the file does not tell.
    """

    names: Names = field(default_factory=dict)
    stride: int = DEFAULT_STRIDE
    shape: tuple[int, int] | None = None
    batch: int | None = None
    dynamic: bool = False
    checksum: str = ""


def described(values: Mapping[str, Any], path: Path) -> Description:
    """Metadata from values, or from their texts as `Job.metadata` has them.

    Raises:
        UserError: a damaged value; the message names the file and the key.
    """
    size = _value(values, "imgsz", path)
    sides = None
    if size is not None:
        sides = list(size) if isinstance(size, (list, tuple)) else [size, size]
        if len(sides) != 2:
            raise UserError(f"'{path}': its imgsz is damaged: {str(size)[:60]}")
        sides = [_within(side, "imgsz", LARGEST_SIDE, path) for side in sides]
    stride, batch = _value(values, "stride", path), _value(values, "batch", path)
    return Description(
        names=clean_names(values.get("names"), path),
        stride=DEFAULT_STRIDE if stride is None else _within(stride, "stride", LARGEST_STRIDE, path),
        shape=(sides[0], sides[1]) if sides else None,
        batch=None if batch is None else _within(batch, "batch", LARGEST_SIDE, path),
        dynamic=str(values.get("dynamic", "")).lower() in ("true", "1"),
        checksum=str(values.get("checksum", "")),
    )


def read_yaml(folder: Path) -> Description:
    """The metadata of a folder: its `metadata.yaml`, or nothing when there is none.

    Raises:
        UserError: unreadable, or not a mapping.
    """
    path = folder / "metadata.yaml"
    if not path.is_file():
        return Description()
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"'{path}' is no metadata: it has {path.stat().st_size:,} bytes")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, *MALFORMED) as error:
        raise UserError(f"'{path}' is damaged: {' '.join(str(error).split())[:150]}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is damaged: expected keys and values, found {type(values).__name__}")
    return described(values, path)


def read_json(text: str, path: Path) -> dict[str, Any]:
    """The object of a JSON text inside a file; an empty text has no values.

    Raises:
        UserError: no JSON object.
    """
    try:
        values = json.loads(text) if text else {}
    except MALFORMED as error:
        raise UserError(f"'{path}': its metadata is damaged: {text[:60]!r}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}': its metadata is damaged: {text[:60]!r}")
    return values


def clean_names(names: Any, path: Path) -> Names:
    """Class names: a mapping, a list, or the text of one in JSON or Python; empty when there are none.

    Raises:
        UserError: anything else.
    """
    value = _parsed(names) if isinstance(names, str) and names else names
    try:
        if isinstance(value, Mapping):
            found = {int(index): str(name) for index, name in value.items()}
            if sorted(found) != list(range(len(found))):
                raise ValueError("numbers with gaps")
            return found
        if value is None or isinstance(value, (list, tuple)) or value == "":
            return {index: str(name) for index, name in enumerate(value or ())}
    except MALFORMED:
        pass
    raise UserError(f"'{path}': its class names are damaged: {str(names)[:60]!r}")


def _parsed(text: str) -> Any:
    """The value of a text in JSON or in Python's literals, which YOLOv5 writes; False when it is neither."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except MALFORMED:
            continue
    return False


def _value(values: Mapping[str, Any], key: str, path: Path) -> Any:
    """A value, parsed when it is a text; None when it is absent.

    Raises:
        UserError: a text that is no value.
    """
    value = values.get(key)
    if not isinstance(value, str) or not value:
        return value or None
    parsed = _parsed(value)
    if parsed is False or parsed is None:
        raise UserError(f"'{path}': its {key} is damaged: {value[:60]!r}")
    return parsed


def _within(value: Any, key: str, most: int, path: Path) -> int:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    whole = number and value == int(value)
    if not whole or not 1 <= value <= most:
        raise UserError(f"'{path}': its {key} must lie between 1 and {most}, found {str(value)[:60]!r}")
    return int(value)
