"""The changes that `python -m tests.mutation` makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants import mutants_of


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("x = a < b + 1", ["x = a <= b + 1", "x = a < b - 1", "x = a < b + 2"]),
        ("x += 2", ["pass  # x += 2", "x -= 2", "x += 3"]),
        ("f(x, key=True)", ["pass  # f(x, key=True)", "f(x)", "f(x, key=False)"]),
        ("x = min(-y, z) if a and (not b) else c", [
            "x = min(-y, z) if not (a and (not b)) else c",
            "x = min(-y, z) if a or not b else c",
            "x = min(-y, z) if a and b else c",
            "x = max(-y, z) if a and (not b) else c",
            "x = min(y, z) if a and (not b) else c",
        ]),
        ("x: int = 'text'", []),
        ("import os", []),
    ],
)  # fmt: skip
def test_changes_of_a_line(tmp_path: Path, line: str, changed: list[str]) -> None:
    (tmp_path / "module.py").write_text(f"{line}\n", encoding="utf-8")
    mutants = mutants_of(tmp_path, "module.py")
    assert sorted(mutant.after for mutant in mutants) == sorted(changed)
    assert all(mutant.source != f"{line}\n" and mutant.lines == (1,) for mutant in mutants)


def test_changes_inside_a_function(tmp_path: Path) -> None:
    text = 'def f(x: int = 1) -> int:\n    """Text."""\n    while x:\n        break\n    return x\n'
    (tmp_path / "module.py").write_text(text, encoding="utf-8")
    found = [(mutant.lines, mutant.before, mutant.after) for mutant in mutants_of(tmp_path, "module.py")]
    assert sorted(found) == [
        ((1,), "def f(x: int=1) -> int:", "def f(x: int=2) -> int:"),
        ((3,), "while x:", "while not x:"),
        ((4,), "break", "continue"),
        ((5,), "return x", "return None"),
    ]
