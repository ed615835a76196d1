"""Text files that users write or get from others, yamls and lists, read without trust."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError

MOST_YAML = 1 << 20  # bytes; a thousand class names take 30 kB
MOST_VALUES = 200_000  # of a yaml; aliases on aliases can unfold to billions
MOST_CHARACTERS = 16 << 20  # in all texts of a yaml, once aliases are unfolded
MOST_DIGITS = 40  # of a number
MOST_MERGED = 16  # mappings in one `<<`
MERGE = "tag:yaml.org,2002:merge"  # the key `<<`
MOST_LIST = 256 << 20  # bytes of a list file
MOST_LINES = 5_000_000


def is_number(value: object) -> bool:
    """Whether a value of a file is a number, and one that a float can hold: not so `true`, nan and 10^400."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes:
    """The bytes of a regular file. A pipe could be waited for without an end, and a device read.

    Raises:
        UserError: no regular file, or more than `most` bytes.
        OSError: it cannot be read.
    """
    name = os.fspath(path)
    status = os.stat(name)  # noqa: PTH116 - a Path per image doubles the time of a scan
    if not stat.S_ISREG(status.st_mode):
        raise UserError(
            f"'{name}' is a {'folder' if stat.S_ISDIR(status.st_mode) else 'pipe or device'}, no file"
        )
    if status.st_size > most:
        raise UserError(f"'{name}' has {status.st_size:,} bytes, at most {most:,} are read")
    with open(name, "rb") as file:  # noqa: PTH123
        content = file.read(status.st_size + 1)
        while len(content) > status.st_size and len(content) <= most:  # those of /proc tell no size
            more = file.read(1 << 16)
            if not more:
                break
            content += more
    if len(content) > most:
        raise UserError(f"'{name}' has more than {most:,} bytes")
    return content


class _Loader(yaml.SafeLoader):
    """Plain data only, and of two equal keys the second does not win silently."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge other mappings (`<<`), of which each can merge others: their number is bounded."""
        for key, value in node.value:
            several = isinstance(value, yaml.SequenceNode) and len(value.value) > MOST_MERGED
            if key.tag == MERGE and several:
                raise yaml.constructor.ConstructorError(
                    None, None, "too many merged mappings", key.start_mark
                )
        super().flatten_mapping(node)
        if len(node.value) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, "too many keys", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        own = [key for key, _ in node.value if key.tag != MERGE]
        for key in (self.construct_object(key, deep=True) for key in own):
            if key in seen:
                problem = f"key {repr(key)[:60]} stands there twice"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return super().construct_yaml_int(_short(node))

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        return super().construct_yaml_float(_short(node))


for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", getattr(_Loader, f"construct_yaml_{_kind}"))


def _short(node: yaml.ScalarNode) -> yaml.ScalarNode:
    if len(node.value) > MOST_DIGITS:
        problem = f"a number of {len(node.value)} characters"
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
    return node


def read_yaml(path: Path) -> Any:
    """The plain values in a yaml file: no cycles, and no more of them than `MOST_VALUES` once aliases unfold.

    Raises:
        UserError: not valid yaml, too large, or more than plain data; the message names file and line.
        OSError: the file cannot be read.
    """
    try:
        content = yaml.load(read_bytes(path, MOST_YAML).decode(), Loader=_Loader)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid yaml: not a text file in UTF-8") from error
    except RecursionError as error:
        raise UserError(f"{path}: not valid yaml: nested too deeply") from error
    # of PyYAML, the constructors of tags and numbers raise anything that Python's conversions do
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}: line {mark.line + 1}" if mark else path
        problem = getattr(error, "problem", None) or " ".join(str(error).split())[:200]
        raise UserError(f"{place}: not valid yaml: {problem}") from error
    _check_tree(content, path)
    return content


def _check_tree(content: Any, source: Path) -> None:
    """Refuse a yaml that contains itself, or that unfolds without end, before anything walks through it."""
    values = characters = 0
    stack: list[tuple[Any, tuple[int, ...]]] = [(content, ())]
    while stack:
        value, parents = stack.pop()
        values += 1
        characters += len(value) if isinstance(value, str | bytes) else 0
        if id(value) in parents:
            raise UserError(f"{source}: an alias refers to a value that contains it; remove the cycle")
        if values > MOST_VALUES or characters > MOST_CHARACTERS:
            raise UserError(f"{source}: unfolds to more than {MOST_VALUES:,} values; remove aliases")
        if isinstance(value, dict | list | set | tuple):
            inside = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            stack.extend((item, (*parents, id(value))) for item in inside)


def read_lines(path: Path) -> list[str]:
    """The lines of a list file, stripped; blank ones and those that begin with # do not count.

    Raises:
        UserError: not a text file in UTF-8, or too large.
        OSError: the file cannot be read.
    """
    content = read_bytes(path, MOST_LIST)
    if content.count(b"\n") > MOST_LINES:
        raise UserError(f"list file '{path}' has more than {MOST_LINES:,} lines")
    if b"\0" in content:
        raise UserError(f"list file '{path}' is not text: it has null bytes")
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"list file '{path}' is not UTF-8 text") from error
    return [line for line in lines if line and not line.startswith("#")]
