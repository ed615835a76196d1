"""The look that all figures share; matplotlib is imported here, and in `utils/lettering.py` for its fonts.

Matplotlib is imported when the first figure is made: it costs a third of a second that most commands do not
need to spend. Figures are made without pyplot, which keeps global state and is not safe in threads.
"""

from __future__ import annotations

import html
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.console import printable
from utils.files import atomic_write
from utils.lettering import families, legible
from utils.palette import class_color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2933"
FAINT = "#9aa5b1"
GRID_COLOUR = "#e4e7eb"
ACCENT = "#1d4ed8"
SVG_METADATA = ("Date", "Creator", "Format", "Type")


def new_figure(width: float, height: float, dpi: int = 110, *, automatic: bool = True) -> Figure:
    """A figure of `width` x `height` inches. Automatic layout measures every text twice: costly with many."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
    FigureCanvasAgg(figure)
    if automatic:
        figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a png or jpg by the ending of `path`. Light compression: files are read more seldom than made.

    Raises:
        OSError: the file cannot be written, and an older one stays.
    """
    _choose_fonts(figure)
    options: dict[str, Any] = {"quality": 90} if path.suffix == ".jpg" else {"compress_level": 3}
    content = io.BytesIO()  # first: Pillow does not say why it cannot write
    figure.savefig(content, format=path.suffix[1:], pil_kwargs=options)
    with atomic_write(path, durable=False) as file:
        file.write(content.getbuffer())


def _choose_fonts(figure: Figure) -> None:
    """Give every text of a figure fonts that have its letters."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        if not text.get_text().isascii():
            text.set_text(legible(text.get_text()))
            text.set_fontfamily(families(text.get_text()))


def style_axes(axes: Axes, title: str = "", x: str = "", y: str = "", grid: bool = True) -> None:
    """Title on the left, light grid, no box around the data."""
    if title:
        axes.set_title(title, loc="left", fontsize=11, color=INK, fontweight="bold")
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    if grid:
        axes.grid(color=GRID_COLOUR, linewidth=0.8)
        axes.set_axisbelow(True)


def hex_color(cls: int) -> str:
    """A class's colour as matplotlib writes it."""
    blue, green, red = class_color(cls)
    return f"#{red:02x}{green:02x}{blue:02x}"


def shorten(text: str, length: int = 22) -> str:
    """A name that fits beside a plot."""
    return text if len(text) <= length else text[: length - 1] + "…"


def class_label(name: str, number: int, length: int = 22) -> str:
    """The name of a class as a plot shows it: not too long, and of letters that can be drawn."""
    return shorten(legible(name, number), length)


def literal(text: str) -> str:
    """A text as matplotlib shows it as it is: `$` would be mathematics, and `_name` would be in no legend."""
    return (" " if text.startswith("_") else "") + printable(text).replace("$", r"\$")


def svg_of(figure: Figure, label: str) -> str:
    """The figure as an SVG element; the page has its colours in variables --ink, --soft, --line and --mark.

    An artist whose id (`set_gid`) holds a blank shows it as a hint under the pointer.

    Args:
        label: what it shows, for those who cannot see it.
    """
    import matplotlib

    _choose_fonts(figure)
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        # without the date, so that the same figure is the same text
        figure.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(SVG_METADATA))
    svg = f'<svg role="img" aria-label="{html.escape(label)}" ' + text.getvalue().partition("<svg ")[2]
    for color, variable in ((INK, "--ink"), (FAINT, "--soft"), (GRID_COLOUR, "--line"), (ACCENT, "--mark")):
        svg = svg.replace(color, f"var({variable})")
    svg = re.sub(r"font-family: [^;]*; ", "", svg)  # that of the page
    return re.sub(r'<g id="([^"]* [^"]*)">', r"<g><title>\1</title>", svg)
