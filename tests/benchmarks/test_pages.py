"""Tables by hand, and templates that escape where they have to."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from benchmarks import pages
from benchmarks.pages import check_page, console_table, mark_of, markdown_table, render
from utils.errors import UserError

ROWS = [("name", "ms"), ("a|b", "7"), ("c", "12.5")]


def test_a_table_on_a_page() -> None:
    assert markdown_table(ROWS, "lr").splitlines() == [
        "| name | ms |",
        "| :--- | ---: |",
        r"| a\|b | 7 |",
        "| c | 12.5 |",
    ]


def test_a_table_on_a_console() -> None:
    assert console_table(ROWS, "lr") == "name    ms\na|b      7\nc     12.5"
    assert console_table(ROWS, "ll") == "name  ms\na|b   7\nc     12.5"


def test_html_is_escaped_and_markdown_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "TEMPLATES", tmp_path)
    for name in ("page.html.j2", "page.md.j2"):
        (tmp_path / name).write_text("<b>{{ value }}</b>\n", encoding="utf-8")
    assert render("page.html.j2", value="<i>") == "<b>&lt;i&gt;</b>\n"
    assert render("page.md.j2", value="<i>") == "<b><i></b>\n"
    with pytest.raises(jinja2.UndefinedError):
        render("page.md.j2", valeu="<i>")


@pytest.mark.parametrize("template", [file.name for file in sorted(pages.TEMPLATES.glob("*"))])
def test_every_page_has_its_mark_near_the_top(template: str, tmp_path: Path) -> None:
    if template in ("formats.md.j2", "page.css", "sorting.js"):  # parts of pages
        return
    text = (pages.TEMPLATES / template).read_text(encoding="utf-8")
    assert mark_of(template) in text[: pages.HEAD // 2]
    own, other = tmp_path / "docs" / "own.md", tmp_path / "other.md"
    check_page(own, mark_of(template), "--output")  # makes the folder
    own.write_text(text, encoding="utf-8")
    check_page(own, mark_of(template), "--output")
    other.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"--output: .*other\.md was not written by this command"):
        check_page(own.with_name("new.md"), mark_of(template), "--output", beside=(other,))
    with pytest.raises(UserError, match="choose another name, or remove it"):
        check_page(other, mark_of(template), "--output")
