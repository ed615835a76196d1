"""Yamls and lists that users write."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.errors import UserError
from utils.reading import read_lines, read_yaml


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
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"x\.txt' is not UTF-8 text"):
        read_lines(tmp_path / "x.txt")
