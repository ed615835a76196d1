"""How `fuzz.py` changes sound files: their bytes, or what stands in them.

A reader of JSON, XML, tables or yaml refuses most files whose bytes were changed at its first line. What is
behind that is reached by files that are well formed and hold wrong values.
"""

from __future__ import annotations

import json
import random
import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import yaml

NUMBERS = (
    0,
    1,
    2,
    127,
    128,
    255,
    256,
    1000,
    32767,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**64 - 1,
)
WORDS = (
    b"0", b"-1", b"1", b"2147483647", b"4294967296", b"1e999", b"nan", b"-inf", b"null", b"~", b"''", b"[]",
    b"9" * 30, b"!!python/object/apply:os.system ['true']", b"*a", b"&a ", b"\xff", b"\0", b"../../x", b"%n",
    b"{}",
)  # fmt: skip


# values of another type, out of range, or hard to write, compare or show
TEXTS = (
    "", " ", "0", "-1", "nan", "inf", "-inf", "1e999", "1e308", "-1e-320", "9" * 400, "0x10", "1_000", "²",
    "٣", "a", "猫", "😀", "\udcff", "a\0b", "a\nb", "a\u2028b", "\x1b[31m", "<b onclick=x>", "{{ 7 * 7 }}",
    "'\"&;", "../../../etc/passwd", "/dev/zero", "C:\\a\\b.png", "http://x/a.png", "a" * 5000, "%s%n",
    "a.png", "b.png", "cat", "dog", "con", ".", "..", "~nobody/a.png",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 39, 1e308, -1e308, 5e-324, 2**31, 2**63, 2**64, 10**400,
    float("nan"), float("inf"), [], {}, [[]], [None] * 4, [0, 0], [1, 2, 3, 4], {"a": 1}, *TEXTS,
)  # fmt: skip


def mutated(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """A few changes of a file: bits, numbers, words, pieces that go, come twice or come from another file."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at, length = dice.randrange(len(changed) + 1), dice.choice((1, 2, 4, 8, 16, 64, 300))
        match dice.randrange(9):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << dice.randrange(8)
            case 1 if changed:
                changed[at % len(changed)] = dice.randrange(256)
            case 2:
                code = dice.choice(["<H", ">H", "<I", ">I", "<Q", ">Q", "<B"])
                size = struct.calcsize(code)
                changed[at : at + size] = struct.pack(code, dice.choice(NUMBERS) % (1 << 8 * size))
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * dice.choice((1, 2, 50))
            case 5:
                changed[at:at] = dice.choice(WORDS)
            case 6:
                found = list(re.finditer(rb"-?\d+\.?\d*", changed[:200_000]))
                if found:
                    hit = dice.choice(found)
                    changed[hit.start() : hit.end()] = dice.choice(WORDS)
            case 7:
                other = dice.choice(others)
                start = dice.randrange(len(other) + 1)
                changed[at : at + length] = other[start : start + length]
            case _:
                if dice.random() < 0.2:
                    del changed[at:]
    return bytes(changed)


# ---- what stands in a file ----


def changed_value(content: Any, dice: random.Random, values: tuple[Any, ...] = VALUES) -> Any:
    """Nested lists and mappings with some values replaced, gone, doubled, moved or put into a list."""
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        places: list[tuple[Any, Any]] = []
        todo = [content]
        while todo:
            value = todo.pop()
            if isinstance(value, dict | list):
                keys = list(value) if isinstance(value, dict) else range(len(value))
                places += [(value, key) for key in keys]
                todo += [value[key] for key in keys]
        if not places:
            return dice.choice(values)
        holder, key = dice.choice(places)
        other, place = dice.choice(places)
        match dice.randrange(8):
            case 0:
                del holder[key]
            case 1:
                holder[key] = json.loads(json.dumps(other[place], default=str))  # a copy
            case 2 if isinstance(holder, list):
                holder.insert(key, json.loads(json.dumps(holder[key], default=str)))
            case 3:
                holder[key] = [json.loads(json.dumps(holder[key], default=str))]
            case 4 if isinstance(holder, dict):
                holder[dice.choice(TEXTS)] = holder.pop(key)
            case _:
                holder[key] = dice.choice(values)
    return content


def changed_json(data: bytes, dice: random.Random) -> bytes:
    return json.dumps(changed_value(json.loads(data), dice)).encode()


def changed_yaml(data: bytes, dice: random.Random) -> bytes:
    """As `changed_json`; texts in it are written so that any yaml reader takes them."""
    value = changed_value(yaml.safe_load(data), dice)
    return yaml.safe_dump(value, sort_keys=False).encode("utf-8", "replace")


def changed_xml(data: bytes, dice: random.Random) -> bytes:
    """Elements and attributes with other texts, gone, doubled, or under other parents."""
    root = ElementTree.fromstring(data)
    for _ in range(dice.choice((1, 1, 2, 4))):
        nodes = list(root.iter())
        node, parent = dice.choice(nodes), dice.choice(nodes)
        text = "".join(letter for letter in dice.choice(TEXTS) if letter >= " " and letter != "\udcff")
        match dice.randrange(8):
            case 0 if len(node):
                node.remove(dice.choice(list(node)))
            case 1:
                parent.append(ElementTree.fromstring(ElementTree.tostring(node)))
            case 2 if node.attrib:
                del node.attrib[dice.choice(list(node.attrib))]
            case 3 | 4 if node.attrib:
                node.attrib[dice.choice(list(node.attrib))] = text
            case 5:
                node.tag = dice.choice(nodes).tag
            case _:
                node.text = text
    return ElementTree.tostring(root)


def changed_rows(data: bytes, dice: random.Random) -> bytes:
    """Lines of cells, divided by commas, blanks or `=`, with others in their place."""
    lines = data.decode().split("\n")
    for _ in range(dice.choice((1, 1, 2, 4))):
        at = dice.randrange(len(lines))
        divider = next((mark for mark in (",", " ", "=") if mark in lines[at]), ",")
        cells = lines[at].split(divider)
        place = dice.randrange(len(cells))
        match dice.randrange(7):
            case 0:
                del cells[place]
            case 1:
                cells.insert(place, cells[place])
            case 2:
                lines.insert(at, lines[at])
            case 3:
                lines[at], cells = "", []
            case _:
                cells[place] = dice.choice(TEXTS)
        lines[at] = divider.join(cells)
    return "\n".join(lines).encode("utf-8", "surrogateescape")


CHANGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": changed_json, ".yaml": changed_yaml, ".xml": changed_xml, ".csv": changed_rows,
    ".txt": changed_rows, ".data": changed_rows, ".names": changed_rows,
}  # fmt: skip


# ---- folders ----

Tree = dict[str, str]  # path to content, byte for letter, so that a tree is a file of JSON


def unpacked(tree: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tree)
    return content


def changed_tree(data: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """A folder of files in which one text was changed, or that lacks a file, or has it somewhere else."""
    content = unpacked(data)
    files: Tree = content["files"]
    for _ in range(dice.choice((1, 1, 1, 2))):
        texts = [name for name in files if name[name.rfind(".") :] in CHANGES]
        name = dice.choice(texts)
        raw = files[name].encode("latin-1")
        match dice.randrange(10):
            case 0 | 1 | 2:
                files[name] = mutated(raw, [raw], dice).decode("latin-1")
            case 3:
                _moved(files, dice)
            case _:
                try:
                    found = CHANGES[name[name.rfind(".") :]](raw, dice)
                except (ValueError, ElementTree.ParseError, yaml.YAMLError):  # of an earlier change
                    found = mutated(raw, [raw], dice)
                files[name] = found.decode("latin-1")
    return json.dumps(content).encode()


def _moved(files: Tree, dice: random.Random) -> None:
    """Take a file or a folder away, or give it another name, or another file's content."""
    name, other = dice.choice(list(files)), dice.choice(list(files))
    folder = name.rpartition("/")[0]
    match dice.randrange(5):
        case 0:
            del files[name]
        case 1:
            files[name] = files[other]
        case 2:
            files[name.upper()] = files.pop(name)
        case 3 if folder:
            new = dice.choice(("images", "labels", "valid", "val", "Annotations", "x", "train/images"))
            for inside in [one for one in files if one.startswith(f"{folder}/")]:
                files[new + inside.removeprefix(folder)] = files.pop(inside)
        case _:
            stem, dot, suffix = name.rpartition(".")
            files[f"{stem}{dice.choice(('', ' ', '.1', '猫'))}{dot}{suffix}"] = files.pop(name)
    if not any(one.endswith(".png") for one in files):
        files["x.png"] = ""
    if not any(one[one.rfind(".") :] in CHANGES for one in files):
        files["x.txt"] = ""
