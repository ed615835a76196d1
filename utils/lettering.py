"""Texts that can be read wherever they are drawn: fonts of this machine for the letters that a text has.

Names of classes come in all scripts. Figures are drawn by matplotlib, whose own font lacks most of them, and
pictures by OpenCV, whose own has Latin, Greek, Cyrillic, Chinese, Japanese and Korean, and which writes every
script from left to right. The other letters come from the fonts that are installed; nothing is downloaded.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import Any

import cv2
import numpy as np

from utils.console import printable, warn

UNSEEN = ("Cc", "Cf", "Zs", "Zl", "Zp")  # categories of letters that no font needs to have
SELECTORS = re.compile("[\ufe00-\ufe0f]")  # they only choose between forms of the letter before
EAST_ASIAN = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC")
# looked at first where many are installed
KNOWN = re.compile(
    "DejaVu Sans$|Noto Sans|Arial Unicode|Microsoft|SimHei|Malgun|Yu Gothic|Meiryo|PingFang|Hiragino|"
    "Apple SD|WenQuanYi|Source Han|Droid Sans Fallback|Leelawadee|Nirmala|Thonburi|Kohinoor|Segoe UI|Symbola"
)


@dataclass(frozen=True)
class Font:
    """The family's name and the file of a font."""

    family: str
    file: str


def legible(text: str, number: int | None = None, *, opencv: bool = False) -> str:
    """A text without the letters that cannot be drawn: `?` stands for them, and the class's number follows.

    Whoever runs the command is told once for each script which font to install.

    Args:
        number: of the class that is called so.
        opencv: it is drawn by `draw_text`, which has the letters of OpenCV, too.
    """
    text = SELECTORS.sub("", printable(text))
    wanted = {letter for letter in text if not (opencv and _in_opencv(letter))}
    missing = {letter for letter, font in fonts_of(wanted).items() if font is None}
    if not missing:
        return text
    _tell(missing)
    shown = re.sub(r"\?+", "?", "".join("?" if letter in missing else letter for letter in text))
    return shown if number is None else f"{shown} ({number})"


def families(text: str) -> list[str]:
    """The families, matplotlib's own first, that have the letters of a text between them."""
    import matplotlib

    found = [font.family for font in fonts_of(set(text)).values() if font and font != _fonts()[0]]
    return list(dict.fromkeys([*matplotlib.rcParams["font.family"], *found]))


_font_of: dict[str, Font | None] = {}


def fonts_of(letters: Iterable[str]) -> dict[str, Font | None]:
    """A font for each of these letters but blanks; None where no font has it."""
    seen = {letter for letter in letters if unicodedata.category(letter) not in UNSEEN}
    unknown = seen - _font_of.keys()
    if not unknown:
        return {letter: _font_of[letter] for letter in seen}
    from matplotlib.ft2font import FT2Font

    for font in _fonts():
        try:
            face = FT2Font(font.file)
            usable = face.scalable  # letters in colour are pictures, which matplotlib cannot draw
        except (RuntimeError, OSError):  # removed, or of a kind that is not known here
            continue
        if usable:
            have = {letter for letter in unknown if face.get_char_index(ord(letter))}
            _font_of.update(dict.fromkeys(have, font))
            unknown -= have
        if not unknown:
            break
    _font_of.update(dict.fromkeys(unknown))
    return {letter: _font_of[letter] for letter in seen}


@cache
def _fonts() -> list[Font]:
    """What is installed, matplotlib's choice first, then what is likely to help."""
    from matplotlib import font_manager

    own = font_manager.findfont(font_manager.FontProperties())
    upright = [entry for entry in font_manager.fontManager.ttflist if entry.style == "normal"]
    plain = (400, "normal", "regular")
    upright.sort(
        key=lambda entry: (not KNOWN.match(entry.name), entry.weight not in plain, entry.name, entry.fname)
    )
    fonts = [Font(entry.name, entry.fname) for entry in upright if not entry.name.startswith("Last Resort")]
    first = next((font for font in fonts if font.file == own), Font("sans-serif", own))
    return [first, *(font for font in fonts if font.file != own)]


_told: set[str] = set()


def _tell(missing: set[str]) -> None:
    """Warn of letters that no font has, each script once."""
    scripts = {_script(letter) for letter in missing}
    if scripts - _told:
        fonts = sorted({_advice(script) for script in scripts - _told})
        _told.update(scripts)
        warn(
            f"no font here has the letters ({', '.join(sorted(scripts)).lower()}) of some names, which are "
            f"drawn as ?; install {' and '.join(fonts)}"
        )


def _script(letter: str) -> str:
    if unicodedata.category(letter) in ("So", "Sk"):
        return "EMOJI"
    first = unicodedata.name(letter, "OTHER").split()[0].split("-")[0]
    return "CJK" if first in EAST_ASIAN else first


def _advice(script: str) -> str:
    known = {"CJK": "Noto Sans CJK (fonts-noto-cjk)", "EMOJI": "Noto Emoji or Symbola", "OTHER": "theirs"}
    return known.get(script, f"Noto Sans {script.capitalize()}")


# ---- on pictures ----

WEIGHT = 500  # between regular and bold, which reads better on busy pictures


@cache
def _face() -> Any:
    return cv2.FontFace("sans")


@lru_cache(maxsize=65536)
def _in_opencv(letter: str) -> bool:
    """Whether OpenCV draws a letter well; it puts `?` for others, and turns those of the right to left."""
    if letter.isascii() or unicodedata.category(letter) in UNSEEN:
        return True
    if unicodedata.bidirectional(letter) in ("R", "AL"):
        return False

    def drawn(text: str) -> np.ndarray:
        canvas = np.zeros((40, 48), np.uint8)
        cv2.putText(canvas, text, (4, 30), 255, _face(), 24, WEIGHT)
        return canvas

    return not np.array_equal(drawn(letter), drawn("?"))


def text_width(text: str, height: int, frame: tuple[int, int]) -> int:
    """What `draw_text` takes from its origin on, in pixels; `frame` is the picture's (width, height)."""
    if all(map(_in_opencv, text)):
        x, _, width, _ = cv2.getTextSize(frame, text, (0, 0), _face(), height, WEIGHT)
        return int(x + width)
    return sum(round(font.getlength(run)) for run, font in _runs(text, height))


def draw_text(
    image: np.ndarray, text: str, origin: tuple[int, int], color: tuple[int, int, int], height: int
) -> None:
    """Write a `legible` text on an image (H, W, 3) uint8 BGR; `origin` is the left end of its base line."""
    if all(map(_in_opencv, text)):
        cv2.putText(image, text, origin, color, _face(), height, WEIGHT)
        return
    from PIL import Image, ImageDraw

    mask = Image.new("L", image.shape[1::-1])
    canvas, x = ImageDraw.Draw(mask), origin[0]
    for run, font in _runs(text, height):
        canvas.text((x, origin[1]), run, fill=255, font=font, anchor="ls")
        x += round(font.getlength(run))
    share = np.asarray(mask, np.float32)[..., None] / 255
    image[:] = np.rint(image * (1 - share) + np.array(color, np.float32) * share).astype(np.uint8)


def _runs(text: str, height: int) -> list[tuple[str, Any]]:
    """Parts of a text with Pillow's font for each, from left to right."""
    from PIL import features

    files = {letter: font.file if font else _fonts()[0].file for letter, font in fonts_of(set(text)).items()}
    at, parts = _fonts()[0].file, []
    for letter in text:
        at = files.get(letter, at)  # a blank goes with what stands before it
        parts.append((letter, at))
    runs = [("".join(letter for letter, _ in part), file) for file, part in groupby(parts, lambda p: p[1])]
    strong = (unicodedata.bidirectional(letter) for letter in text)
    backward = next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"
    if backward:
        runs.reverse()
        if not features.check("raqm"):  # nobody else would turn it
            runs = [(run[::-1], file) for run, file in runs]
    return [(run, _pillow_font(file, height)) for run, file in runs]


@lru_cache(maxsize=16)
def _pillow_font(file: str, height: int) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(file, height)
