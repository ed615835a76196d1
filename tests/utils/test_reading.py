"""Yamls and lists that users write."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from training.hyp_yaml import checked
from utils.errors import UserError
from utils.reading import is_number, read_bytes, read_lines, read_yaml


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a: 1\nb: [", "line 2: not valid yaml"),
        (b"a: 1\na: 2", "line 1: not valid yaml: key 'a' stands there twice"),
        (b"a: !!python/object/apply:os.system [echo]", "line 1: not valid yaml"),
        (b"a: caf\xe9", "not valid yaml"),
        (b"[" * 5000, "not valid yaml"),
        (b"&a {? *a : 1}", "not valid yaml"),
        (b"{[1]: 2}", "not valid yaml"),
    ],
)
def test_faulty_yamls_are_one_line(tmp_path: Path, content: bytes, complaint: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(UserError) as error:
        read_yaml(tmp_path / "x.yaml")
    assert complaint in str(error.value)
    assert "x.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_yamls_are_plain_values(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("a: &one [1, 0.5, yes]\nb: *one\nc:\n", encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml") == {"a": [1, 0.5, True], "b": [1, 0.5, True], "c": None}


def test_lists_of_lines(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n\r\n# no\n  b c.jpg \n")
    assert read_lines(tmp_path / "x.txt") == ["a.jpg", "b c.jpg"]
    (tmp_path / "x.txt").write_bytes(b"a.jpg\0\n")
    with pytest.raises(UserError, match="null bytes"):
        read_lines(tmp_path / "x.txt")
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"x\.txt' is not UTF-8 text"):
        read_lines(tmp_path / "x.txt")


LAUGHS = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
MERGES = "a0: &a0 {k0: 1, l0: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (LAUGHS, "unfolds to more than 200,000 values"),
        (f"a: &a {'x' * 500_000}\nb: [{', '.join(['*a'] * 500)}]\n", "unfolds to more than"),
        (f"a: &a {{k: 1}}\nb: {{<<: [{', '.join(['*a'] * 1000)}]}}\n", "too many merged mappings"),
        ("a: &a [*a]", "an alias refers to a value that contains it"),
        ("[" * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        (f"a: {'9' * 5000}", "a number of 5000 characters"),
        (f"a: 1{':59' * 300_000}", "a number of 900001 characters"),
        (f"a: 0x{'f' * 300_000}", "a number of 300002 characters"),
        (f"a: !!float 1{':59' * 400}", "a number of 1201 characters"),
        ("a: 2001-99-99", "not valid yaml"),
        ("a: !!bool perhaps", "not valid yaml"),
        ("a: !!int ''", "not valid yaml"),
        ("a: !!float ''", "not valid yaml"),
        ("a: !!timestamp x", "not valid yaml"),
        ("a: !!binary é", "not valid yaml"),
        ("a: !!python/name:os.system", "not valid yaml"),
        ("a: !!python/object/new:type {}", "not valid yaml"),
        ("".join(f"k{i}: 1\n" for i in range(150_000)), "bytes, at most"),
    ],
    ids=range(19),
)
def test_yamls_that_want_much(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "x.yaml").write_text(content, encoding="utf-8")
    started = time.monotonic()
    with pytest.raises(UserError, match=complaint) as error:
        read_yaml(tmp_path / "x.yaml")
    assert len(str(error.value)) < 500 + len(str(tmp_path))
    assert time.monotonic() - started < 30


def test_merged_mappings_are_read(tmp_path: Path) -> None:
    """And those that merge others nine times over, eleven levels deep, are read once or refused."""
    (tmp_path / "x.yaml").write_text(MERGES, encoding="utf-8")
    with contextlib.suppress(UserError):
        assert len(read_yaml(tmp_path / "x.yaml")["a11"]) == 13
    (tmp_path / "x.yaml").write_text("a: &a {k: 1}\nb: {<<: *a, l: 2}\n", encoding="utf-8")
    assert read_yaml(tmp_path / "x.yaml")["b"] == {"k": 1, "l": 2}


@pytest.mark.parametrize("read", [read_yaml, read_lines, lambda path: read_bytes(path, 10)])
def test_only_files_are_read(tmp_path: Path, read: Callable[[Path], object]) -> None:
    """A pipe would be waited for, and /dev/zero has no end."""
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UserError, match="pipe or device"):
            read(tmp_path / "pipe")
    if Path("/dev/zero").exists():
        (tmp_path / "zeros.txt").symlink_to("/dev/zero")
        with pytest.raises(UserError, match="pipe or device"):
            read(tmp_path / "zeros.txt")


def test_long_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.txt").write_bytes(b"a.jpg\n" * 30)
    monkeypatch.setattr("utils.reading.MOST_LINES", 20)
    with pytest.raises(UserError, match="more than 20 lines"):
        read_lines(tmp_path / "x.txt")
    monkeypatch.setattr("utils.reading.MOST_LIST", 100)
    with pytest.raises(UserError, match="180 bytes, at most 100 are read"):
        read_lines(tmp_path / "x.txt")


def test_files_that_tell_no_size() -> None:
    if Path("/proc/self/cmdline").exists():
        assert read_bytes("/proc/self/cmdline", 1 << 20)
        with pytest.raises(UserError, match="more than 3 bytes"):
            read_bytes("/proc/self/cmdline", 3)


@pytest.mark.parametrize("value", [True, None, "1", [1], float("nan"), float("inf"), 10**400, -(10**400)])
def test_what_is_no_number(value: object) -> None:
    assert not is_number(value)
    with pytest.raises(UserError, match="hyper-parameter 'lr0' must be a number"):
        checked("x", "lr0", value)


def test_numbers() -> None:
    assert all(map(is_number, (0, -1, 2.5, 10**300, -1e308, 5e-324)))
