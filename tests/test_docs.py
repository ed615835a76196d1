"""What the documentation says of the code is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = re.compile(r"`([\w/]+\.py): ([\w.]+)`")
# files of ours: `models/yolo.py`, `utils/data/`; not commands, nor what users or formats have
PATHS = re.compile(r"`((?:models|utils|training|benchmarks|curation|tests|data|docs)/[\w./-]*)`")


def defined(path: Path) -> set[str]:
    """Names of a module: functions, classes and, with a dot, their methods."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_functions_that_are_named_exist(page: Path) -> None:
    named = NAMES.findall(page.read_text(encoding="utf-8"))
    assert named or page.name != "architecture.md"
    assert [f"{file}: {name}" for file, name in named if name not in defined(ROOT / file)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = set(PATHS.findall(page.read_text(encoding="utf-8")))
    made = {path for path in named if "NAME" in path}  # in recipes: yours to choose
    assert sorted(path for path in named - made if not (ROOT / path).exists()) == []
