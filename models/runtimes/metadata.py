"""What an exported file says of itself: reading and writing it, in every form.

Each holds the texts of `models.exporting.job.metadata`: ONNX and CoreML as properties, TorchScript as
JSON in the extra file `config.txt`, ExecuTorch as JSON that the method `metadata` gives, a folder as
`metadata.yaml`, LiteRT as a `metadata.yaml` that is appended. A file may come from anywhere: every value is
checked and none is run.
"""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from utils import reading
from utils.data.channels import COLOUR
from utils.errors import UserError

Names = dict[int, str]
DEFAULT_STRIDE = 32
LARGEST_STRIDE = 1024
LARGEST_SIDE = 16384
LARGEST_TEXT = 1 << 18  # characters of a value that is the text of a list or mapping; 1000 names take 30 kB
YAML_FILE = "metadata.yaml"
CONFIG_FILE = "config.txt"
METHOD = "metadata"  # of an ExecuTorch program
# what parsers raise
MALFORMED = (ValueError, SyntaxError, TypeError, OverflowError, MemoryError, RecursionError)


@dataclass(frozen=True)
class Description:
    """Metadata in the form that backends need.

    Attributes:
        shape: (height, width) of the images of the export, None when the file does not tell.
        batch: images per call of the export, None when the file does not tell.
        channels: of the images; 3 when the file does not tell.
        dynamic: any batch and shape are possible.
        checksum: of the other files of a folder, empty when the file does not tell.
    """

    names: Names = field(default_factory=dict)
    stride: int = DEFAULT_STRIDE
    shape: tuple[int, int] | None = None
    batch: int | None = None
    channels: int = COLOUR
    dynamic: bool = False
    checksum: str = ""


# ---- writing ----


def yaml_text(metadata: Mapping[str, str]) -> str:
    """The content of a `metadata.yaml`: plain texts; `yaml.safe_load` reads them back."""
    return yaml.safe_dump(dict(metadata), allow_unicode=True, sort_keys=False)


def write_yaml(folder: Path, metadata: Mapping[str, str]) -> None:
    """Write the `metadata.yaml` of a folder."""
    (folder / YAML_FILE).write_text(yaml_text(metadata), encoding="utf-8")


def config_text(metadata: Mapping[str, str], shape: tuple[int, ...]) -> str:
    """The content of a `config.txt`: YOLOv5's keys `shape`, `stride` and `names` as values, not texts."""
    values = {key: json.loads(metadata[key]) for key in ("stride", "names", "dynamic")}
    return json.dumps({**metadata, "shape": shape, **values})


# ---- reading ----


def described(values: Mapping[str, Any], path: Path) -> Description:
    """Metadata from values, or from their texts as `Job.metadata` has them.

    Raises:
        UserError: a damaged value; the message names the file and the key.
    """
    shape = values.get("shape")  # (B, C, H, W) of a trace, as YOLOv5 writes it
    if isinstance(shape, list) and len(shape) == 4:
        values = {**values, "batch": shape[0], "channels": shape[1], "imgsz": shape[2:]}
    size = _numbers(values, "imgsz", 2, LARGEST_SIDE, path)
    stride = _numbers(values, "stride", 1, LARGEST_STRIDE, path)
    batch = _numbers(values, "batch", 1, LARGEST_SIDE, path)
    channels = _numbers(values, "channels", 1, LARGEST_SIDE, path)
    return Description(
        names=clean_names(values.get("names"), path),
        stride=stride[0] if stride else DEFAULT_STRIDE,
        shape=(size[0], size[1]) if size else None,
        batch=batch[0] if batch else None,
        channels=channels[0] if channels else COLOUR,
        dynamic=str(values.get("dynamic", "")).lower() in ("true", "1"),
        checksum=str(values.get("checksum", "")),
    )


def read_yaml(folder: Path) -> Description:
    """The metadata of a folder: its `metadata.yaml`, or nothing when there is none.

    Raises:
        UserError: unreadable, or not a mapping.
    """
    path = folder / YAML_FILE
    if not path.is_file():
        return Description()
    try:
        values = reading.read_yaml(path)
    except UserError as error:
        raise UserError(f"'{path}' is damaged: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is damaged: expected keys and values, found {type(values).__name__}")
    return described(values, path)


def read_json(text: str, path: Path) -> Description:
    """The metadata in a JSON text inside a file; an empty text has none.

    Raises:
        UserError: no JSON object, or a damaged value.
    """
    try:
        values = json.loads(text) if text else {}
    except MALFORMED:
        values = None
    if not isinstance(values, dict):
        raise UserError(f"'{path}': its metadata is damaged: {text[:60]!r}")
    return described(values, path)


def clean_names(names: Any, path: Path) -> Names:
    """Class names: a mapping, a list, or the text of one in JSON or Python; empty when there are none.

    Raises:
        UserError: anything else.
    """
    value = _parsed(names) or {}
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if isinstance(value, Mapping):
        with contextlib.suppress(*MALFORMED):
            found = {int(index): str(name) for index, name in value.items()}
            if sorted(found) == list(range(len(found))):
                return found
    raise UserError(f"'{path}': its class names are damaged: {str(names)[:60]!r}")


def _parsed(value: Any) -> Any:
    """A value, or that of a text in JSON or Python's literals, which YOLOv5 writes; else the text itself."""
    for parse in (json.loads, ast.literal_eval):  # the latter makes objects of constants, and calls nothing
        if isinstance(value, str) and len(value) <= LARGEST_TEXT:
            with contextlib.suppress(*MALFORMED):
                return parse(value)
    return value


def _numbers(values: Mapping[str, Any], key: str, count: int, most: int, path: Path) -> list[int]:
    """So many whole numbers from 1 to `most`; one alone stands for all. None at all when the key is absent.

    Raises:
        UserError: anything else.
    """
    value = _parsed(values.get(key)) or []
    numbers = list(value) if isinstance(value, (list, tuple)) else [value] * count
    real = all(map(reading.is_number, numbers))
    whole = real and all(number == int(number) and 1 <= number <= most for number in numbers)
    if not whole or (numbers and len(numbers) != count):
        expected = "a whole number" if count == 1 else f"{count} whole numbers"
        found = str(values[key])[:60]
        raise UserError(f"'{path}': its {key} must be {expected} from 1 to {most}, found {found!r}")
    return [int(number) for number in numbers]
