"""Pictures, labels, lists and caches from strangers: small files that ask for much, and forged ones."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.fuzz import memory
from utils.data.image_cache import DiskStore
from utils.data.images import ImageError, image_shape, most_pixels, read_image
from utils.data.index import ARRAYS, build_index
from utils.data.labels import MOST_ROWS, parse_labels
from utils.data.sources import MOST_LISTS, expand, open_source
from utils.data.streams import StreamSource
from utils.errors import UserError

HUGE = (65_535, 65_535)
BEYOND = (1 << 14, (1 << 14) + 1)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pieces = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(pieces)


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(64)


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif(width: int, height: int) -> bytes:
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\0\0\0" + b"," + bytes(4) + size + b"\0\x02\x02\x4c\x01\0;"


def tiff(width: int, height: int) -> bytes:
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (277, 3, 1),
    ]
    tags += [(278, 4, height), (279, 4, width * height % (1 << 32))]
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + rows + bytes(4)


def ppm(width: int, height: int) -> bytes:
    return f"P6 {width} {height} 255\n".encode() + bytes(100)


def webp(width: int, height: int) -> bytes:
    extended = struct.pack("<I", 0x10) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + extended
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("make", [png, bmp, jpeg, gif, tiff, ppm, webp])
@pytest.mark.parametrize("size", [HUGE, BEYOND, (0, 5), (5, 0)])
def test_declared_sizes_are_not_believed(tmp_path: Path, make: object, size: tuple[int, int]) -> None:
    """A picture of a few bytes that says that it has billions of pixels, or none."""
    if make is webp and size[0] * size[1] == 0:
        pytest.skip("its sides are stored less one")
    path = tmp_path / "x.png"
    path.write_bytes(make(*size))  # type: ignore[operator]
    before = memory()
    for read in (read_image, image_shape):
        with pytest.raises(ImageError) as error:
            read(path)
        assert len(str(error.value)) < 400
    assert memory() - before < 200 << 20


def test_a_bomb_that_is_whole(tmp_path: Path) -> None:
    """260 kB that decode to 800 MB: refused by its header."""
    width, height = BEYOND
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    data = b"".join([*(packer.compress(row) for _ in range(64)), packer.flush()])
    assert len(data) < 10_000
    (tmp_path / "x.png").write_bytes(png(width, height, zlib.decompress(data)))
    with pytest.raises(
        ImageError, match=r"16384x16385: at most 268,435,456 pixels .* OPENCV_IO_MAX_IMAGE_PIXELS"
    ):
        read_image(tmp_path / "x.png")


def test_the_limit_of_pixels_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.png").write_bytes(cv2.imencode(".png", np.zeros((20, 30, 3), np.uint8))[1].tobytes())
    assert read_image(tmp_path / "x.png").shape == (20, 30, 3)
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "599")
    with pytest.raises(ImageError, match="30x20: at most 599 pixels"):
        image_shape(tmp_path / "x.png")
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "many")
    assert most_pixels() == 1 << 28


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\nIEND", b"\xff\xd8" + b"\xff" * 3_000_000, b"\xff\xd8" + b"\xff\xd0" * 1_000_000,
        b"\xff\xd8" + b"\xff\xe0\0\0" * 500_000, b"\xff\xd8\xff\xe1\xff\xffExif\0\0II*\0\xff\xff\xff\xff",
        b"BM", b"GIF89a", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"RIFF", b"P6 ", b"\0\0\0\x0cjP  ", b"8BPS",
        b"%PDF-1.4", b"SIMPLE  =", b"%!PS-Adobe-3.0 EPSF-3.0", b"\x1f\x8b", b"", b"\0" * 100,
    ],
)  # fmt: skip
def test_heads_without_a_picture(tmp_path: Path, content: bytes) -> None:
    """Endless markers, directories beyond the end, and formats of documents, which are not even tried."""
    (tmp_path / "x.jpg").write_bytes(content)
    for read in (read_image, image_shape):
        with pytest.raises(ImageError):
            read(tmp_path / "x.jpg")


def test_formats_that_are_no_pictures_for_a_detector(tmp_path: Path) -> None:
    """Pillow would read these; their decoders had most of its advisories."""
    from PIL import Image

    for form in ("EPS", "PCX", "TGA", "SGI", "IM", "MSP", "XBM", "ICO"):
        buffer = io.BytesIO()
        Image.new("1" if form in ("MSP", "XBM") else "RGB", (32, 32)).save(buffer, form)
        (tmp_path / "x.jpg").write_bytes(buffer.getvalue())
        with pytest.raises(ImageError, match="not an image format"):
            read_image(tmp_path / "x.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are of POSIX")
def test_pipes_and_devices_are_no_pictures_labels_or_lists(tmp_path: Path) -> None:
    for name in ("a.jpg", "list.txt", "x.streams"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("a.jpg", "zero.png"):
        for read in (read_image, image_shape):
            with pytest.raises(ImageError, match="pipe or device"):
                read(tmp_path / name)
    for name in ("list.txt", "x.streams"):
        with pytest.raises(UserError, match="pipe or device"):
            open_source(str(tmp_path / name))
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.zeros((16, 16, 3), np.uint8))
    os.mkfifo(tmp_path / "labels" / "a.txt")
    (tmp_path / "labels" / "b.txt").write_text("0 .5 .5 .5 .5\n", encoding="utf-8")
    index = build_index([tmp_path / "images"], {0: "x"}, cache=False)
    assert [Path(path).name for path in index.paths()] == ["b.png"]
    assert [fault.kind for fault in index.report.faults] == ["unreadable label file"]


def test_labels_of_ten_million_rows() -> None:
    row = b"0 .5 .5 .1 .1\n"
    assert len(parse_labels(row, 1).boxes) == 1
    for content in (row * (MOST_ROWS + 1), b"\n" * (MOST_ROWS + 1), b"x\r" * (MOST_ROWS + 1)):
        with pytest.raises(UserError, match="more than 100,000 rows"):
            parse_labels(content, 1)


def test_lists_of_lists_do_not_multiply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((16, 16, 3), np.uint8))
    (tmp_path / "l0.txt").write_text("a.png\n" * 100, encoding="utf-8")
    for level in range(1, 12):
        (tmp_path / f"l{level}.txt").write_text(f"l{level - 1}.txt\n" * 100, encoding="utf-8")
    assert len(expand(str(tmp_path / "l1.txt"))) == 10_000
    monkeypatch.setattr("utils.data.sources.MOST_FILES", 5000)
    with pytest.raises(UserError, match="names more than 5,000 files"):
        expand(str(tmp_path / f"l{MOST_LISTS - 1}.txt"))
    with pytest.raises(UserError, match="inside one another"):
        expand(str(tmp_path / "l11.txt"))


def test_too_many_streams() -> None:
    with pytest.raises(UserError, match="1,000 streams; at most 256"):
        StreamSource(["0"] * 1000)


# ---- the cached index ----


@pytest.fixture
def indexed(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of two pictures, and the index beside their labels."""
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.zeros((16, 16, 3), np.uint8))
        (tmp_path / "labels" / f"{name}.txt").write_text(
            "0 .5 .5 .5 .5\n0 .1 .1 .4 .1 .3 .6\n", encoding="utf-8"
        )
    build_index([tmp_path / "images"], {0: "x"})
    return tmp_path / "images", next(tmp_path.glob("*.npz"))


FORGERIES = {
    "another file": {
        "path_bytes": lambda a: np.frombuffer(a.tobytes().replace(b"a.png", b"c.png"), np.uint8)
    },
    "offsets beyond": {"offsets": lambda a: a * 1000},
    "offsets before": {"offsets": lambda a: np.array([0, -5, a[-1]])},
    "offsets of no run": {"point_offsets": lambda a: a[:-1]},
    "a class of none": {"boxes": lambda a: a + np.float32([1e6, 0, 0, 0, 0])},
    "a negative class": {"boxes": lambda a: a - np.float32([1, 0, 0, 0, 0])},
    "half a class": {"boxes": lambda a: a + np.float32([0.5, 0, 0, 0, 0])},
    "no number": {"boxes": lambda a: a * np.float32("nan")},
    "boxes outside": {"boxes": lambda a: a + np.float32([0, 9, 0, 0, 0])},
    "other columns": {"boxes": lambda a: a[:, :4]},
    "another dtype": {"boxes": lambda a: a.astype(np.float64)},
    "objects": {"boxes": lambda a: a.astype(object)},
    "texts": {"shapes": lambda a: a.astype(str)},
    "points outside": {"points": lambda a: a + 5},
    "no size": {"shapes": lambda a: a * 0},
    "one number": {"shapes": lambda a: np.array(5)},
}


@pytest.mark.parametrize("kind", FORGERIES)
def test_a_forged_index_is_not_believed(indexed: tuple[Path, Path], kind: str) -> None:
    """A data set can bring one along, with the right key: then it is scanned anew."""
    images, file = indexed
    with np.load(file) as archive:
        arrays = dict(archive)
    assert build_index([images], {0: "x"}).boxes.shape == (4, 5)
    for name, change in FORGERIES[kind].items():
        arrays[name] = change(arrays[name])
    np.savez(file, **arrays)
    index = build_index([images], {0: "x"})
    assert [Path(path).name for path in index.paths()] == ["a.png", "b.png"]
    assert index.boxes.shape == (4, 5) and (index.boxes[:, 0] == 0).all() and np.isfinite(index.boxes).all()


def test_an_index_that_swells(indexed: tuple[Path, Path]) -> None:
    """Compressed members, a header that claims terabytes, and a zip of no directory."""
    images, file = indexed
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez_compressed(file, **arrays)
    assert len(build_index([images], {0: "x"}).boxes) == 4
    claim = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        claim, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 5)}
    )
    np.savez(file, **{name: array for name, array in arrays.items() if name != "boxes"})
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("boxes.npy", claim.getvalue())
    assert len(build_index([images], {0: "x"}).boxes) == 4
    for content in (b"", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\0", b"x" * 100):
        file.write_bytes(content)
        assert len(build_index([images], {0: "x"}).boxes) == 4
    assert set(ARRAYS) <= set(arrays)


@pytest.mark.parametrize(
    "kind", ["claims terabytes", "objects", "another shape", "another dtype", "cut", "empty"]
)
def test_a_damaged_copy_is_made_again(indexed: tuple[Path, Path], kind: str) -> None:
    """An .npy of `--cache disk` beside its picture, with the time that makes it count."""
    images, _ = indexed
    store = DiskStore(build_index([images], {0: "x"}), 32, augment=False)
    expected, copy = store.load(0), store.copy_of(0)
    good, time = copy.read_bytes(), copy.stat().st_mtime_ns
    claim = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        claim, {"descr": "|u1", "fortran_order": False, "shape": (1 << 42, 1, 3)}
    )
    if kind in ("objects", "another shape", "another dtype"):
        other = {
            "objects": expected.astype(object),
            "another shape": expected[:5],
            "another dtype": expected / 2,
        }
        np.save(copy, other[kind], allow_pickle=True)
    else:
        copy.write_bytes({"claims terabytes": claim.getvalue(), "cut": good[:-9], "empty": b""}[kind])
    os.utime(copy, ns=(time, time))
    assert np.array_equal(store.load(0), expected)
    assert copy.read_bytes() == good
