"""Text files that users write, yamls and lists, read without trust."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError


class _Loader(yaml.SafeLoader):
    """Plain data only, and of two equal keys the second does not win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        repeated = next((key for place, key in enumerate(keys) if key in keys[:place]), None)
        if repeated is not None:
            problem = f"key {repeated!r} stands there twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return super().construct_mapping(node, deep=deep)


def read_yaml(path: Path) -> Any:
    """The plain values in a yaml file.

    Raises:
        UserError: not valid yaml, or more than plain data; the message names file and line.
        OSError: the file cannot be read.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}: line {mark.line + 1}" if mark else path
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise UserError(f"{place}: not valid yaml: {problem}") from error


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, stripped; blank ones and those that begin with # do not count.

    Raises:
        UserError: not a text file in UTF-8.
        OSError: the file cannot be read.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"list file '{path}' is not UTF-8 text") from error
    return [line for line in lines if line and not line.startswith("#")]
