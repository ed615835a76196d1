import io
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from utils.data.images import ImageError, image_shape, read_image

HEIGHT, WIDTH = 60, 90


def picture() -> Image.Image:
    """Smooth, with a different colour in each corner, so that a wrong turn or channel order shows."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(np.stack([x * 255 // WIDTH, y * 255 // HEIGHT, 0 * x + 40], -1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def bgr(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))[..., ::-1]


def sixteen(array: np.ndarray) -> np.ndarray:
    return (array.astype(np.uint16) << 8) | 77


GREY = picture().convert("L")
CASES: dict[str, tuple[Callable[[], bytes], Image.Image]] = {
    "jpeg": (lambda: encoded(picture(), "JPEG", quality=95), picture()),
    "progressive jpeg": (lambda: encoded(picture(), "JPEG", quality=95, progressive=True), picture()),
    "grey jpeg": (lambda: encoded(GREY, "JPEG", quality=95), GREY),
    "cmyk jpeg": (lambda: encoded(picture().convert("CMYK"), "JPEG", quality=95), picture()),
    "png": (lambda: encoded(picture(), "PNG"), picture()),
    "alpha png": (lambda: encoded(picture().convert("RGBA"), "PNG"), picture()),
    "grey alpha png": (lambda: encoded(GREY.convert("LA"), "PNG"), GREY),
    "palette png": (lambda: encoded(picture().quantize(256), "PNG"), picture()),
    "bilevel png": (lambda: encoded(GREY.convert("1", dither=0), "PNG"), GREY.convert("1", dither=0)),
    "16-bit png": (lambda: cv2.imencode(".png", sixteen(bgr(picture())))[1].tobytes(), picture()),
    "16-bit grey png": (lambda: cv2.imencode(".png", sixteen(np.asarray(GREY)))[1].tobytes(), GREY),
    "bmp": (lambda: encoded(picture(), "BMP"), picture()),
    "webp": (lambda: encoded(picture(), "WEBP", lossless=True), picture()),
    "tiff": (lambda: encoded(picture(), "TIFF"), picture()),
    "cmyk tiff": (lambda: encoded(picture().convert("CMYK"), "TIFF"), picture()),
    "16-bit tiff": (lambda: cv2.imencode(".tif", sixteen(bgr(picture())))[1].tobytes(), picture()),
    "16-bit grey tiff": (lambda: cv2.imencode(".tif", sixteen(np.asarray(GREY)))[1].tobytes(), GREY),
    "32-bit tiff": (lambda: encoded(GREY.convert("I"), "TIFF"), GREY),
    "float tiff": (lambda: encoded(GREY.convert("F"), "TIFF"), GREY),
    "ppm": (lambda: encoded(picture(), "PPM"), picture()),
    "animated gif": (
        lambda: encoded(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (WIDTH, HEIGHT))]),
        picture(),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_kind_becomes_eight_bit_bgr(name: str, tmp_path: Path) -> None:
    make, expected = CASES[name]
    file = tmp_path / "image"
    file.write_bytes(make())
    image = read_image(file)
    assert image.dtype == np.uint8
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image.astype(int) - bgr(expected)).mean() < 4  # lossy codecs and palettes differ a little
    assert image_shape(file) == (HEIGHT, WIDTH)
    assert np.array_equal(image, read_image(file.read_bytes()))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "image"
    file.write_bytes(encoded(picture(), kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {})))
    upright = bgr(ImageOps.exif_transpose(Image.open(file)))
    image = read_image(file)
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 2
    assert image_shape(file) == upright.shape[:2]
    assert image.shape[:2] == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))


def test_damaged_exif_is_no_reason_to_refuse() -> None:
    content = encoded(picture(), "JPEG")
    segment = b"Exif\0\0MM\0*\xff\xff\xff\xff"
    spoilt = content[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + content[2:]
    assert read_image(spoilt).shape == (HEIGHT, WIDTH, 3)


def test_photographs_equal_plain_opencv(shared: Path) -> None:
    for file in sorted((shared / "data/coco256/images/val2017").glob("*.jpg"))[:8]:
        assert np.array_equal(read_image(file), cv2.imread(str(file)))
        assert image_shape(file) == cv2.imread(str(file)).shape[:2]


@pytest.mark.skipif(sys.getfilesystemencoding() == "ascii", reason="no such name can be given there")
def test_path_beyond_ascii(tmp_path: Path) -> None:
    file = tmp_path / "Größe 図.jpg"
    file.write_bytes(encoded(picture(), "JPEG"))
    assert read_image(str(file)).shape == (HEIGHT, WIDTH, 3)


def test_size_behind_a_long_header(tmp_path: Path) -> None:
    content = encoded(picture(), "JPEG")
    padding = b"\xff\xe2" + (65002).to_bytes(2, "big") + bytes(65000)
    (tmp_path / "a.jpg").write_bytes(content[:2] + padding + content[2:])
    assert image_shape(tmp_path / "a.jpg") == (HEIGHT, WIDTH)


JPEG, PNG = encoded(picture(), "JPEG"), encoded(picture(), "PNG")
BROKEN = {
    "empty": (b"", "unreadable"),
    "text": (b"this is not an image", "unreadable"),
    "html": (b"<!DOCTYPE html><html></html>", "unreadable"),
    "half a jpeg": (JPEG[: len(JPEG) // 2], "truncated"),
    "jpeg without its last bytes": (JPEG[:-40], "truncated"),
    "half a png": (PNG[: len(PNG) // 2], "truncated"),
    "jpeg magic only": (JPEG[:3], "unreadable"),
    "half a gif": (encoded(picture(), "GIF")[:900], "truncated"),
    "half a webp": (encoded(picture(), "WEBP")[:60], "unreadable"),
    "half a bmp": (encoded(picture(), "BMP")[:500], "truncated"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_named(name: str, tmp_path: Path) -> None:
    content, kind = BROKEN[name]
    file = tmp_path / "broken.jpg"
    file.write_bytes(content)
    for call in (read_image, image_shape):
        with pytest.raises(ImageError, match=r"broken\.jpg") as caught:
            call(file)
        assert caught.value.kind == kind
        assert "\n" not in str(caught.value)


def test_missing_image(tmp_path: Path) -> None:
    for call in (read_image, image_shape):
        with pytest.raises(ImageError, match="missing") as caught:
            call(tmp_path / "nowhere.jpg")
        assert caught.value.kind == "missing"


def test_a_png_that_is_damaged_inside_is_no_image(tmp_path: Path) -> None:
    """OpenCV itself would give the rows before the damage, over black."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    good, data = cv2.imencode(".png", noise)
    assert good and np.array_equal(read_image(data.tobytes()), noise)
    path = tmp_path / "a.png"
    for start in (60, 200, 4000, 8100, 9000):
        content = bytearray(data.tobytes())
        content[start:-60] = bytes(len(content) - start - 60)
        path.write_bytes(content)
        assert image_shape(path) == (64, 64)  # the scan reads heads and tails
        with pytest.raises(ImageError, match=r"a\.png: unreadable image \(damaged inside"):
            read_image(path)
    text = b"tEXtkey\0value"  # a remark with a wrong sum costs nothing
    whole = data.tobytes()
    assert np.array_equal(read_image(whole[:33] + b"\0\0\0\x09" + text + bytes(4) + whole[33:]), noise)
