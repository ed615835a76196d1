"""One colour per class, shared by plots and annotated images."""

# Twenty hues that stay apart on photographs, ordered so that neighbours in a class list differ.
_HEX_COLOURS = (
    "E6194B", "3CB44B", "4363D8", "F58231", "911EB4", "00A6B4", "F032E6", "7FB800", "B5651D", "0072B2",
    "D55E00", "009E73", "CC4F8B", "6A4C93", "A67C00", "2F4B7C", "FF6361", "1B998B", "8D5A97", "58508D",
)  # fmt: skip

_BGR = tuple((int(h[4:6], 16), int(h[2:4], 16), int(h[0:2], 16)) for h in _HEX_COLOURS)


def class_color(index: int) -> tuple[int, int, int]:
    """Colour of a class as (blue, green, red), each 0–255; repeats after twenty classes."""
    return _BGR[int(index) % len(_BGR)]


def text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white (b, g, r), whichever reads better on `background`."""
    blue, green, red = background
    luminance = 0.114 * blue + 0.587 * green + 0.299 * red
    return (0, 0, 0) if luminance > 150 else (255, 255, 255)
