"""Annotation files of strangers, opened without trust: JSON, XML and tables within limits."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.optional import require
from utils.reading import read_bytes

MOST_JSON = 1 << 30  # bytes; COCO's instances_train2017.json has 470 million
MOST_XML = 512 << 20
MOST_TABLE = 512 << 20


def read_json(path: Path) -> Any:
    """The values in a JSON file.

    Raises:
        UserError: not JSON in UTF-8, or too large.
        OSError: it cannot be read.
    """
    return parse_json(read_bytes(path, MOST_JSON), path)


def parse_json(content: bytes, path: Path | str) -> Any:
    """The values in the bytes of a JSON file, which messages call `path`.

    Raises:
        UserError: not JSON in UTF-8.
    """
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not JSON: not a text in UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path}: not JSON: nested too deeply") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {str(error)[:200]}") from error


def read_xml(path: Path, most: int = MOST_XML) -> Any:
    """The root element of an XML file, in which no entity is declared.

    Raises:
        UserError: not XML, one that declares entities (they can unfold without end), or too large.
        OSError: it cannot be read.
    """
    content = read_bytes(path, most)
    tree = require("defusedxml.ElementTree", "defusedxml")
    try:
        return tree.fromstring(content)
    except (tree.ParseError, ValueError, LookupError, RecursionError) as error:
        unfolds = type(error).__name__ == "EntitiesForbidden"
        reason = "it declares entities, which are refused" if unfolds else " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not XML that can be read: {reason}") from error


def read_table(path: Path, most: int = MOST_TABLE) -> Iterator[tuple[int, list[str]]]:
    """The rows of a csv file with the numbers of their lines; blank ones are left out.

    Raises:
        UserError: not a table in UTF-8, or too large.
        OSError: it cannot be read.
    """
    content = read_bytes(path, most)
    if b"\0" in content:
        raise UserError(f"{path}: not a table: it has null bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a table: not a text in UTF-8") from error
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in table:
            if any(cell.strip() for cell in row):
                yield table.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise UserError(f"{path}:{table.line_num}: not a table: {error}") from error
