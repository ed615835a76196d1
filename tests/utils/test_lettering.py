"""Names in every script, on plots and pictures: drawn, or told that they cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.text import Text

from utils import lettering
from utils.detections.annotate import annotate
from utils.evaluation.metrics import ConfusionMatrix
from utils.lettering import draw_text, families, fonts_of, legible, text_width
from utils.plots.canvas import class_label, new_figure, save_figure, svg_of
from utils.plots.confusion import plot_confusion_matrix
from utils.plots.labels import plot_labels

RARE = "\U00012000"  # cuneiform, which no machine that runs tests is likely to have


@pytest.fixture(autouse=True)
def nothing_is_known_yet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test with matplotlib's own fonts alone, whatever the machine has."""
    own = [e for e in font_manager.fontManager.ttflist if "mpl-data" in e.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(lettering, "_font_of", {})
    monkeypatch.setattr(lettering, "_told", set())
    lettering._fonts.cache_clear()
    yield
    lettering._fonts.cache_clear()


def install(folder: Path, family: str, letters: str) -> Path:
    """A font whose letters are bars across the line, and which has no others."""
    pen = TTGlyphPen(None)
    for x, y in ((0, 0), (0, 300), (900, 300), (900, 0)):
        (pen.lineTo if x or y else pen.moveTo)((x, y))
    pen.closePath()
    empty, bar = TTGlyphPen(None).glyph(), pen.glyph()
    names = [".notdef", *(f"u{ord(letter):X}" for letter in letters)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): f"u{ord(letter):X}" for letter in letters})
    builder.setupGlyf(dict.fromkeys(names, bar) | {".notdef": empty})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = folder / f"{family}.ttf"
    builder.save(path)
    font_manager.fontManager.addfont(str(path))
    return path


def test_latin_needs_nothing() -> None:
    assert legible("cat", 3) == legible("cat", 3, opencv=True) == "cat"
    assert legible("Größe ½ – naïve") == "Größe ½ – naïve"
    assert families("Größe") == families("cat")


def test_letters_that_no_font_has(capsys: pytest.CaptureFixture[str]) -> None:
    assert legible("猫", 4) == "? (4)"
    assert legible("cat 猫犬!", 4) == "cat ?! (4)"
    assert legible("猫.jpg") == "?.jpg"  # a text that is no class
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "letters (cjk)" in error and "install Noto Sans CJK" in error
    legible("แมว")
    legible("日本 ไทย")
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "install Noto Sans Thai" in error


def test_names_stay_apart() -> None:
    labels = {class_label(name, number) for number, name in enumerate(["猫", "犬", "鳥", "猫 1", "?"])}
    assert len(labels) == 5


def test_long_names_keep_their_number() -> None:
    assert class_label("猫" * 40, 17, 14) == "? (17)"


def test_a_font_that_is_installed_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = install(tmp_path, "Bars", "猫犬")
    assert legible("猫 and 犬", 1) == "猫 and 犬"
    assert families("猫 and 犬")[-1] == "Bars" and len(families("猫 and 犬")) == 2
    assert {letter: font.file for letter, font in fonts_of("猫a").items() if font}["猫"] == str(path)
    assert not capsys.readouterr().err


@pytest.mark.filterwarnings("error:Glyph")  # of a letter that is missing
@pytest.mark.parametrize("installed", [False, True])
def test_plots_have_no_empty_boxes(installed: bool, tmp_path: Path) -> None:
    if installed:
        install(tmp_path, "Bars", "猫犬แ")
    names = {0: "猫", 1: "แ犬", 2: "عربي", 3: "_a$b"}
    boxes = np.array([[number, 0.5, 0.5, 0.2, 0.2] for number in range(4)])
    plot_labels(boxes, names, tmp_path / "labels.jpg")
    confusion = ConfusionMatrix(4)
    plot_confusion_matrix(confusion, names, tmp_path / "confusion.png")
    assert (tmp_path / "labels.jpg").stat().st_size > 5000


@pytest.mark.filterwarnings("error:Glyph")
def test_every_text_of_a_figure_is_looked_at(tmp_path: Path) -> None:
    install(tmp_path, "Bars", "猫")
    for save in (lambda figure: save_figure(figure, tmp_path / "a.png"), lambda figure: svg_of(figure, "a")):
        figure = new_figure(3, 2)
        axes = figure.add_subplot()
        axes.plot([0, 1], label="猫")
        axes.set_title(f"猫 {RARE}")
        axes.set_xticks([0], ["猫"])
        axes.legend()
        save(figure)
        shown = [text for text in figure.findobj(Text) if "猫" in text.get_text()]
        assert len(shown) >= 3 and all("Bars" in text.get_fontfamily() for text in shown)
        assert axes.get_title(loc="center") == "猫 ?"


def test_a_font_that_cannot_be_opened_is_passed_over(tmp_path: Path) -> None:
    install(tmp_path, "Gone", "猫").unlink()
    assert legible("猫", 0) == "? (0)"


def pixels(text: str) -> np.ndarray:
    image = np.full((40, 200, 3), 90, np.uint8)
    draw_text(image, text, (10, 30), (255, 255, 255), 20)
    return image != 90


def test_pictures_show_what_opencv_has() -> None:
    """Chinese, Japanese and Korean need no font; what a question mark stands for does."""
    shown = [pixels(text) for text in ("猫", "犬", "고", "ж", "?")]
    assert all(not np.array_equal(a, b) for i, a in enumerate(shown) for b in shown[:i])
    assert legible("猫 고 ж", 0, opencv=True) == "猫 고 ж"
    assert legible(f"a {RARE}", 7, opencv=True) == "a ? (7)"


def test_pictures_show_what_an_installed_font_has(tmp_path: Path) -> None:
    assert legible("แ", 0, opencv=True) == "? (0)"
    lettering._font_of.clear()
    lettering._fonts.cache_clear()
    install(tmp_path, "Bars", "แ")
    assert legible("แ", 0, opencv=True) == "แ"
    rows, columns = np.nonzero(pixels("แ")[..., 0])
    assert (rows.min(), rows.max()) == (24, 29)  # 0.3 of 20 pixels above the base line at 30
    assert (columns.min(), columns.max()) == (10, 27)  # 0.9 of 20 to the right of 10
    assert text_width("แ", 20, (200, 40)) == 20


def test_right_to_left(tmp_path: Path) -> None:
    """A word of Hebrew begins at the right: its last letter stands where a text begins."""
    word, last = pixels("חתול"), pixels("ל")
    columns = slice(0, 10 + text_width("ל", 20, (200, 40)) - 1)
    assert np.array_equal(word[:, columns], last[:, columns]) and last[:, columns].any()


def test_annotated_pictures(tmp_path: Path) -> None:
    """The number of a class that cannot be written is there."""
    rows = np.array([[20, 40, 90, 90, 0.9, 0], [120, 40, 190, 90, 0.8, 1]])
    drawn = [annotate(np.full((100, 200, 3), 90, np.uint8), rows, {0: a, 1: b}) for a, b in
             ((RARE, RARE), ("? (0)", "? (1)"), ("?", "?"))]  # fmt: skip
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
