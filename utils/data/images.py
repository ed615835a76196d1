"""Reading image files of any kind as 8-bit, upright arrays, and their sizes without decoding.

JPEG, PNG and BMP go through OpenCV; the rest through Pillow, which is imported only then. Orientation is read
here and not left to the decoder, so that `read_image` and `image_shape` cannot disagree about it.
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from utils.data.channels import with_channels
from utils.data.shards.places import of_member
from utils.data.shards.ranges import read_range
from utils.errors import UserError
from utils.reading import read_bytes

_SUFFIXES = "jpg jpeg jpe jfif mpo png apng bmp dib webp tif tiff gif jp2 avif ppm pgm pbm pnm"
IMAGE_SUFFIXES = frozenset("." + suffix for suffix in _SUFFIXES.split())

_JPEG, _PNG, _BMP = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"
_TIFF = (b"II*\0", b"MM\0*")
MOST_BYTES = 1 << 30  # of a file
MOST_SEGMENTS = (
    10_000  # of a JPEG before its picture; a colour profile or a thumbnail takes some, of 64 kB each
)
# what Pillow is asked for; it knows formats of documents and fonts, too, whose readers are tried less
_PILLOW = ("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "JPEG2000", "AVIF", "PPM")
_TAIL_BYTES = 64
_HEADER_BYTES = 1 << 15  # holds the frame header of nearly every JPEG; the whole file is read otherwise
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length field
_ORIENTATION_TAG = 0x0112
_SAMPLES_TAG = 0x0115


class ImageError(UserError):
    """An image that cannot be used: `reason` says why, `kind` is "unreadable", "truncated" or "missing"."""

    def __init__(self, name: str, reason: str, kind: str = "unreadable") -> None:
        super().__init__(name, reason, kind)  # its own arguments, so that it can come from a process
        self.name, self.reason, self.kind = name, reason, kind

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} image ({self.reason})"


def most_pixels() -> int:
    """How many pixels an image may have: 16384 x 16384, or what OPENCV_IO_MAX_IMAGE_PIXELS says."""
    told = os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", "")
    return int(told) if told.isdecimal() and len(told) < 20 else 1 << 28


def _check_size(width: int, height: int, name: str) -> None:
    """A file of a few kilobytes can ask for any number of pixels.

    Raises:
        ImageError: too many, or none.
    """
    if width < 1 or height < 1 or width * height > most_pixels():
        limit = f"at most {most_pixels():,} pixels are read; OPENCV_IO_MAX_IMAGE_PIXELS raises that"
        raise ImageError(name, f"{width}x{height}: {limit}")


def read_image(source: str | os.PathLike[str] | bytes, channels: int | None = 3) -> np.ndarray:
    """Decode an image file, or its bytes, to (H, W, channels) uint8 BGR, upright as its EXIF data asks.

    Grey, palette and CMYK images are converted, 16 bits become the upper 8, and of an animation the first
    frame counts.

    Args:
        channels: 1: grey. 3: colour, alpha is dropped. 4: and alpha or the fourth band of a TIFF, 255 where
            the file has none. None: 4 when the file has a fourth, else 3.

    Raises:
        ImageError: no such file, not an image, or cut short.
    """
    if isinstance(source, bytes):
        name, content = "image", source
    else:
        name, content = os.fspath(source), image_bytes(os.fspath(source))
    image = _read_found(content, name, fourth=channels is None or channels == 4)
    return image if channels is None else with_channels(image, channels)


def _read_found(content: bytes, name: str, *, fourth: bool) -> np.ndarray:
    """(H, W, 3) uint8 BGR, upright; (H, W, 4) when a fourth is wanted and there."""
    if content.startswith(_PNG):
        _check_sums(content, name)
    if content.startswith(_JPEG):
        _, orientation = _jpeg_header(content, name)
        image = _decode(content, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is not None:
            return _upright(image, orientation)
    elif content.startswith(_BMP) or (content.startswith(_PNG) and not _png_has_exif(content)):
        _check_size(*_stored_size(content), name)
        with_fourth = fourth and _may_have_fourth(content)
        image = _decode(content, cv2.IMREAD_UNCHANGED if with_fourth else cv2.IMREAD_COLOR)
        if image is not None and not with_fourth:
            return image
        if image is not None and image.ndim == 3 and image.shape[2] == 4:
            return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
    return _read_with_pillow(content, name, fourth)


def image_shape(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Height and width that `read_image` would give; a JPEG or PNG that looks complete is not decoded.

    Raises:
        ImageError: as `read_image`.
    """
    name = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(name).st_mode):  # noqa: PTH116 - a Path per image doubles the time of a scan
            raise ImageError(name, "no file, but a folder, pipe or device")
        with open(name, "rb") as file:  # noqa: PTH123

            def read(start: int, size: int) -> bytes:
                file.seek(start)
                return file.read(size)

            return shape_in(name, file.seek(0, os.SEEK_END), read)
    except OSError as error:
        raise _missing(name, error) from error


def shape_in(name: str, size: int, read: Callable[[int, int], bytes]) -> tuple[int, int]:
    """The same of an image of `size` bytes, of which `read` gives some by offset and number.

    Raises:
        ImageError: as `read_image`.
    """
    head = read(0, min(size, _HEADER_BYTES))
    tail = read(max(size - _TAIL_BYTES, 0), min(size, _TAIL_BYTES))

    def whole() -> bytes:
        if size > MOST_BYTES:
            raise ImageError(name, f"'{name}' has {size:,} bytes, at most {MOST_BYTES:,} are read")
        return read(0, size)

    if head.startswith(_JPEG) and b"\xff\xd9" in tail:
        try:
            shape, orientation = _jpeg_header(head, name)
        except ImageError:
            if size <= len(head):
                raise
            shape, orientation = _jpeg_header(whole(), name)
        return shape if orientation < 5 else (shape[1], shape[0])
    if head.startswith(_PNG) and len(head) >= 24 and b"IEND" in tail and not _png_has_exif(head):
        width, height = _stored_size(head)
        _check_size(width, height, name)
        return height, width
    height, width = _read_found(whole(), name, fourth=False).shape[:2]
    return height, width


def image_bytes(name: str) -> bytes:
    """The file of an image, or its bytes in a tar shard.

    Raises:
        ImageError: no such file, or too large.
        UserError: the shard cannot be read.
    """
    if (place := of_member(name)) is not None:
        return read_range(*place)  # whose errors tell of a network, not of a picture
    try:
        return read_bytes(name, MOST_BYTES)
    except OSError as error:
        raise _missing(name, error) from error
    except UserError as error:
        raise ImageError(name, str(error)) from error


def _missing(name: str, error: OSError) -> ImageError:
    kind = "missing" if isinstance(error, FileNotFoundError) else "unreadable"
    return ImageError(name, error.strerror or str(error), kind)


def _decode(content: bytes, flags: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def _stored_size(content: bytes) -> tuple[int, int]:
    """Width and height in the header of a PNG or BMP; a BMP that stands on its head has a negative height."""
    if len(content) < 26:
        return 0, 0
    if content.startswith(_PNG):
        return struct.unpack_from(">II", content, 16)
    short = struct.unpack_from("<I", content, 14) == (12,)
    width, height = struct.unpack_from("<HH" if short else "<ii", content, 18)
    return width, abs(height)


def _jpeg_header(content: bytes, name: str) -> tuple[tuple[int, int], int]:
    """(height, width) as stored, and the EXIF orientation 1–8, from the segments before the picture.

    Raises:
        ImageError: there is no such header, or too many pixels.
    """
    at, orientation = 2, 1
    for _ in range(MOST_SEGMENTS):
        if at + 9 > len(content):
            break
        lead, marker, length = struct.unpack_from(">BBH", content, at)
        if lead != 0xFF:
            break
        if marker == 0xFF or marker in _BARE_MARKERS:
            at += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack_from(">HH", content, at + 5)
            _check_size(width, height, name)
            return (height, width), orientation
        if marker == 0xE1 and content[at + 4 : at + 10] == b"Exif\0\0" and orientation == 1:
            orientation = _exif_orientation(content[at + 10 : at + 2 + length])
        at += 2 + length
    raise ImageError(name, "no JPEG frame header")


def _exif_orientation(tiff: bytes) -> int:
    """The orientation 1–8 in a block of EXIF data; 1 when it is absent or damaged."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * entries, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION_TAG:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def _png_has_exif(content: bytes) -> bool:
    return b"eXIf" in content[: content.find(b"IDAT")]


def _may_have_fourth(content: bytes) -> bool:
    """Whether the header of a PNG or BMP announces alpha."""
    if content.startswith(_BMP):
        return content[28:29] == b"\x20"  # bits a pixel
    return content[25:26] in (b"\x04", b"\x06") or b"tRNS" in content[: content.find(b"IDAT")]


def _check_sums(content: bytes, name: str) -> None:
    """Of a PNG that is damaged inside, OpenCV and Pillow give the upper part over black and say nothing.

    Raises:
        ImageError: a part that the picture needs is not what was written.
    """
    view, at = memoryview(content), len(_PNG)
    while at + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, at)
        end, needed = at + 8 + length, not content[at + 4] & 32  # small letters may be left out
        if end + 4 > len(content):
            return  # cut off, which decoders notice
        if needed and struct.unpack_from(">I", content, end) != (zlib.crc32(view[at + 4 : end]),):
            raise ImageError(name, "damaged inside: a check sum is wrong")
        at = end + 4


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation: 5–8 are stored transposed, and each of 2–8 but 5 is mirrored in some axis."""
    if orientation >= 5:
        image = cv2.transpose(image)
    mirror = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if mirror is None else cv2.flip(image, mirror)


def _read_with_pillow(content: bytes, name: str, fourth: bool) -> np.ndarray:
    from PIL import Image, ImageOps

    try:
        Image.init()
        known = [form for form in _PILLOW if form in Image.OPEN]
        with Image.open(io.BytesIO(content), formats=known) as image:
            _check_size(image.width, image.height, name)
            image.seek(0)
            image.load()
            found = eight_bit_bgr(ImageOps.exif_transpose(image), fourth=fourth)
            samples = getattr(image, "tag_v2", {}).get(_SAMPLES_TAG)
            if not fourth or samples != 4 or image.mode != "RGB":
                return found
            return _with_nameless_band(found, content, image.getexif().get(_ORIENTATION_TAG, 1))
    except (ImageError, Image.DecompressionBombError) as error:
        raise ImageError(name, getattr(error, "reason", str(error))) from error
    except Exception as error:  # Pillow's decoders raise anything from SyntaxError to struct.error
        decoded = _decode(content, cv2.IMREAD_COLOR) if content.startswith(_TIFF) else None
        if decoded is not None:  # Pillow knows no TIFF with 16 bits in each of three channels
            return decoded
        reason = " ".join(str(error).split()) or type(error).__name__
        if not content:
            reason = "empty file"
        elif "identify" in reason:
            reason = "not an image format that is known here"
        cut = "truncated" in reason or "Truncated" in reason
        raise ImageError(name, reason, "truncated" if cut else "unreadable") from error


def _with_nameless_band(colour: np.ndarray, content: bytes, orientation: int) -> np.ndarray:
    """(H, W, 4): `colour` with the fourth band of a TIFF that does not say what it means: Pillow drops it."""
    bands = _decode(content, cv2.IMREAD_UNCHANGED)
    if bands is not None and bands.ndim == 3 and bands.shape[2] == 4:
        bands = bands if bands.dtype == np.uint8 else (bands >> 8).astype(np.uint8)
        for turned in (bands, _upright(bands, orientation)):  # OpenCV turns some kinds upright by itself
            if np.array_equal(turned[..., :3], colour):
                return turned
    raise ValueError("a fourth band that cannot be read")


def eight_bit_bgr(image: Any, *, fourth: bool) -> np.ndarray:
    """A loaded Pillow image of any mode as (H, W, 3) uint8 BGR, or 4 where a fourth is wanted and there."""
    if fourth and image.has_transparency_data:
        return cv2.cvtColor(np.asarray(image.convert("RGBA")), cv2.COLOR_RGBA2BGRA)
    if image.mode[0] not in "IF":
        return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
    values = np.asarray(image)
    if image.mode == "F":
        values = values * 255 if values.max(initial=0) <= 1 else values
        values = np.nan_to_num(values)
    elif values.dtype.itemsize > 1 and (image.mode != "I" or values.max(initial=0) > 255):
        values = values >> 8
    return cv2.cvtColor(np.clip(values, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)
